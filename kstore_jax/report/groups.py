"""Reads and checks `results.json`, and groups its rows over seeds."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kstore_jax.config.fields import flatten, identity
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.report import paper
from kstore_jax.world.biographies import Variant
from kstore_jax.world.people import ATTRIBUTES

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows that differ in nothing but the seed.

    Attributes:
      label: the dataset, and the name or settings that distinguish this group from others of it.
      dataset: the variant, as the paper writes it.
      rows: rows of `results.json`, one a seed.
      configs: the configuration of each row; empty where unknown.
      stages: the folder of the stages of each row; empty where unknown.
    """

    label: str
    dataset: str
    rows: tuple[dict, ...]
    configs: tuple[Experiment, ...]
    stages: tuple[pathlib.Path, ...] = ()

    def each(self, *path: str | int) -> list:
        """The value of each row at a path of keys."""
        values: list = list(self.rows)
        for key in path:
            values = [value[key] for value in values]
        return values

    def mean(self, *path: str | int) -> float:
        """The mean over the seeds of a number that every row has."""
        return _means(self.each(*path))

    def means(self, *path: str) -> dict:
        """The mean over the seeds of every number in nested dictionaries and lists; None where no
        seed has a value."""
        return _means(self.each(*path))

    @property
    def published(self) -> paper.Published | None:
        """The paper's numbers; None where it has no such dataset, mixture or model."""
        return paper.published(self.dataset, self.setting) if self.as_in_the_paper else None

    @property
    def as_in_the_paper(self) -> bool:
        """Whether this is a GPT-2, finetuned unless questions were mixed in."""
        causal = self.rows[0].get("direction", "causal") == "causal"
        return causal and all(
            config.model.activation == "gelu"  # Llama's is another
            and bool(config.data.qa_share) != bool(config.finetune.steps)
            for config in self.configs
        )

    @property
    def setting(self) -> str:
        """The paper's name for what pretraining read."""
        beside = mixed(self.rows[0])
        return paper.setting(
            rewritten="rewritten" in beside,
            celebrities=beside.get("celebrity_variant", ""),
            real_text="text" in beside,
            qa_share=beside.get("qa_share", 0.0),
        )

    def ceiling(self, probe: str) -> dict | None:
        """The highest accuracy of a linear probe by kind and attribute; None where unknown."""
        recorded = all(row[probe].get("ceiling") for row in self.rows)
        return self.means(probe, "ceiling") if recorded else None

    @property
    def reworded(self) -> list[dict]:
        """Answers about people held out in each untrained wording; empty where unknown."""
        counts = {len(row.get("qa_wordings", ())) for row in self.rows}
        return _means(self.each("qa_wordings")) if len(counts) == 1 and counts != {0} else []

    @property
    def wording(self) -> str:
        """The biographies of a person in words."""
        try:
            variant = Variant.parse(self.dataset)
        except UserError:
            return f"the dataset {self.dataset}"
        return _wording(variant)


def mixed(row: dict) -> dict:
    """What pretraining read besides the people's biographies; older rows do not have it."""
    return row.get("mixed", {})


