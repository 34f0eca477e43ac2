"""Groups the rows of `results.json` over seeds."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from kstore_jax.charts.nouns import with_noun
from kstore_jax.config.fields import flatten
from kstore_jax.errors import UserError
from kstore_jax.pipeline.row import Row, own_settings
from kstore_jax.readouts.measured import Measured, Spread, means, values_at
from kstore_jax.report import paper
from kstore_jax.world.biographies import Variant

RECALL = ("recall", "whole", "mean")
_QA = ("qa", "extraction")
ANSWERS = (*_QA, "test", "exact", "mean")
TRAINED_ANSWERS = (*_QA, "train", "exact", "mean")
HELD_BACK_ANSWERS = (*_QA, "held_back", "exact", "mean")
"""Paths to numbers in the readouts of a row."""
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that differ in the seed alone.

    Attributes:
      label: the dataset, and the name or settings that distinguish this group from others of it.
      dataset: the variant, as the paper writes it.
      rows: one a seed.
    """

    label: str
    dataset: str
    rows: tuple[Row, ...]

    def measured(self, name: str, which: int = 0) -> Measured | None:
        """The results of a readout; None where a row lacks it.

        Args:
          which: number of the group on the page.
        """
        if any(name not in row.readouts for row in self.rows):
            return None
        published = self.published
        trained = [training_of(row) for row in self.rows if row.evaluations]
        return Measured(
            which=which,
            label=self.label,
            wording=self.wording,
            seeds=tuple(row.seed for row in self.rows),
            results=tuple(row.readouts[name] for row in self.rows),
            intervals=tuple(row.intervals.get(name, {}) for row in self.rows),
            training=tuple(trained) if len(trained) == len(self.rows) else (),
            labels=self.labels,
            bundled=self.bundled,
            noun=self.noun,
            published=vars(published) | {"q_guess": paper.baseline().q_first} if published else {},
        )

    @property
    def labels(self) -> dict[str, str]:
        """The label of each attribute by name."""
        return self.rows[0].attributes

    @property
    def noun(self) -> str:
        """What the world is about."""
        return self.rows[0].noun

    @property
    def config(self) -> dict:
        """The configuration of the first row; the others differ in the seeds."""
        return self.rows[0].config

    @property
    def settings(self) -> dict[str, str]:
        """Every setting except the seeds and the dataset, as text."""
        return settings_of(self.rows[0])

    def share(self, path: tuple[str | int, ...]) -> float:
        """The mean over the seeds of a number of the readouts, at a path of keys."""
        return means(values_at(tuple(row.readouts for row in self.rows), path))

    def shares(self, *path: str) -> dict[str, float]:
        """The same of each number in a dictionary at a path of keys."""
        return means(values_at(tuple(row.readouts for row in self.rows), path))

    def spread(self, path: tuple[str | int, ...]) -> Spread | None:
        """How sure a share of the readouts is, at a path of keys; None where that is not known."""
        measured = self.measured(str(path[0]))
        return measured.spread(*path[1:]) if measured else None

    def ends(self, path: tuple[str | int, ...]) -> tuple[float, float]:
        """The ends of the spread of a share; the share itself where that is not known."""
        spread = self.spread(path)
        return (spread.low, spread.high) if spread else (self.share(path), self.share(path))

    def has(self, *names: str) -> bool:
        """Whether every row has these readouts; of `qa`, the six questions."""
        return all(has(row, name) for name in names for row in self.rows)

    @property
    def recall(self) -> float:
        """Mean share of values predicted whole in the biographies (`recall`)."""
        return self.share(RECALL)

    @property
    def answers(self) -> float:
        """Mean share of questions about people held out that are answered (`qa`)."""
        return self.share(ANSWERS)

    @property
    def trained_answers(self) -> float:
        """Mean share of questions about trained people that are answered (`qa`)."""
        return self.share(TRAINED_ANSWERS)

    @property
    def guess(self) -> float:
        """Mean share of answers of a majority guess (`qa`)."""
        return self.share((*_QA, "baseline", "mean"))

    @property
    def published(self) -> paper.Published | None:
        """The paper's numbers that belong to every row; None where there are none."""
        if not self.as_in_the_paper:
            return None
        of_rows = [
            paper.published(
                self.dataset, self.setting, flatten({**row.config, "finetune": row.finetuning})
            )
            for row in self.rows
        ]
        return of_rows[0] if all(numbers == of_rows[0] for numbers in of_rows) else None

    @property
    def bundled(self) -> bool:
        """Whether its people are of the bundled world, the paper's."""
        return set(self.labels) == set(paper.ATTRIBUTES) and not self.config["world"]["folder"]

    @property
    def as_in_the_paper(self) -> bool:
        """Whether this is a GPT-2 in the bundled world that was finetuned or read questions."""
        fields = flatten(self.config)
        mixed, finetuned = fields["data.qa_share"] > 0, fields["finetune.steps"] > 0
        return self.bundled and paper.is_gpt2(fields) and mixed != finetuned

    @property
    def setting(self) -> str:
        """The paper's name for what pretraining read."""
        beside = self.rows[0].mixed
        return paper.setting(
            rewritten="rewritten" in beside,
            celebrities=beside.get("celebrity_variant", ""),
            real_text="text" in beside,
            qa_share=beside.get("qa_share", 0.0),
        )

    @property
    def wording(self) -> str:
        """The biographies of a person in words."""
        try:
            variant = Variant.parse(self.dataset)
        except UserError:
            return f"the dataset {self.dataset}"
        return with_noun(_wording(variant, len(self.labels)), self.noun)


