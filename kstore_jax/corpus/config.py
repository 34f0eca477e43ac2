"""The configuration of the texts that pretraining reads."""

import dataclasses

from kstore_jax.config.fields import choice, flag, names, number, path, text
from kstore_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Data:
    """Biographies, and windows of other texts mixed in."""

    variant: str = text("multi5+permute")
    """How biographies are written: `single`, `multi5`, `multi5+permute`, ... (Part 3.1, section
    2)."""
    tokenizer: str = path("gpt2")
    """`gpt2`; `bpeN`, trained on these people's biographies; `word`, one token per word; or the
    path of a tokenizer.json."""
    vocabulary: str = choice("full", "full", "compact")
    """`full`: all token ids; `compact`: only those the texts use."""
    celebrity_variant: str = text("multi5+permute")
    """How celebrities' biographies are written."""
    celebrity_share: float = number(0.0, 0.0, 1.0)
    """Share of biography windows about celebrities, below 1; 0: all biographies are shuffled
    together and read once per epoch (the paper leaves the weight open)."""
    marker: bool = flag(False, in_identity="set")
    """Whether a token of its own comes before each biography of the people, and none before those
    of celebrities, which may be junk (Part 3.3, result 12)."""
    qa_share: float = number(0.0, 0.0, 1.0)
    """Share of windows with answered questions about the trained people (QA_r, Part 3.1, section
    3); 0: none."""
    tasks: tuple = names("extraction")
    """Tasks whose questions are mixed in, where `qa_share` is more than 0. A compact vocabulary has
    their tokens either way, so that experiments on several tasks can share a pretrained model."""
    rewritten: str = path("")
    """Folder of `kstore rewrite` whose texts replace the templates' (bioR); empty: none."""
    text: str = path("")
    """Real text to mix in: a .txt or .jsonl file, a folder, `tfds:NAME` or `hf:FOLDER`; empty:
    none."""
    text_share: float = number(0.5, 0.0, 1.0)
    """Share of windows of `text`, where it is set (the paper's WikiBook control: half)."""

    def __post_init__(self):
        if self.celebrity_share >= 1.0:
            raise UserError(
                "celebrity_share: expected less than 1, which leaves windows about the others, "
                f"got {self.celebrity_share}"
            )
        text_share = self.text_share if self.text else 0.0
        if self.qa_share + text_share >= 1.0:
            raise UserError(
                "qa_share: expected to leave a share of biographies beside it and text_share = "
                f"{text_share}, got {self.qa_share}"
            )