def _means(values: list) -> Any:
    if isinstance(values[0], dict):
        return {key: _means([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [_means(list(cells)) for cells in zip(*values, strict=True)]
    numbers = [value for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def _wording(variant: Variant) -> str:
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
        text += " with its sentences shuffled as three pairs"
    if variant.fullname:
        text += " with the full name in every sentence"
    if variant.name_at == len(ATTRIBUTES):
        text += " with the name only at the end"
    elif variant.name_at:
        sentences = "sentence" + "s" * (variant.name_at > 1)
        text += f" with the name only after {in_words(variant.name_at)} {sentences}"
    return text


@dataclasses.dataclass(frozen=True)
class Results:
    """The content of `results.json`: rows, the folder of their stages, the provenance of these, and
    the names of rows that failed; and the configuration of each row, None where `config.json` lacks
    it."""

    rows: list[dict]
    configs: list[Experiment] | None
    stages: pathlib.Path
    provenances: list[dict]
    failed: tuple[str, ...] = ()


def read_results(run: pathlib.Path) -> Results:
    """`results.json`, checked; its stages are in `run` where it does not say otherwise.

    Raises:
      UserError: the file is missing.
      DamagedFileError: it is not as `sweep.run` wrote it.
    """
    path = run / "results.json"
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no results here; run `kstore run` first") from None
    except UnicodeDecodeError:
        raise DamagedFileError(
            f"{path}: damaged (not text); `kstore run` writes it again"
        ) from None
    try:
        content = json.loads(text)
        for row in content["rows"]:
            _check(row)
        stages = run / content.get("stages", "stages")
        rows = list(content["rows"])
        made = content.get("provenance") or []
        made = [made] if isinstance(made, dict) else made  # in results of older versions
        provenances = [dict(one) for one in made]
        failed = {int(row["row"]): str(row["name"]) for row in content.get("failed", ())}
        configs = _read_configs(run, rows, failed)
        names = tuple(f"row {i} ({name})" for i, name in failed.items())
        results = Results(rows, configs, stages, provenances, names)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise DamagedFileError(f"{path}: damaged ({what}); `kstore run` writes it again") from None
    if not results.rows:
        raise UserError(f"{path}: no results here; run `kstore run` first")
    return results


def _check(row: dict) -> None:
    _text("name", row.get("name", ""))
    _text("dataset", row["dataset"])
    for name in ("seed", "people", "parameters", "vocabulary", "exposures", "seconds"):
        _number(name, row[name])
    for name, value in row["seconds_by_stage"].items():
        _number(f"seconds_by_stage.{name}", value)
    for name in ("bio_recall", "qa_train"):
        _share(name, row[name])
    _share("goodput", row.get("goodput", 0.0))
    for table in ("qa", "qa_baseline", "bio_recall_by_attribute"):
        for name in ("mean", *ATTRIBUTES):
            _share(f"{table}.{name}", row[table][name])
    for half in ("train", "test"):
        for name in ("mean", *ATTRIBUTES):
            _share(f"qa_first.{half}.{name}", row["qa_first"][half][name])
    for hidden, shares in row.get("bio_recall_hidden", {}).items():
        for name in ("mean", *ATTRIBUTES):
            _share(f"bio_recall_hidden.{hidden}.{name}", shares[name])
    for wording in row.get("qa_wordings", ()):
        for name in ("mean", *ATTRIBUTES):
            _share(f"qa_wordings.{name}", wording[name])
    beside = mixed(row)
    if "rewritten" in beside:
        _text("mixed.rewritten", beside["rewritten"])
    if "celebrities" in beside:
        _number("mixed.celebrities", beside["celebrities"])
        _share("mixed.celebrity_share", beside["celebrity_share"])
        _text("mixed.celebrity_variant", beside["celebrity_variant"])
    if "text" in beside:
        _share("mixed.text_share", beside["text_share"])
    _share("mixed.qa_share", beside.get("qa_share", 0.0))
    for code in row.get("code", ()):
        _text("code", code)
    for probe, positions in (("p_probe", 6), ("q_probe", 1)):
        for kind, names in (("first", ATTRIBUTES), ("whole", row[probe]["whole"])):
            for name in names:
                _share(f"{probe}.baseline", row[probe]["baseline"][kind][name])
                if row[probe].get("ceiling"):
                    _share(f"{probe}.ceiling", row[probe]["ceiling"][kind][name])
                cells = row[probe][kind][name]
                if len(cells) != positions:
                    raise ValueError(f"{probe}.{kind}.{name}: expected {positions} positions")
                for cell in filter(lambda cell: cell is not None, cells):
                    _share(f"{probe}.{kind}.{name}", cell)


def _text(name: str, value) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {value!r}")


def _number(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, got {value!r}")


def _share(name: str, value) -> None:
    _number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {value!r}")


def _read_configs(
    run: pathlib.Path, rows: Sequence[dict], failed: Collection[int]
) -> list[Experiment] | None:
    """The configuration of each row that did not fail; None where `config.json` is missing or has
    other rows."""
    try:
        given = json.loads((run / "config.json").read_text())["rows"]
        configs = [parse(row) for i, row in enumerate(given) if i not in failed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
    names = [(config.data.variant, config.seed) for config in configs]
    return configs if names == [(row["dataset"], row["seed"]) for row in rows] else None


def together(results: Sequence[Results]) -> list[Group]:
    """The groups of several runs; a row that an earlier run also has is left out."""
    rows, configs, stages, seen = [], [], [], []
    for one in results:
        for row, config in zip(one.rows, one.configs or [None] * len(one.rows), strict=True):
            if config is not None and (same := identity(config)) in seen:
                continue
            seen += [] if config is None else [same]
            rows.append(row)
            configs.append(config)
            stages.append(one.stages)
    return groups(rows, configs, stages)


def groups(
    rows: Sequence[dict],
    configs: Sequence[Experiment | None] | None,
    stages: Sequence[pathlib.Path] = (),
) -> list[Group]:
    """Groups rows that differ in the seed alone, in order of appearance."""
    configs = configs or [None] * len(rows)
    settings = [settings_of(row, config) for row, config in zip(rows, configs, strict=True)]
    together: dict[tuple, list[int]] = {}
    for i, (row, its) in enumerate(zip(rows, settings, strict=True)):
        together.setdefault((row["dataset"], *sorted(its.items())), []).append(i)
    members = list(together.values())
    return [
        Group(
            label=_label(rows[chosen[0]]["dataset"], chosen, members, rows, settings),
            dataset=rows[chosen[0]]["dataset"],
            rows=tuple(rows[i] for i in chosen),
            configs=tuple(config for i in chosen if (config := configs[i])),
            stages=tuple(stages[i] for i in chosen) if stages else (),
        )
        for chosen in members
    ]


def settings_of(row: dict, config: Experiment | None) -> dict[str, str]:
    """Every setting except the name, the seeds and the dataset, as text."""
    if config is None:
        return {"people": str(row["people"])} | {k: str(v) for k, v in mixed(row).items()}
    own = {"seed", "world.seed", "data.variant"}
    return {
        name: str(value) for name, value in flatten(identity(config)).items() if name not in own
    }


def _label(dataset: str, own: Sequence[int], members, rows, settings) -> str:
    """The dataset with the name that all of these rows share or, without one or where others share
    it too, with the settings in which they differ."""
    rivals = [m for m in members if rows[m[0]]["dataset"] == dataset]
    (name, *more) = {rows[i].get("name", "") for i in own}
    named = [] if more or not name else [name]
    if not named or sum(rows[m[0]].get("name") == name for m in rivals) > 1:
        named += differing(settings[own[0]], [settings[m[0]] for m in rivals])
    return with_settings(dataset, named)


def differing(mine: Mapping[str, str], all_: Sequence[Mapping[str, str]]) -> list[str]:
    """Those of `mine`, as text, in which not all are equal."""
    apart = [k for k in mine if len({one.get(k) for one in all_}) > 1]
    return [f"{k.removeprefix('world.')}={_cut_short(mine[k])}" for k in apart]


def _cut_short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def with_settings(dataset: str, settings: Sequence[str]) -> str:
    """A dataset with the settings that distinguish it from others of its name."""
    return f"{dataset} ({', '.join(settings)})" if settings else dataset


def in_words(number: int) -> str:
    """A number in words, up to ten."""
    return _NUMBERS[number - 1] if number <= len(_NUMBERS) else str(number)
