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
from collections.abc import Mapping
from typing import Any

from kstore_jax.model.config import SIZES, STYLES

_PRINTED = json.loads(pathlib.Path(__file__).with_name("paper.json").read_text(encoding="utf-8"))

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
    "without. Our beam search (readouts.qa.beam_size) adds up log-likelihoods and does not divide "
    "by the length, as Hugging Face does by default.",
    "A row of finetune.grid is chosen by answers about people of P_train who are held back. The "
    "paper shows the row that answers most about P_test.",
    "The names, values and sentences are this package's own. A text of single has 67 tokens of "
    "GPT-2, the paper's 73, so its 540 exposures are fewer steps: 74,760 for the paper's 80,000.",
    "+fullname replaces the pronoun that refers to the person in each sentence. About 35 % of the "
    "sentences keep another one, as in the paper's 'his' or 'their'; the paper replaces all.",
)
"""Departures from the paper in every configuration."""
CHOSEN = (
    "Dropout: the paper does not give it. At the paper's scale ours is GPT-2's 0.1, except that "
    "attention weights are not dropped, because fast attention cannot drop them.",
    "AdamW's b1 and b2, clipping of gradients, the scale of initial weights, number formats. "
    "Weight decay acts on matrices only, not on biases and gains.",
    "P_train: of every two people, a random bit sends one to each half. Probes are trained on it "
    "and scored on P_test, as answers are.",
    "How question and answer are joined, one question a row in finetuning, the loss on the answer "
    "only. In mixed training a window of questions is trained whole, questions and answers.",
    "LoRA acts on the input side of the embedding only.",
    "Celebrities: their texts are shuffled among the others, or have the share of windows that "
    "data.celebrity_share gives.",
    "Rewritten biographies: a text states a fact if it has all words of the value in order; case "
    "and punctuation do not count, and states and months may be abbreviated or spelled out.",
    "The end of text before and after the name in Q-probing, the statistics of its BatchNorm, and "
    "which biographies of a person P-probing reads.",
)
"""Choices that the paper leaves open."""


@dataclasses.dataclass(frozen=True)
class Published:
    """The paper's numbers for a dataset. Accuracies are shares, from 0 to 1; unpublished ones are
    missing from the dictionaries, or None.

    Attributes:
      qa: exact match on P_test, by attribute, and `mean`.
      q_first: Q-probing of the first token, by attribute.
      q_whole: Q-probing of the whole value, by attribute; not for the birth date.
      p_first: P-probing of the first token, by attribute: six positions, None after the statement.
      p_whole: the same of the whole value; not for the birth date.
      lora: mean exact match on P_test after LoRA of a rank and a rank of the embedding, `all` where
        the whole matrices are trained; many pairs are unpublished.
      lora_train_first: mean first-token accuracy on P_train, likewise.
      qa_train_first: that of the ranks of `qa`.
    """

    qa: dict[str, float]
    q_first: dict[str, float]
    q_whole: dict[str, float]
    p_first: dict[str, list[float | None]]
    p_whole: dict[str, list[float | None]]
    lora: dict[tuple[str, str], float]
    lora_train_first: dict[tuple[str, str], float]
    qa_train_first: float | None = None


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


def published(dataset: str, of: str, fields: Mapping[str, Any]) -> Published | None:
    """The paper's numbers that belong to an experiment: those of the same dataset, mixture, kind of
    model, way of finetuning and probe. None where there are none.

    A model narrower than the paper's has other ranks and, with few people, other probes. Settings
    of our small recipes count as the paper's there (`stand_ins` of `paper.json`).

    Args:
      of: the `setting`.
      fields: the configuration by dotted names, with the fields of the chosen finetuning.
    """
    size = next((size for size, shape in SIZES.items() if _agrees(shape, "model.", fields)), None)
    source, *beside = of.split(", ")
    if size == _LARGEST:
        of = ", ".join([source, _LARGEST, *beside])
    elif size not in (None, _PRINTED["models"][source]):
        return None
    numbers = printed(dataset, of) if is_gpt2(fields) else None
    if numbers is None:
        return None
    fields = {**fields, **stand_ins(fields)}
    conditions = {name: _holds(name, fields) for name in _PRINTED["conditions"]}
    q_probe = conditions["q_probe"] and conditions[f"q_probe, {source}"]
    numbers = dataclasses.replace(
        numbers,
        **({} if q_probe else _other_probe(dataset, of, fields, conditions["q_probe"])),
        **({} if conditions["p_probe"] else {"p_first": {}, "p_whole": {}}),
    )
    if not fields["finetune.steps"]:
        return numbers  # questions were mixed in
    ranks = _ranks(fields)
    if not (conditions["qa"] and numbers.qa):
        numbers = dataclasses.replace(numbers, qa=_mean(numbers.lora.get(ranks)))
    return dataclasses.replace(numbers, qa_train_first=numbers.lora_train_first.get(ranks))


