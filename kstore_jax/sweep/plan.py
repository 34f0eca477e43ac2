"""The stages of a sweep, their progress and the time left, from files alone.

`plan.json` in a workdir names the folders of its stages and their dependencies. Reading it needs
neither the configuration file nor an accelerator, and disturbs no worker.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import read_json, write_json
from kstore_jax.pipeline.stages import Cache, StageSpec
from kstore_jax.train.telemetry import METRICS, last_metrics
from kstore_jax.world.biographies import Variant

PLAN = "plan.json"
_BENCHMARK, _TOKENS = "benchmark", "its tokens, at pretraining's pace"
_TIMELESS = {  # settings of a training that do not change the time of a step
    *("steps", "warmup_steps", "schedule", "final_lr_ratio", "learning_rate", "weight_decay"),
    *("b1", "b2", "eps", "clip_global_norm", "alpha", "init_std"),
}
_READ_WHOLE = {"shards", "celebrities", "recall"}  # stages that read or write every biography

Benchmark = Callable[[str], float | None]  # the folder of a stage -> its seconds


@dataclasses.dataclass(frozen=True)
class StageProgress:
    """The progress of a stage.

    Attributes:
      folder: the name of its folder in the cache. kind: the first part of it.
      rows: rows of the sweep that need it.
      state: `done`; `running`: a process holds its lock; `stopped`: begun and left; or `waiting`.
      step, steps: of its training, None where it has none or has not begun.
      seconds: spent so far. left: estimated seconds to its end, None where unknown.
      measured: the source of the estimate; a benchmark leaves out compilation.
    """

    folder: str
    kind: str
    rows: int
    state: str
    step: int | None
    steps: int | None
    seconds: float
    left: float | None
    measured: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rows of a sweep, and the stages they need.

    Attributes:
      cache: where the stages are.
      rows: the name of each, or its dataset and seed, and the folders it needs, in order.
      stages: every stage once, parents before children, by the name of its folder.
    """

    cache: Cache
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    stages: Mapping[str, StageSpec]

    def shard(self, index: int, count: int) -> Self:
        """The plan of the rows index, index + count, ... alone."""
        rows = self.rows[index::count]
        needed = {folder for _, folders in rows for folder in folders}
        stages = {folder: stage for folder, stage in self.stages.items() if folder in needed}
        return dataclasses.replace(self, rows=rows, stages=stages)

    def path_from(self, workdir: pathlib.Path) -> str:
        """The path of the cache relative to a workdir, so that a folder with both may be moved."""
        return os.path.relpath(self.cache.root.resolve(), workdir.resolve())

    def write(self, workdir: pathlib.Path) -> None:
        where = self.path_from(workdir)
        rows = [{"name": name, "stages": needed} for name, needed in self.rows]
        stages = {folder: dataclasses.asdict(stage) for folder, stage in self.stages.items()}
        write_json(workdir / PLAN, {"cache": where, "rows": rows, "stages": stages})

    @classmethod
    def read(cls, workdir: pathlib.Path) -> Self:
        """The plan of a workdir.

        Raises:
          UserError: there is no plan.
          DamagedFileError: it is not as `write` wrote it.
        """
        path = workdir / PLAN
        if not path.exists():
            raise UserError(
                f"{path}: no such file; expected the folder of a run, which its own command writes"
            )
        content = read_json(path)
        try:
            rows = tuple((row["name"], tuple(row["stages"])) for row in content["rows"])
            stages = {folder: StageSpec(**spec) for folder, spec in content["stages"].items()}
            return cls(Cache(workdir / content["cache"]), rows, stages)
        except (KeyError, TypeError, AttributeError):
            raise DamagedFileError(
                f"{path}: damaged; run `kstore sweep` again, it writes it"
            ) from None

    def progress(self, benchmark: Benchmark = lambda _: None) -> list[StageProgress]:
        """The progress of every stage; `benchmark` estimates those unlike any in the cache."""
        needed = collections.Counter(folder for _, folders in self.rows for folder in folders)
        pace = _paces(self.cache)
        specs = {**self.cache.specs(), **self.stages}
        return [self._one(folder, needed[folder], specs, pace, benchmark) for folder in self.stages]

    def _one(self, folder: str, rows: int, specs, pace, benchmark: Benchmark) -> StageProgress:
        stage = self.stages[folder]
        progress = functools.partial(StageProgress, folder, stage.kind, rows)
        line = last_metrics(self.cache.root / folder / METRICS) or {}
        step, steps = line.get("step"), line.get("steps")
        if (seconds := self.cache.seconds(folder)) is not None:
            return progress("done", step, steps, seconds, 0.0, "")
        begun = (self.cache.root / folder / "config.json").exists()
        state = "running" if self.cache.is_locked(folder) else "stopped" if begun else "waiting"
        seconds = line.get("seconds", 0.0)
        if step and steps:
            left = (steps - step) * seconds / step
            return progress(state, step, steps, seconds, left, "its own pace")
        key, work = _cost(stage, specs)
        if key in pace:
            each, count = pace[key]
            return progress(state, step, steps, seconds, each * work, f"{count} like it")
        left = benchmark(folder)
        source = _BENCHMARK if stage.kind == "pretrain" else _TOKENS
        return progress(state, step, steps, seconds, left, source if left is not None else "")


