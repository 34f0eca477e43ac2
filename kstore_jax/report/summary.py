"""The results of a run in words."""

import dataclasses
import json
from collections.abc import Sequence

from kstore_jax.charts.drawing import percent
from kstore_jax.charts.nouns import plural, with_noun
from kstore_jax.report import paper
from kstore_jax.report.groups import ANSWERS, Group, in_words
from kstore_jax.world.biographies import Variant

LEARNED = 0.95
"""Share of attribute values that a model has to recite before its answers say anything about its
stored knowledge (the paper's models are above 0.99)."""
ANSWERS_TRAINED = 0.9
"""Accuracy on the trained questions at which a finetuning works. One model that reaches it speaks
for all with that finetuning: how many answers LoRA can teach depends on the pretraining too
(`paper.LORA_ON_SINGLE`)."""
CONTRAST = 0.2
"""Smallest difference of held-out accuracy that counts as a contrast."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The numbers in a sentence or two, the conclusion, and its caveats."""

    headline: str
    verdict: str = ""
    caveats: tuple[str, ...] = ()


def summarise(groups: Sequence[Group]) -> Summary:
    """The summary of a run; it claims no more than the numbers show."""
    if not (groups := [group for group in groups if group.has("recall", "qa")]):
        return Summary("What this run measured")
    learned = [group for group in groups if group.recall >= LEARNED]
    if not learned:
        return Summary(_too_short(groups))
    own = not any(group.bundled for group in groups)
    caveats = []
    if missed := [group for group in groups if group not in learned]:
        each = ", ".join(f"{g.label} {percent(g.recall)}" for g in missed)
        caveats.append(
            f"Left out of this comparison, because trained too short to recite "
            f"{percent(LEARNED)} of the attribute values of their own biographies: {each}."
        )
    caveats += _finetuning_in_doubt(learned)
    headline = _alone(learned[0]) if len(learned) == 1 else _compared(learned)
    headline = _own_facts(learned) if own else headline
    return Summary(headline, "" if caveats else _verdict(learned), tuple(caveats))


def _finetuning_in_doubt(learned: Sequence[Group]) -> list[str]:
    """A caveat where no model shows that the finetuning works, or none with the same settings."""
    untrained = [group for group in learned if group.trained_answers < ANSWERS_TRAINED]
    settings = {json.dumps(group.config["finetune"], sort_keys=True) for group in learned}
    if not untrained or (len(untrained) < len(learned) and len(settings) == 1):
        return []
    each = ", ".join(f"{g.label} {percent(g.trained_answers)}" for g in untrained)
    doubt = (
        f"Not even all trained questions are answered ({each}): low held-out accuracy "
        "may come from the finetuning, not the pretraining."
    )
    cited = any(group.dataset == "single" and group.bundled for group in untrained)
    return [f"{doubt} {paper.LORA_ON_SINGLE}" if cited else doubt]


def _too_short(groups: Sequence[Group]) -> str:
    recalls = _range([group.recall for group in groups])
    who = "The model recites" if len(groups) == 1 else f"The {in_words(len(groups))} models recite"
    return (
        f"This run is too short to show the effect. {who} {recalls} of the attribute values of "
        f"{'its' if len(groups) == 1 else 'their'} own biographies; below {percent(LEARNED)}, "
        "missing answers say nothing about stored knowledge. More pretraining steps are needed."
    )


def _alone(group: Group) -> str:
    return (
        f"The model that read {_reading(group)} recites {percent(group.recall)} of "
        "the attribute values it read. Asked about people whose questions were never trained, it "
        f"answers {percent(group.answers)}, where always guessing the commonest answer "
        f"gives {percent(group.guess)}."
    )


def _compared(learned: Sequence[Group]) -> str:
    recalls = [group.recall for group in learned]
    all_ = "Both models" if len(learned) == 2 else f"All {in_words(len(learned))} models"
    recite = f"{all_} recite the biographies ({_list_or_range(recalls)} of attribute values)."
    asked = "Asked about people whose questions were never trained,"
    worst, best = _extremes(learned)
    low, high = worst.answers, best.answers
    if not _contrast(worst, best):
        guess = percent(worst.guess)
        return (
            f"{recite} {asked} they answer {_range([low, high])}: this run shows no clear contrast "
            f"between them. Always guessing the commonest answer gives {guess}."
        )
    least, most = (" (the least)", " (the most)") if len(learned) > 2 else ("", "")
    return (
        f"{recite} {asked} the one that read {_reading(worst)} answers {percent(low)}{least}; "
        f"the one that read {_reading(best)} answers {percent(high)}{most}."
    )


def _own_facts(learned: Sequence[Group]) -> str:
    """What models of a world of one's own recite and answer."""
    first, *others = learned
    sentences = [
        f"Trained on {_texts(first)}, your model recites {percent(first.recall)} and answers "
        f"{percent(first.answers)} about {plural(first.noun)} it was never questioned on"
    ]
    for group in others:
        recites = "" if group.recall > 0.99 else f"recites {percent(group.recall)}, answers "
        sentences.append(f"with {_texts(group)} {recites}{percent(group.answers)}")
    guess = f"Always guessing the commonest answer gives {percent(first.guess)}."
    return f"{'; '.join(sentences)}. {guess}"


def _texts(group: Group) -> str:
    """What a model read about each row of a table, in words."""
    variant, beside = Variant.parse(group.dataset), group.rows[0].mixed
    count = variant.biographies_per_person
    shuffled = "shuffled " * (variant.order == "permuted")
    kind = "rewritten text" if beside.get("rewritten") else "wording" if count > 1 else "text"
    texts = f"{in_words(count)} {shuffled}{kind}{'s' * (count > 1)}"
    texts += with_noun(" a person", group.noun)
    if share := beside.get("qa_share"):
        texts += f" and questions about half of them ({percent(share)} of what it read)"
    return texts


def _extremes(learned: Sequence[Group]) -> tuple[Group, Group]:
    """The groups with the fewest and the most answers about people held out."""
    by_answers = sorted(learned, key=lambda group: group.answers)
    return by_answers[0], by_answers[-1]


def _verdict(learned: Sequence[Group]) -> str:
    worst, best = _extremes(learned)
    clear = worst.answers < 0.25 and best.answers > 0.6
    if not (clear and _contrast(worst, best) and _same_otherwise(learned)):
        return ""
    return (
        f"{'Both' if len(learned) == 2 else 'All of them'} store the facts. How the facts were "
        "written in pretraining decides whether the model can be asked for them."
    )


def _same_otherwise(groups: Sequence[Group]) -> bool:
    """Whether the groups differ in the dataset alone."""
    return len({str(sorted(group.settings.items())) for group in groups}) == 1


def _contrast(worst: Group, best: Group) -> bool:
    apart = best.ends(ANSWERS)[0] > worst.ends(ANSWERS)[1]
    return apart and best.answers - worst.answers >= CONTRAST


def _reading(group: Group) -> str:
    extra = group.label.removeprefix(group.dataset).strip()
    return f"{group.wording} {extra}".strip()


def _range(shares: Sequence[float]) -> str:
    """`3.1 % to 4.0 %`, or one number where both ends look the same."""
    return " to ".join(dict.fromkeys([percent(min(shares)), percent(max(shares))]))


def _list_or_range(shares: Sequence[float]) -> str:
    """Two shares in their order, or the range of more."""
    if len(shares) > 2:
        return _range(shares)
    return " / ".join(dict.fromkeys(percent(share) for share in shares))