def stand_ins(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's settings that other ones of these fields stand for, in a model narrower than the
    paper's; empty for others."""
    if fields["model.width"] >= SIZES["124M"]["width"]:
        return {}
    pairs = [(field, dict(values)) for field, values in _PRINTED["stand_ins"].items()]
    return {field: of[fields[field]] for field, of in pairs if fields[field] in of}


_LARGEST = "682M"
_GPT2 = {**STYLES["gpt2-rotary"], "direction": "causal", "architecture": "transformer"}


def is_gpt2(fields: Mapping[str, Any]) -> bool:
    """Whether a model has the layers of the paper's GPT-2, whatever its size."""
    return _agrees(_GPT2, "model.", fields)


def _agrees(wanted: Mapping[str, Any], prefix: str, fields: Mapping[str, Any]) -> bool:
    return all(fields[prefix + name] == value for name, value in wanted.items())


def _holds(condition: str, fields: Mapping[str, Any]) -> bool:
    wanted = _PRINTED["conditions"][condition].items()
    return all(fields[field] in values for field, values in wanted)


def _ranks(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The ranks of a finetuning as in `Published.lora`."""
    if fields["finetune.method"] == "full":
        return "all", "all"
    ranks = (fields["finetune.rank"], fields["finetune.embedding_rank"])
    rank, embedding_rank = ("all" if rank < 0 else str(rank) for rank in ranks)
    return rank, embedding_rank


def _other_probe(dataset: str, of: str, fields: Mapping[str, Any], like: bool) -> dict[str, Any]:
    """The paper's Q-probing with another rank; nothing where it has none, or where the probe is
    `like` the paper's not even apart from its rank."""
    row = _PRINTED["datasets"].get(of, {}).get(dataset, {}) if like else {}
    other = _read(row.get(f"q_rank_{fields['readouts.q_probe.embedding_rank']}", {}))
    return {"q_first": other.q_first, "q_whole": other.q_whole}


def _mean(share: float | None) -> dict[str, float]:
    return {} if share is None else {"mean": share}


@functools.cache
def printed(dataset: str, of: str = THE_16) -> Published | None:
    """All of the paper's numbers for a dataset in a `setting`; None where it has none."""
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
    return Published(
        qa=_by_name(("mean",), [row.get("qa_mean")]) | _by_name(ATTRIBUTES, row.get("qa")),
        q_first=_by_name(ATTRIBUTES, row.get("q_first")),
        q_whole=_by_name(ATTRIBUTES[1:], row.get("q_whole")),
        p_first=_by_position(ATTRIBUTES, row.get("p_first")),
        p_whole=_by_position(ATTRIBUTES[1:], row.get("p_whole")),
        lora={(rank, of): mean / 100 for rank, of, mean, _ in row.get("lora", ())},
        lora_train_first={(rank, of): first / 100 for rank, of, _, first in row.get("lora", ())},
    )


def _by_position(names, printed_cells: list | None) -> dict[str, list[float | None]]:
    pairs = zip(names, printed_cells, strict=True) if printed_cells else ()
    return {name: [*(x / 100 for x in cells), *[None] * (6 - len(cells))] for name, cells in pairs}


def _by_name(names, percentages: list[float | None] | None) -> dict[str, float]:
    pairs = zip(names, percentages, strict=True) if percentages else ()
    return {name: x / 100 for name, x in pairs if x is not None}
