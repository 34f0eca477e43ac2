"""The configuration of the text that pretraining reads."""

import dataclasses

from kstore_jax.config.fields import choice, number, text
from kstore_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Data:
    """Biographies, and other windows mixed in with them."""

    variant: str = text("multi5+permute")
    """How biographies are written (Part 3.1, section 2)."""
    tokenizer: str = text("gpt2")
    """`gpt2`; `bpeN` or `word`, trained on these people's texts; or a tokenizer.json."""
    vocabulary: str = choice("full", "full", "compact")
    """All token ids, or `compact`: only those the texts use."""
    celebrity_variant: str = text("multi5+permute")
    """How celebrities' biographies are written."""
    celebrity_share: float = number(0.0, 0.0, 1.0)
    """Share of biography windows about celebrities; 0 shuffles all biographies together, each once
    an epoch (the paper leaves the weight open)."""
    qa_share: float = number(0.0, 0.0, 1.0)
    """Share of windows with answered questions about the trained people (QA_r, Part 3.1, section
    3)."""
    rewritten: str = text("")
    """Folder of `kstore rewrite` whose texts replace the templates' (bioR); empty: none."""
    text: str = text("")
    """Real text to mix in: a file, folder or data set; empty: none."""
    text_share: float = number(0.5, 0.0, 1.0)
    """Share of real-text windows (the paper's WikiBook control: half)."""

    def __post_init__(self):
        if self.celebrity_share >= 1.0:
            raise UserError(
                "celebrity_share: expected less than 1, or nobody else is read about, "
                f"got {self.celebrity_share}"
            )
        if self.qa_share + (self.text_share if self.text else 0.0) >= 1.0:
            raise UserError(
                "qa_share: expected to leave a share of biographies beside it and text_share = "
                f"{self.text_share if self.text else 0.0}, got {self.qa_share}"
            )