def _paces(cache: Cache) -> dict[str, tuple[float, int]]:
    """Seconds a unit of work, and the number of finished stages, of stages that are alike."""
    specs = cache.specs()
    seconds: dict[str, float] = collections.defaultdict(float)
    work: dict[str, float] = collections.defaultdict(float)
    count: collections.Counter[str] = collections.Counter()
    for folder, stage in specs.items():
        if (took := cache.seconds(folder)) is not None:
            key, done = _cost(stage, specs)
            seconds[key] += took
            work[key] += done
            count[key] += 1
    return {key: (seconds[key] / work[key], count[key]) for key in seconds if work[key]}


def _cost(stage: StageSpec, specs: Mapping[str, StageSpec]) -> tuple[str, float]:
    """A key that is equal for stages with the same time a unit of work, and the units of a stage:
    steps, or biographies or people that it reads."""
    before = list(_ancestors(stage, specs))
    models = [each.config["model"] for each in before if each.kind == "pretrain"]
    settings = {name: value for name, value in stage.config.items() if name not in ("seed", "data")}
    if "training" in settings:
        work = settings["training"]["steps"]
        settings["training"] = {
            name: value for name, value in settings["training"].items() if name not in _TIMELESS
        }
    else:
        read = [each.config for each in before if "people" in each.config]
        whole = stage.kind in _READ_WHOLE
        settings = {} if whole else settings
        work = sum(
            one["people"] * (Variant.parse(one["variant"]).biographies_per_person if whole else 1)
            for one in read
        )
    return json.dumps([stage.kind, settings, models], sort_keys=True), max(work, 1)


def _ancestors(stage: StageSpec, specs: Mapping[str, StageSpec]) -> Iterable[StageSpec]:
    """A stage and the stages it depends on, as far as `specs` has them, each once."""
    found, todo = {}, [("", stage)]
    while todo:
        folder, one = todo.pop()
        found[folder] = one
        todo += [(p, specs[p]) for p in one.parents if p in specs and p not in found]
    return found.values()


def _duration(seconds: float) -> str:
    """Seconds in the units that suit them: `12 s`, `3 min`, `5.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclasses.dataclass(frozen=True)
class PlanStatus:
    """A plan with its progress, as text or JSON."""

    plan: Plan
    stages: Sequence[StageProgress]

    @property
    def time_left(self) -> tuple[float, int]:
        """Seconds of work left, and the number of stages whose time is unknown."""
        estimates = [stage.left for stage in self.stages]
        return sum(seconds or 0.0 for seconds in estimates), estimates.count(None)

    def format(self, as_json: bool) -> str:
        """The status as JSON or as text for a terminal."""
        return json.dumps(self._json()) if as_json else self._text()

    def _json(self) -> dict:
        seconds, unknown = self.time_left
        done = {stage.folder for stage in self.stages if stage.state == "done"}
        rows = [
            {"name": name, "done": done.issuperset(needed), "stages": list(needed)}
            for name, needed in self.plan.rows
        ]
        return {
            "cache": str(self.plan.cache.root),
            "rows": rows,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "seconds_left": round(seconds, 1),
            "stages_without_estimate": unknown,
        }

    def _text(self) -> str:
        """A line a stage, and a summary."""
        width = max((len(stage.folder) for stage in self.stages), default=0)
        lines = [f"{'stage':<{width}}  rows  state    {'step':>15}  time"]
        lines += [_line(stage, width) for stage in self.stages]
        counts = collections.Counter(stage.state for stage in self.stages)
        states = ("done", "running", "stopped", "waiting")
        summary = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
        shared = sum(stage.rows > 1 for stage in self.stages)
        lines += ["", f"{len(self.stages)} stages: {summary}; {shared} shared by several rows"]
        seconds, unknown = self.time_left
        if seconds or unknown:
            more = f", and {unknown} stages without an estimate" if unknown else ""
            lines.append(f"left: about {_duration(seconds)} for one worker{more}")
        return "\n".join(lines)


def _line(stage: StageProgress, width: int) -> str:
    step = f"{stage.step:,}/{stage.steps:,}" if stage.step is not None else ""
    if stage.state == "done":
        time = f"took {_duration(stage.seconds)}"
    elif stage.left is None:
        time = "?"
    else:
        without = ", compilation left out" if stage.measured in (_BENCHMARK, _TOKENS) else ""
        time = f"about {_duration(stage.left)} ({stage.measured}{without})"
    return f"{stage.folder:<{width}}  {stage.rows:>4}  {stage.state:<7}  {step:>15}  {time}"
