"""The paper's published numbers, from `paper.json`: in % there, shares here.

Source: Allen-Zhu and Li, "Physics of Language Models: Part 3.1", arXiv 2309.14316 v3; `paper.json`
names the figure of each number. For rewritten biographies, celebrities and mixed training the paper
prints less than for its 16 datasets. The mean of the answers is the printed one, which is not
always the mean of the six columns.
"""

import dataclasses
import functools
import json
import pathlib

_PRINTED = json.loads(pathlib.Path(__file__).with_name("paper.json").read_text())

ATTRIBUTES: list[str] = _PRINTED["attributes"]
"""The order of the numbers of a row."""
SOURCE: str = _PRINTED["source"]
SETTING = "100,000 people, 124M parameters, 302M for bioR"
EXPOSURES = 540
"""How often the paper's models read about each person in the 16 datasets (section 3)."""
THE_16 = "bioS"
"""The setting of the 16 datasets."""
LORA_ON_SINGLE = (
    "On single, LoRA leaves most trained questions unanswered in the paper too: 19 to 41 % of the "
    "first tokens are right. Training all weights raises this to 98.9 %, but does not raise the "
    "answers about people held out: 7.5 % (Fig. 2a)."
)

DEPARTURES = (
    "Answers are decoded greedily. The paper decodes with a beam of 4, and reports similar results "
    "without.",
    "The names, values and sentences are this package's own.",
    "At the paper's scale dropout is GPT-2's 0.1, but attention weights are not dropped.",
)
"""Departures from the paper in every configuration."""
CHOSEN = (
    "AdamW's b1 and b2, clipping of gradients, the scale of initial weights, number formats; how "
    "question and answer are joined, one question a row, the loss on the answer only; LoRA on the "
    "input side of the embedding only; the end of text before and after the name in Q-probing, the "
    "statistics of its BatchNorm, and which biographies of a person P-probing reads."
)
"""Choices that the paper leaves open."""


@dataclasses.dataclass(frozen=True)
class Published:
    """The paper's numbers for a dataset. Accuracies are shares, from 0 to 1; unpublished ones are
    missing from the dictionaries, or None.

    Attributes:
      qa: exact match on P_test, by attribute, and `mean`.
      qa_train_first: mean first-token accuracy on P_train after LoRA of rank 8 and 128.
      q_first: Q-probing of the first token, by attribute.
      q_whole: Q-probing of the whole value, by attribute; not for the birth date.
      p_first: P-probing of the first token, by attribute: six positions, None after the statement.
      lora: mean exact match on P_test after LoRA of a rank and a rank of the embedding, `all` where
        the whole matrices are trained; many pairs are unpublished.
    """

    qa: dict[str, float]
    qa_train_first: float | None
    q_first: dict[str, float]
    q_whole: dict[str, float]
    p_first: dict[str, list[float | None]]
    lora: dict[tuple[str, str], float]


def setting(
    rewritten: bool = False, celebrities: str = "", real_text: bool = False, qa_share: float = 0.0
) -> str:
    """The name in `paper.json` of what pretraining reads.

    Args:
      rewritten: another model wrote the biographies (bioR).
      celebrities: the dataset of the celebrities; empty without any.
      real_text: real text is mixed in.
      qa_share: the share of questions mixed in (QA_r).
    """
    parts = ["bioR" if rewritten else "bioS"]
    if celebrities:
        usual = celebrities == _CELEBRITIES[parts[0]]
        parts.append("celebrities" if usual else f"celebrities in {celebrities}")
    parts += ["real text"] * real_text
    parts += [_questions(qa_share)] * bool(qa_share)
    return ", ".join(parts)


_CELEBRITIES = {"bioS": "multi5+permute", "bioR": "multi5"}  # section 6


def _questions(share: float) -> str:
    return f"{100 * share:g} % questions"


@functools.cache
def published(dataset: str, of: str = THE_16) -> Published | None:
    """The paper's numbers for a dataset in a `setting`; None where it has none."""
    row = _PRINTED["datasets"].get(of, {}).get(dataset)
    if row:
        return _read(row)
    source, _, beside = of.partition(", ")
    means = {_questions(share): mean for share, mean in by_qa_share(dataset, source).items()}
    return _read({"qa_mean": 100 * means[beside]}) if beside in means else None


def by_qa_share(dataset: str, source: str = THE_16) -> dict[float, float]:
    """The mean of the answers by the share of questions mixed in (Fig. 10); `source` is bioS or
    bioR. Empty where the paper has none."""
    printed = _PRINTED["by_qa_share"]
    if not (means := printed.get(source, {}).get(dataset)):
        return {}
    return {s / 100: mean / 100 for s, mean in zip(printed["shares"], means, strict=True)}


@functools.cache
def baseline() -> Published:
    """The paper's majority guess: always the commonest answer."""
    return _read(_PRINTED["baseline"])


def _read(row: dict) -> Published:
    trained = row.get("qa_train_first")
    return Published(
        qa=_by_name(("mean",), [row.get("qa_mean")]) | _by_name(ATTRIBUTES, row.get("qa")),
        qa_train_first=None if trained is None else trained / 100,
        q_first=_by_name(ATTRIBUTES, row.get("q_first")),
        q_whole=_by_name(ATTRIBUTES[1:], row.get("q_whole")),
        p_first={
            name: [*(x / 100 for x in cells), *[None] * (6 - len(cells))]
            for name, cells in zip(ATTRIBUTES, row.get("p_first", ()), strict=False)
        },
        lora={(rank, of): mean / 100 for rank, of, mean in row.get("lora", ())},
    )


def _by_name(names, percentages: list[float | None] | None) -> dict[str, float]:
    pairs = zip(names, percentages, strict=True) if percentages else ()
    return {name: x / 100 for name, x in pairs if x is not None}
