"""One row of `results.json`: all that tables and charts show of a finished experiment."""

import dataclasses
import math
import typing
from typing import Any

from kstore_jax.config.fields import default_of, fields_of, flatten, in_identity, types_of
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.readouts.base import READOUTS
from kstore_jax.readouts.measured import find

SCHEMA = 3
"""Version of the layout of `results.json`."""
_DEEPEST = 32  # of nested values, more than any result has
_REQUIRED = {"config.seed", "config.data.variant", "config.world.people"}


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of one experiment. Accuracies are shares, from 0 to 1.

    Attributes:
      name: of the experiment; may be empty.
      config: every field that results depend on, nested, as `config.fields.identity` has them; of
        `auto` settings the choice of the machine.
      plugins, plugin_folders: of the configuration.
      attributes: their labels by name.
      noun: what the world is about; "person" in a row of an earlier version.
      exposures: how often pretraining reads the facts of each person.
      parameters, vocabulary: number of parameters, and of tokens.
      readouts: the result of each readout by name, as its `run` returns it.
      intervals: by readout, the interval of each share at the path the share has in its result:
        `low` and `high` (95 %, bootstrap over people), and the numbers of `people` and `cases`.
      finetune_grid: for each row of `finetune.grid` the varied fields, `validation` (exact match
        on the people held back), and whether it is `chosen`; empty without a grid.
      losses: of pretraining, at most 240 of them: `step`, `exposures` so far, mean `loss` since the
        report before.
      evaluations: likewise what readouts measured in the course of pretraining: `step`,
        `exposures`, and the `evaluation`, numbers by name.
      code: git commits, or else versions, of the code that computed the stages.
      seconds, seconds_by_stage: time of computation, over all restarts.
      goodput: fraction of the time of all trainings, over all restarts, that was spent on steps
        that were not repeated; starts, compilation, data, checkpoints and lost steps are the rest.
    """

    name: str
    config: dict
    plugins: list[str]
    plugin_folders: list[str]
    attributes: dict[str, str]
    exposures: float
    parameters: int
    vocabulary: int
    readouts: dict[str, dict]
    intervals: dict[str, dict]
    finetune_grid: list[dict]
    losses: list[dict]
    evaluations: list[dict]
    code: list[str]
    seconds: float
    seconds_by_stage: dict[str, float]
    goodput: float
    noun: str = "person"

    @property
    def dataset(self) -> str:
        """How the biographies are written, a variant."""
        return self.config["data"]["variant"]

    @property
    def steps(self) -> int:
        """The updates of pretraining."""
        return self.config["pretrain"]["steps"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def people(self) -> int:
        """Their number, without celebrities."""
        return self.config["world"]["people"]

    @property
    def mixed(self) -> dict[str, Any]:
        """The sources that pretraining reads beside, or (`rewritten`) instead of, template
        biographies of the people, as fields of `data` and `world`; empty where there are none."""
        data, celebrities = self.config["data"], self.config["world"]["celebrities"]
        sources = {name: data[name] for name in ("rewritten", "qa_share") if data[name]}
        if celebrities:
            sources |= {name: data[name] for name in ("celebrity_variant", "celebrity_share")}
            sources["celebrities"] = celebrities
        if data["text"]:
            sources |= {name: data[name] for name in ("text", "text_share")}
        return sources

    @property
    def finetuning(self) -> dict[str, Any]:
        """The fields of `finetune`, of a grid those of the chosen row."""
        chosen = next((way for way in self.finetune_grid if way["chosen"]), {})
        varied = {name: x for name, x in chosen.items() if name not in ("validation", "chosen")}
        return {**self.config["finetune"], **varied}

    def to_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def lines(self) -> list[dict[str, Any]]:
        """The results in long form: a line for each share of a readout, and for each number that
        was measured in the course of pretraining, whose position is the step.

        Each has `metric`, with the readout before the first dot; `attribute`; `position`, None
        where there is none; `value`; the ends `low` and `high` of its interval and `n`, the number
        of people that it is of, None where there is no interval.
        """
        lines = []
        for name, result in self.readouts.items():
            for share in READOUTS[name].shares(result) if name in READOUTS else ():
                interval = find(self.intervals, (name, *share.path)) or {}
                at = f"{name}.{share.metric}", share.attribute, share.position
                lines.append(_line(*at, find(result, share.path), interval))
        for measured in self.evaluations:
            for name, value in measured["evaluation"].items():
                lines.append(_line(f"evaluation.{name}", "", measured["step"], value, {}))
        return lines

    @classmethod
    def from_json(cls, value: Any) -> "Row":
        """Reads what `to_json` returns. Fields of the configuration that are newer than the row get
        their defaults; those of missing plug-ins stay as they are.

        Raises:
          ValueError: a field is missing, of another type, not finite or nested too deep; the
            message names it.
        """
        types = typing.get_type_hints(cls)
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, got {_shown(value)}")
        value = {"noun": cls.noun, **value}
        fields = {
            name: _checked(kind, _value(value, name, name), name) for name, kind in types.items()
        }
        fields["config"] = _complete(Experiment, fields["config"], "config")
        check_share(fields["goodput"], "goodput")
        for name, kinds in _LINES.items():
            for i, line in enumerate(fields[name]):
                for key, kind in kinds.items():
                    path = f"{name}.{i}.{key}"
                    _checked(kind, _value(line, key, path), path)
        return cls(**fields)


def _line(
    metric: str, attribute: str, position: int | None, value: float, interval: dict
) -> dict[str, Any]:
    line = {"metric": metric, "attribute": attribute, "position": position, "value": value}
    ends = {end: interval.get(end) for end in ("low", "high")}
    return {**line, **ends, "n": interval.get("people")}


_LINES: dict[str, dict[str, Any]] = {
    "finetune_grid": {"validation": float, "chosen": bool},
    "losses": {"step": int, "exposures": float, "loss": float},
    "evaluations": {"step": int, "exposures": float, "evaluation": dict[str, float]},
}
"""What each line of a field has at least."""


def own_settings(config: dict) -> dict[str, Any]:
    """The settings of a configuration by dotted names, without the steps of pretraining where they
    follow from `pretrain.exposures` and the texts, which differ from seed to seed."""
    settings = flatten(config)
    if settings.get("pretrain.exposures"):
        del settings["pretrain.steps"]
    return settings


def check_share(value: Any, path: str) -> None:
    """Raises ValueError, which names the path, where a value is no share from 0 to 1."""
    if not 0.0 <= _checked(float, value, path) <= 1.0:
        raise ValueError(f"{path}: expected a share from 0 to 1, got {value!r}")


def _value(values: dict, name: str, path: str) -> Any:
    if name not in values:
        raise ValueError(f"{path} is missing")
    return values[name]


def _checked(kind: Any, value: Any, path: str, depth: int = 0) -> Any:
    """Returns a JSON value that is of a kind: a type, `dict[str, KIND]`, `list[KIND]`, or `dict`
    for any JSON object. Raises ValueError, which names the path, where it is not."""
    if depth > _DEEPEST:
        raise ValueError(f"{path.partition('.')[0]}: nested too deep")
    of, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if of is Any:
        of = type(value)
    wanted = (int, float) if of is float else of
    if not isinstance(value, wanted) or (isinstance(value, bool) and of is not bool):
        raise ValueError(f"{path}: expected {_NAMES[of]}, got {_shown(value)}")
    if of is float and not math.isfinite(value):
        raise ValueError(f"{path}: expected a number, got {value!r}")
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for name, part in parts:
        _checked(inner[-1] if inner else Any, part, f"{path}.{name}", depth + 1)
    return value


_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def _complete(kind: type, values: dict, path: str) -> dict[str, Any]:
    """The fields of a configuration that results depend on, with defaults for missing ones."""
    completed, types = dict(values), types_of(kind)
    for name, field in fields_of(kind).items():
        here = f"{path}.{name}"
        if not in_identity(field, values.get(name, field.default)):
            continue
        if here in _REQUIRED:
            _value(values, name, here)
        if "one_of" in field.metadata:
            default: Any = field.metadata["default"]
            completed[name] = _checked(str, values.get(name, default), here)
        elif dataclasses.is_dataclass(types[name]):
            section = _checked(dict, values.get(name, {}), here)
            completed[name] = _complete(types[name], section, here)
        else:
            of = {tuple: list}.get(types[name], types[name])
            default = default_of(field)
            default = list(default) if isinstance(default, tuple) else default
            completed[name] = _checked(of, values.get(name, default), here)
    return completed