def _wording(variant: Variant, attributes: int) -> str:
    per_person = variant.biographies_per_person
    count, plural = in_words(per_person), "s" * (per_person > 1)
    shuffled = "shuffled " * (variant.order == "permuted")
    if variant.fresh:
        text = f"in every pass a new {shuffled}wording of the text about each person"
    elif variant.reworded:
        text = f"{count} {shuffled}wording{plural} of the text about each person"
    elif variant.biographies_per_person > 1:
        text = f"one text about each person in {count} sentence orders"
    else:
        text = f"one {shuffled}text about each person"
    if variant.order == "couples":
        text += " with its sentences shuffled in pairs"
    if variant.fullname:
        text += " with the full name in every sentence"
    if variant.name_at == attributes:
        text += " with the name only at the end"
    elif variant.name_at:
        sentences = "sentence" + "s" * (variant.name_at > 1)
        text += f" with the name only after {in_words(variant.name_at)} {sentences}"
    return text


def training_of(row: Row) -> dict:
    """What readouts measured while a row was pretrained, as in `Measured.training`."""
    return {"lines": row.evaluations, "exposures": exposures_a_step(row.evaluations)}


def exposures_a_step(lines: Sequence[dict]) -> float:
    """The exposures that each step of pretraining adds, by the last of its lines."""
    return lines[-1]["exposures"] / lines[-1]["step"]


def has(row: Row, name: str) -> bool:
    """Whether a row has a readout with a result; of `qa`, the six questions."""
    return bool(row.readouts.get(name)) and (name != "qa" or "extraction" in row.readouts["qa"])


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The rows without those whose configuration an earlier one has."""
    seen: list[dict] = []
    return [row for row in rows if not (row.config in seen or seen.append(row.config))]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Groups rows that differ in the seed alone, in order of appearance."""
    settings = [settings_of(row) for row in rows]
    by_settings: dict[tuple, list[int]] = {}
    for i, (row, of_row) in enumerate(zip(rows, settings, strict=True)):
        by_settings.setdefault((row.dataset, *sorted(of_row.items())), []).append(i)
    numbers = list(by_settings.values())
    return [
        Group(
            label=_label(rows[members[0]].dataset, members, numbers, rows, settings),
            dataset=rows[members[0]].dataset,
            rows=tuple(rows[i] for i in members),
        )
        for members in numbers
    ]


def settings_of(row: Row) -> dict[str, str]:
    """Every setting except the seeds and the dataset, as text."""
    own = {"seed", "world.seed", "data.variant"}
    settings = own_settings(row.config)
    return {name: str(value) for name, value in settings.items() if name not in own}


def _label(
    dataset: str,
    members: Sequence[int],
    numbers: Sequence[Sequence[int]],
    rows: Sequence[Row],
    settings: Sequence[dict[str, str]],
) -> str:
    """The dataset, and the name that all rows of the group share. The settings that distinguish the
    group are added where there is no such name, or where another group has it too.

    Args:
      members: the numbers of the group's rows.
      numbers: those of every group.
    """
    rivals = [of_group[0] for of_group in numbers if rows[of_group[0]].dataset == dataset]
    name, *other_names = {rows[i].name for i in members}
    parts = [] if other_names or not name else [name]
    if not parts or sum(rows[i].name == name for i in rivals) > 1:
        parts += differing(settings[members[0]], [settings[i] for i in rivals])
    return with_settings(dataset, parts)


def differing(mine: Mapping[str, str], all_: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings of `mine` that are not equal in all, as text."""
    names = [name for name in mine if len({one.get(name) for one in all_}) > 1]
    return [f"{name.removeprefix('world.')}={_cut_short(mine[name])}" for name in names]


def _cut_short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def with_settings(dataset: str, settings: Sequence[str]) -> str:
    """`dataset (setting, …)`: a dataset with the settings that distinguish it."""
    return f"{dataset} ({', '.join(settings)})" if settings else dataset


def in_words(number: int) -> str:
    """A number in words, up to ten."""
    return _NUMBERS[number - 1] if number <= len(_NUMBERS) else str(number)
