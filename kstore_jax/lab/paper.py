"""The paper's own figures, to stand beside ours: `paper.json`, in % there and shares here.

Source: Allen-Zhu and Li, "Physics of Language Models: Part 3.1", arXiv 2309.14316 v3. Answers are
of Fig. 3 (left), first tokens of trained answers of Fig. 2a and 11 (LoRA of rank 8 and 128),
Q-probing of Fig. 7 (rank 16), P-probing of first tokens of Fig. 5 (rank 2). The mean of the answers
is the one printed there, which is not always the mean of the six columns.
"""

import dataclasses
import functools
import json
import pathlib

from kstore_jax.world.people import ATTRIBUTES

_PRINTED = json.loads(pathlib.Path(__file__).with_name("paper.json").read_text())

SOURCE: str = _PRINTED["source"]
SETTING = "100,000 people, 124M parameters"
EXPOSURES = 540
"""How often each person is read about there, whatever the dataset (section 3)."""
LORA_ON_SINGLE = (
    "On single, LoRA leaves most trained questions open in the paper too: 19 to 41 % of the first "
    "tokens are right. Training all weights makes that 98.9 %, and no more is answered about "
    "people held out, 7.5 % (Fig. 2a)."
)

DEPARTURES = (
    "An answer counts where greedy decoding gives it. The paper decodes with a beam of 4, and "
    "reports similar results without.",
    "The names, values and sentences are this package's own.",
)
"""What is done unlike the paper, whatever the configuration."""
CHOSEN = (
    "AdamW's b1 and b2, clipping of gradients, the scale of initial weights, number formats; how "
    "question and answer are joined, one question a row, the loss on the answer alone; LoRA on "
    "the input side only of the embedding; the end of text before and after the name in "
    "Q-probing, the statistics of its BatchNorm, and which biographies of a person P-probing reads."
)
"""What the paper does not tell, and this package had to choose."""


@dataclasses.dataclass(frozen=True)
class Published:
    """What the paper found for one of its 16 datasets. Accuracies are shares, from 0 to 1.

    Attributes:
      qa: exact match on P_test, by attribute, and `mean`.
      qa_train_first: mean first-token accuracy on P_train after LoRA of rank 8 and 128, None where
        it prints none.
      q_first: Q-probing of the first token, by attribute.
      q_whole: Q-probing of the whole value, by attribute; not asked for the birth date.
      p_first: P-probing of the first token, by attribute: six positions, None where not asked.
      lora: mean exact match on P_test after LoRA of a rank and a rank of the embedding, `all` where
        the matrices themselves are trained; of many pairs it prints none.
    """

    qa: dict[str, float]
    qa_train_first: float | None
    q_first: dict[str, float]
    q_whole: dict[str, float]
    p_first: dict[str, list[float | None]]
    lora: dict[tuple[str, str], float]


@functools.cache
def published(dataset: str) -> Published | None:
    """What the paper has for a dataset, None where it has no such one."""
    row = _PRINTED["datasets"].get(dataset)
    return row and _read(row)


@functools.cache
def baseline() -> Published:
    """The paper's majority guess: always the commonest answer."""
    return _read(_PRINTED["baseline"])


def _read(row: dict) -> Published:
    answers = [row["qa_mean"], *row["qa"]]
    trained = row.get("qa_train_first")
    return Published(
        qa=_by_name(("mean", *ATTRIBUTES), answers),
        qa_train_first=None if trained is None else trained / 100,
        q_first=_by_name(ATTRIBUTES, row["q_first"]),
        q_whole=_by_name(ATTRIBUTES[1:], row["q_whole"]),
        p_first={
            name: [*(x / 100 for x in cells), *[None] * (6 - len(cells))]
            for name, cells in zip(ATTRIBUTES, row.get("p_first", ()), strict=False)
        },
        lora={(rank, of): mean / 100 for rank, of, mean in row.get("lora", ())},
    )


def _by_name(names, percentages: list[float]) -> dict[str, float]:
    return {name: x / 100 for name, x in zip(names, percentages, strict=True)}
