"""The configuration of one experiment: one section for each part, parsed and checked together.

Defaults are the paper's (Part 3.1, sections 2 to 5) for bioS and the 124M GPT-2. The paper gives no
`b1`, `b2`, `clip_global_norm`, `dropout` and `init_std`; their defaults are common values.
`report/paper.py` lists every departure (`DEPARTURES`) and choice (`CHOSEN`).
"""

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

from ml_collections import config_dict

from kstore_jax.config import parse as parsing
from kstore_jax.config.fields import (
    choice,
    defaults,
    names,
    number,
    section,
    text,
)
from kstore_jax.config.registry import group, import_plugins
from kstore_jax.config.rows import Row, without_fields
from kstore_jax.corpus.config import Data
from kstore_jax.errors import UserError
from kstore_jax.model.config import IN_FOLDER, PRESETS, Model
from kstore_jax.pipeline.finetune_config import Finetune
from kstore_jax.pipeline.init_params import fill_from_folder
from kstore_jax.pipeline.pretrain_config import LENGTH, Pretrain
from kstore_jax.readouts.base import READOUTS, Readout
from kstore_jax.tasks.base import TASKS, check_tasks
from kstore_jax.train.config import Mesh, TelemetryConfig
from kstore_jax.world.config import World


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of a sweep: a world, a model, its training and its measurements."""

    name: str = text("", affects_result=False)
    """Label in results and on the page."""
    plugins: tuple = names(affects_result=False)
    """Modules to import, which register readouts, tasks, architectures, optimizers or schedules
    from outside the package."""
    plugin_folders: tuple = names(affects_result=False)
    """Folders where `plugins` are looked for; the command line sets the current one and that of the
    configuration file."""
    until: str = choice("", "", "pretrain", "finetune", affects_result=False)
    """The last training to compute: `pretrain` computes no readout; `finetune` only those of the
    pretrained model. Empty: everything."""
    seed: int = number(0, 0, 2**32 - 1)
    """Seed of initial weights, orders and batches."""
    world: World = section(World)
    data: Data = section(Data)
    model: Model = section(Model)
    pretrain: Pretrain = section(Pretrain)
    finetune: Finetune = section(Finetune)
    tasks: Any = group(TASKS)
    readouts: Any = group(READOUTS)
    mesh: Mesh = section(Mesh, affects_result=False)
    telemetry: TelemetryConfig = section(TelemetryConfig, affects_result=False)

    @property
    def label(self) -> str:
        """The name, or the dataset and the seed."""
        return self.name or f"{self.data.variant}, seed {self.seed}"

    def __post_init__(self):
        if self.data.celebrity_share and not self.world.celebrities:
            raise UserError(
                "data.celebrity_share: expected world.celebrities of more than 0 beside it, got 0"
            )
        check_tasks(self.data.tasks, "data.tasks")
        check_tasks(self.finetune.tasks, "finetune.tasks")
        check_tasks(self.readouts.qa.tasks, "readouts.qa.tasks")
        self._check_ranks()
        if (limit := self.model.longest_text) and self.pretrain.seq_len > limit[1]:
            raise UserError(
                f"pretrain.seq_len: expected at most model.{limit[0]} = {limit[1]}, "
                f"got {self.pretrain.seq_len}"
            )
        for name, (readout, config) in self.enabled_readouts.items():
            try:
                readout.check(config, self)
            except UserError as error:
                raise UserError(f"readouts.{name}.{error}") from None

    @property
    def tasks_in_use(self) -> tuple[str, ...]:
        """The tasks whose questions are trained or asked, and those of `data.tasks`, by name."""
        finetunings = [self.finetune, self.finetune.first_row] if self.finetune.steps else []
        used = [task for training in finetunings if training for task in training.tasks]
        used += self.data.tasks
        if "qa" in self.enabled_readouts:
            used += self.readouts.qa.tasks
        return tuple(sorted(set(used)))

    @property
    def tasks_with_tokens(self) -> tuple[str, ...]:
        """The tasks whose tokens a compact vocabulary looks up."""
        if self.data.vocabulary != "compact":
            return ()
        return tuple(task for task in self.tasks_in_use if not TASKS[task].in_language)

    @property
    def enabled_readouts(self) -> dict[str, tuple[Readout, Any]]:
        """The readouts to compute, and their configurations, by name."""
        configs = {name: getattr(self.readouts, name) for name in READOUTS}
        return {
            name: (READOUTS[name], config) for name, config in configs.items() if config.enabled
        }

    def _check_ranks(self) -> None:
        """Raises UserError where a low-rank update has a larger rank than its matrix."""
        trainings = [("finetune", row) for row in self.finetune.rows]
        if first := self.finetune.first_row:
            trainings += [("finetune.first", first)]
        trainings += [("pretrain", self.pretrain)] if self.pretrain.method == "lora" else []
        for section_name, training in trainings:
            for name in ("rank", "embedding_rank"):
                if (rank := getattr(training, name)) > self.model.width:
                    raise UserError(
                        f"{section_name}.{name}: expected at most model.width = "
                        f"{self.model.width}, got {rank}"
                    )


_DECIDED = {  # field -> the fields it stands for
    f"model.{name}": {f"model.{field}" for fields in presets.values() for field in fields}
    for name, presets in PRESETS.items()
}
_OF_FOLDER = {f"model.{name}" for name in (*IN_FOLDER, *PRESETS)}
_DECIDED["model.init_from"] = {*_OF_FOLDER, "data.tokenizer"}


def default() -> Any:
    """The defaults as an `ml_collections.ConfigDict`, for a configuration file to change.

    `world.seed` equals `seed` unless it is set. `pretrain.steps` is None, which means its default,
    or what `pretrain.exposures` needs. Fields of `model` and the tokenizer that are None are set by
    `model.init_from`, by `model.size` and `model.style`, or have their defaults. `sweep` holds the
    rows of a sweep (`config/rows.py`); it is empty for one experiment.
    """
    config: Any = config_dict.ConfigDict({**defaults(Experiment), "sweep": ()})
    config.world.seed = config_dict.placeholder(int)
    config.pretrain.steps = config_dict.placeholder(int)
    for name in IN_FOLDER:
        config.model[name] = config_dict.placeholder(type(config.model[name]))
    for name in PRESETS:
        config.model[name] = config_dict.placeholder(str)
    config.data.tokenizer = config_dict.placeholder(str)
    return config


def add_plugins(config: Any, *modules: str) -> Any:
    """Imports plug-ins and adds their fields to a configuration; returns the configuration.

    A configuration file calls it before it sets fields of a plug-in.

    Args:
      modules: added to `config.plugins`.

    Raises:
      UserError: a module is missing or fails.
    """
    config.plugins = tuple(dict.fromkeys([*config.plugins, *modules]))
    import_plugins(config.plugins, config.plugin_folders)
    for name, value in config_dict.ConfigDict(defaults(Experiment)).items():
        if isinstance(value, config_dict.ConfigDict):
            _add_missing(config[name], value)
    return config


def _add_missing(config: Any, fields: Any) -> None:
    for name, value in fields.items():
        if name not in config:
            with config.unlocked():
                config[name] = value
        elif isinstance(value, config_dict.ConfigDict):
            _add_missing(config[name], value)


def parse(values: dict) -> Experiment:
    """The experiment of a nested dictionary of fields; missing fields are those of the folder
    `model.init_from`, or take their defaults.

    Raises:
      UserError: a field is unknown, ill-typed or out of range; one line that names it.
    """
    import_plugins(values.get("plugins", ()), values.get("plugin_folders", ()))
    return parsing.parse(Experiment, fill_from_folder(values))


def parse_rows(
    config: config_dict.ConfigDict, overridden: Collection[str] = ()
) -> list[Experiment]:
    """The experiments of a configuration: one for each row of its sweep.

    Rows that are equal apart from their names become one experiment with the first one's name.

    Args:
      overridden: dotted fields that the command line sets. They override the file, every row of
        its sweep, and every row of `finetune.grid`; `finetune.steps=0` drops the grid.

    Raises:
      UserError: a field is wrong; names the field, and the row where the row causes it.
    """
    base, rows = _base_and_rows(config, overridden)
    numbers = range(len(rows)) if len(rows) > 1 else [None]
    experiments = [
        _parse_row(base, row, i, overridden) for i, row in zip(numbers, rows, strict=True)
    ]
    first: dict[Experiment, Experiment] = {}
    for experiment in experiments:
        first.setdefault(dataclasses.replace(experiment, name=""), experiment)
    return [*first.values()]


def _parse_row(base: dict, row: Row, number: int | None, overridden: Collection[str]) -> Experiment:
    """The experiment of one row. An error names the row by its number, if it has one, unless `base`
    alone raises the same error."""

    def parsed(row: Row) -> Experiment:
        return parse(_override_grid(overridden, _with_row(base, row)))

    try:
        return parsed(row)
    except UserError as error:
        if number is None:
            raise
        try:
            parsed(())
        except UserError as base_error:
            if str(base_error) == str(error):
                raise error from None
        name = dict(row).get("name") or ", ".join(f"{field}={value}" for field, value in row)
        raise UserError(f"row {number} ({name}): {error}") from None


def parse_base(
    config: config_dict.ConfigDict, overridden: Collection[str] = ()
) -> tuple[Experiment, int]:
    """The experiment of a configuration without its sweep, and the number of rows of the sweep; 0
    where they set nothing but names.

    Raises:
      UserError: a field is wrong.
    """
    base, rows = _base_and_rows(config, overridden)
    distinct = {tuple((field, value) for field, value in row if field != "name") for row in rows}
    experiment = parse(_override_grid(overridden, _with_row(base, ())))
    return experiment, 0 if distinct == {()} else len(distinct)


def _base_and_rows(
    config: config_dict.ConfigDict, overridden: Collection[str]
) -> tuple[dict, list[Row]]:
    """The values all rows start from, and the distinct rows without overridden fields.

    A size, a style or `model.init_from` set on the command line overrides the file's values of its
    fields too, and `pretrain.steps` or `pretrain.exposures` the other one of the two.

    Raises:
      UserError: the command line sets both; or `sweep` are no rows.
    """
    base = config.to_dict()
    sweep = base.pop("sweep", ())
    sweep = ((),) if sweep in ((), []) else sweep
    for name, decided in _DECIDED.items():
        if name in overridden:
            base = _set_fields(
                base, tuple((field, None) for field in decided.difference(overridden))
            )
            overridden = decided.union(overridden)
    length = {f"pretrain.{name}": base["pretrain"][name] for name in LENGTH}
    of_command = {field for field in overridden if length.get(field)}
    if len(of_command) == 1:
        base = _set_fields(base, tuple((field, None) for field in {*length} - of_command))
        overridden = {*length, *overridden}
    return base, without_fields(overridden, sweep, "sweep")


def _override_grid(overridden: Collection[str], values: dict) -> dict:
    """`values` without the overridden fields in its finetuning grid; without a grid where no field
    remains, or where the command line sets `finetune.steps=0`."""
    finetune = values.get("finetune")
    if not isinstance(finetune, dict) or not finetune.get("grid"):
        return values
    fields = {field.removeprefix("finetune.") for field in overridden}
    grid = without_fields(fields, finetune["grid"], "finetune.grid")
    if grid == [()] or ("steps" in fields and finetune["steps"] == 0):
        grid = []
    return {**values, "finetune": {**finetune, "grid": tuple(grid)}}


def _with_row(base: dict, row: Row) -> dict:
    """A copy of `base` with the fields of a row set; `pretrain.steps` or `pretrain.exposures` of
    the row replaces the other one.

    Raises:
      UserError: both are set; or a field lies below a value that has no fields.
    """
    named = dict(row)
    replaced = [
        (f"pretrain.{other}", None)
        for name, other in (LENGTH, LENGTH[::-1])
        if named.get(f"pretrain.{name}") and f"pretrain.{other}" not in named
    ]
    values = _set_fields(base, (*row, *replaced))
    pretrain = values.get("pretrain")
    if isinstance(pretrain, dict) and all(pretrain.get(name) for name in LENGTH):
        raise UserError(
            f"pretrain.steps: expected 0 beside pretrain.exposures = {pretrain['exposures']}, got "
            f"{pretrain['steps']}"
        )
    return values


def _set_fields(base: dict, row: Row) -> dict:
    """A copy of `base` with the fields of a row set, and the seed of the world.

    Raises:
      UserError: a field lies below a value that has no fields.
    """
    changed = copy.deepcopy(base)
    for field, value in row:
        *path, name = field.split(".")
        part = changed
        for step in path:
            part = part.setdefault(step, {})
            if not isinstance(part, dict):
                raise UserError(f"{field}: no such field")
        part[name] = value
    world = changed.get("world")
    if isinstance(world, dict) and world.get("seed") is None:
        world["seed"] = changed.get("seed", 0)
    return changed
