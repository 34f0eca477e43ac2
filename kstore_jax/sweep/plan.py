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
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

from kstore_jax.bench.roofline import accelerator
from kstore_jax.errors import UserError
from kstore_jax.files import read_json, reading, write_json
from kstore_jax.pipeline.stages import Cache, StageSpec
from kstore_jax.sweep.size import RowSize
from kstore_jax.train.telemetry import METRICS, last_metrics
from kstore_jax.world.biographies import Variant

PLAN = "plan.json"
_BENCHMARK, _TOKENS = "benchmark", "its tokens, at pretraining's pace"
_SAME_STEP_TIME = {  # settings of a training that do not change the time of a step
    *("steps", "warmup_steps", "schedule", "final_lr_ratio", "learning_rate", "weight_decay"),
    *("clip_global_norm", "alpha", "init_std"),
}
_PER_BIOGRAPHY = {"shards", "celebrities", "recall"}  # stages that read or write every biography

Benchmark = Callable[[str], float | None]
"""`folder of a stage -> estimated seconds`, None where there is no estimate."""


@dataclasses.dataclass(frozen=True)
class StageProgress:
    """The progress of a stage.

    Attributes:
      folder: the name of its folder in the cache.
      kind: the first part of that name.
      rows: number of rows of the sweep that need it.
      state: `done`; `running`: a process holds its lock; `stopped`: begun and left; or `waiting`.
      step, steps: of its training; None where it has none or has not begun.
      seconds: spent so far.
      left: estimated seconds to its end, None without an estimate.
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
      cache: has the stages.
      rows: the label of each row, and the folders of the stages it needs, in order.
      stages: every stage once, by folder, parents before children.
      of_shard: (index, count) of the shard these rows are, as `shard` takes them.
    """

    cache: Cache
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    stages: Mapping[str, StageSpec]
    of_shard: tuple[int, int] = (0, 1)

    def shard(self, index: int, count: int) -> Self:
        """Returns the plan of the rows index, index + count, index + 2 count, ..."""
        rows = self.rows[index::count]
        needed = {folder for _, folders in rows for folder in folders}
        stages = {folder: stage for folder, stage in self.stages.items() if folder in needed}
        return dataclasses.replace(self, rows=rows, stages=stages, of_shard=(index, count))

    def cache_path_from(self, workdir: pathlib.Path) -> str:
        """Returns the path of the cache relative to a workdir, so that a folder with both may be
        moved."""
        return os.path.relpath(self.cache.root.resolve(), workdir.resolve())

    def write(self, workdir: pathlib.Path) -> None:
        """Writes `plan.json` into a workdir."""
        cache = self.cache_path_from(workdir)
        rows = [{"name": name, "stages": needed} for name, needed in self.rows]
        stages = {folder: dataclasses.asdict(stage) for folder, stage in self.stages.items()}
        write_json(workdir / PLAN, {"cache": cache, "rows": rows, "stages": stages})

    @classmethod
    def read(cls, workdir: pathlib.Path) -> Self:
        """Returns the plan of a workdir.

        Raises:
          UserError: there is no plan.
          DamagedFileError: the file is not as `write` wrote it.
        """
        path = workdir / PLAN
        if not path.exists():
            raise UserError(
                f"{path}: no such file; expected a folder that `kstore run` or `kstore sweep` wrote"
            )
        content = read_json(path)
        with reading(path, "the command of the run writes it again"):
            rows = tuple((row["name"], tuple(row["stages"])) for row in content["rows"])
            stages = {folder: StageSpec(**spec) for folder, spec in content["stages"].items()}
            for stage in stages.values():
                _work(stage, stages)
            return cls(Cache(workdir / content["cache"]), rows, stages)

    def progress(self, benchmark: Benchmark = lambda _: None, on: str = "") -> list[StageProgress]:
        """Returns the progress of every stage.

        Args:
          benchmark: estimates the stages without a similar one in the cache.
          on: the accelerator that `benchmark` is about, for which stages of this machine say
            nothing; empty: this machine.
        """
        rows = collections.Counter(folder for _, folders in self.rows for folder in folders)
        paces = {} if on else _paces(self.cache)
        specs = {**self.cache.specs(), **self.stages}
        return [
            self._stage(folder, rows[folder], specs, paces, benchmark, on) for folder in self.stages
        ]

    def _stage(
        self,
        folder: str,
        rows: int,
        specs: Mapping[str, StageSpec],
        paces: Mapping[str, tuple[float, int]],
        benchmark: Benchmark,
        on: str,
    ) -> StageProgress:
        stage = self.stages[folder]
        progress = functools.partial(StageProgress, folder, stage.kind, rows)
        line = last_metrics(self.cache.root / folder / METRICS) or {}
        step = line.get("step")
        steps = line.get("steps", step)
        if (seconds := self.cache.seconds(folder)) is not None:
            return progress("done", step, steps, seconds, 0.0, "")
        begun = (self.cache.root / folder / "config.json").exists()
        state = "running" if self.cache.is_locked(folder) else "stopped" if begun else "waiting"
        seconds = line.get("seconds", 0.0)
        if step and steps and not on:
            left = (steps - step) * seconds / step
            return progress(state, step, steps, seconds, left, "its own pace")
        key, work = _work(stage, specs)
        if key in paces:
            pace, count = paces[key]
            return progress(state, step, steps, seconds, pace * work, f"{count} like it")
        left = benchmark(folder)
        source = _BENCHMARK if stage.kind == "pretrain" else _TOKENS
        source = f"predicted on {on}" if on else source
        return progress(state, step, steps, seconds, left, source if left is not None else "")


def _paces(cache: Cache) -> dict[str, tuple[float, int]]:
    """Seconds a unit of work, and the number of finished stages, by the key of similar stages."""
    specs = cache.specs()
    seconds: dict[str, float] = collections.defaultdict(float)
    work: dict[str, float] = collections.defaultdict(float)
    count: collections.Counter[str] = collections.Counter()
    for folder, stage in specs.items():
        if (stage_seconds := cache.seconds(folder)) is not None:
            with reading(cache.root / folder / "config.json", f"remove {cache.root / folder}"):
                key, units = _work(stage, specs)
            seconds[key] += stage_seconds
            work[key] += units
            count[key] += 1
    return {key: (seconds[key] / work[key], count[key]) for key in seconds if work[key]}


def _work(stage: StageSpec, specs: Mapping[str, StageSpec]) -> tuple[str, float]:
    """The work of a stage.

    Returns: a key that stages with the same time a unit of work share, and the units: steps, or
    the biographies or people that the stage reads.
    """
    ancestors = _with_ancestors(stage, specs)
    models = [each.config["model"] for each in ancestors if each.kind == "pretrain"]
    settings = {name: value for name, value in stage.config.items() if name not in ("seed", "data")}
    if "training" in settings:
        work = settings["training"]["steps"]
        training = settings["training"].items()
        settings["training"] = {  # the optimizer's own fields, in a dictionary, are left out too
            k: v for k, v in training if k not in _SAME_STEP_TIME and not isinstance(v, dict)
        }
    else:
        datasets = [each.config for each in ancestors if "people" in each.config]
        work = sum(dataset["people"] for dataset in datasets)
        if stage.kind in _PER_BIOGRAPHY:
            settings = {}
            per_person = [Variant.parse(d["variant"]).biographies_per_person for d in datasets]
            work = sum(d["people"] * n for d, n in zip(datasets, per_person, strict=True))
    return json.dumps([stage.kind, settings, models], sort_keys=True), max(work, 1)


def _with_ancestors(stage: StageSpec, specs: Mapping[str, StageSpec]) -> list[StageSpec]:
    """A stage and the stages it depends on, each once; stages that `specs` lacks are left out."""
    by_folder, todo = {}, [("", stage)]
    while todo:
        folder, spec = todo.pop()
        by_folder[folder] = spec
        todo += [(p, specs[p]) for p in spec.parents if p in specs and p not in by_folder]
    return [*by_folder.values()]


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: `12 s`, `3 min`, `5 h`, `2 d`.

    >>> [duration(seconds) for seconds in (0.2, 89, 300, 10_000, 200_000)]
    ['0 s', '89 s', '5 min', '3 h', '2 d']
    """
    for unit, size, most in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


class RowStatus(NamedTuple):
    """The progress of a row of a sweep.

    Attributes:
      name: its label.
      stage: the stage that is running, with its share of steps, or the next one; `done`.
      done, stages: how many of its stages are finished, and all of them.
      left: estimated seconds of its unfinished stages, without those that have no estimate.
      unknown: how many stages have no estimate.
    """

    name: str
    stage: str
    done: int
    stages: int
    left: float
    unknown: int

    @classmethod
    def of(cls, name: str, stages: Sequence[StageProgress]) -> Self:
        """The progress of a row with these stages, parents before children."""
        todo = [stage for stage in stages if stage.state != "done"]
        current = next(
            (stage for stage in todo if stage.state == "running"), next(iter(todo), None)
        )
        text = "done"
        if current is not None:
            steps = current.steps or 0
            share = f" {100 * current.step / steps:.0f} %" if current.step and steps else ""
            state = f", {current.state}" if current.state != "waiting" else ""
            text = f"{current.kind}{share}{state}"
        left = [stage.left for stage in todo]
        seconds = round(sum(seconds or 0.0 for seconds in left), 1)
        return cls(name, text, len(stages) - len(todo), len(stages), seconds, left.count(None))

    @property
    def time(self) -> str:
        """The time left in words; `?` where no stage has an estimate."""
        if self.done == self.stages:
            return ""
        if not self.left:
            return "?" if self.unknown else duration(0)
        return duration(self.left)


@dataclasses.dataclass(frozen=True)
class PlanStatus:
    """A plan and the progress of its stages, for a terminal or as JSON.

    Attributes:
      sizes: of every row, in order; empty where they are not known.
      on: the accelerator that is not here that they are about; empty: this machine.
    """

    plan: Plan
    stages: Sequence[StageProgress]
    sizes: Sequence[RowSize] = ()
    on: str = ""

    @property
    def time_left(self) -> tuple[float, int]:
        """Seconds of work left, and the number of stages without an estimate."""
        estimates = [stage.left for stage in self.stages]
        return sum(seconds or 0.0 for seconds in estimates), estimates.count(None)

    @functools.cached_property
    def rows(self) -> list["RowStatus"]:
        """The progress of every row."""
        progress = {stage.folder: stage for stage in self.stages}
        return [
            RowStatus.of(name, [progress[folder] for folder in needed])
            for name, needed in self.plan.rows
        ]

    def format(self, as_json: bool, by_stage: bool = False) -> str:
        """Returns the status as JSON, or as text for a terminal: a line for each row or stage."""
        if as_json:
            return json.dumps(self._json())
        return "\n".join(
            [*(self._stage_lines() if by_stage else self._row_lines()), "", *self._sum()]
        )

    def _json(self) -> dict:
        seconds, unknown = self.time_left
        done = {stage.folder for stage in self.stages if stage.state == "done"}
        rows = [
            {
                **{"name": name, "done": done.issuperset(needed), "stages": list(needed)},
                **{"stage": row.stage, "stages_done": row.done, "seconds_left": row.left},
            }
            for (name, needed), row in zip(self.plan.rows, self.rows, strict=True)
        ]
        for row, size in zip(rows, self.sizes, strict=False):
            row |= size.as_json()
        return {
            "cache": str(self.plan.cache.root),
            "rows": rows,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "seconds_left": round(seconds, 1),
            "stages_without_estimate": unknown,
        }

    def _row_lines(self) -> list[str]:
        """One line for each row: its name, its stage, its finished stages and the time left."""
        index, count = self.plan.of_shard
        lines = [("row", "name", "stage", "done", "time left")]
        lines += [
            (str(index + i * count), row.name, row.stage, f"{row.done}/{row.stages}", row.time)
            for i, row in enumerate(self.rows)
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = (map(str.ljust, line, widths) for line in lines)
        return ["  ".join(cells).rstrip() for cells in texts]

    def _stage_lines(self) -> list[str]:
        """One line for each stage."""
        width = max((len(stage.folder) for stage in self.stages), default=0)
        lines = [f"{'stage':<{width}}  rows  state    {'step':>15}  time"]
        return lines + [_line(stage, width) for stage in self.stages]

    def _sum(self) -> list[str]:
        """A summary of all stages, each counted once."""
        counts = collections.Counter(stage.state for stage in self.stages)
        states = ("done", "running", "stopped", "waiting")
        summary = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
        shared = sum(stage.rows > 1 for stage in self.stages)
        lines = RowSize.format(self.sizes) if self.sizes else []
        if memories := [size.memory for size in self.sizes if size.memory]:
            largest = max(memories, key=lambda memory: memory.total)
            memory = accelerator(self.on).memory / 1e9 if self.on else 0
            whole, parts = largest.lines(f", {self.on} has {memory:.0f} GB" if self.on else "")
            most = "at most " if len(memories) > 1 else ""
            lines += [f"memory of pretraining: {most}{whole}", parts]
        lines += [f"{len(self.stages)} stages: {summary}; {shared} shared by several rows"]
        seconds, unknown = self.time_left
        estimate = [f"about {duration(seconds)} for one worker"] if seconds else []
        stages = "stage" if unknown == 1 else "stages"
        estimate += [f"{unknown} {stages} without an estimate"] if unknown else []
        if self.on and seconds:
            estimate[0] += f", {seconds / 3600:.3g} GPU hours of {self.on}"
        return [*lines, f"left: {', and '.join(estimate)}"] if estimate else lines


def _line(stage: StageProgress, width: int) -> str:
    step = f"{stage.step:,}/{stage.steps:,}" if stage.step is not None else ""
    if stage.state == "done":
        time = f"took {duration(stage.seconds)}"
    elif stage.left is None:
        time = "?"
    else:
        without = ", compilation left out" if stage.measured in (_BENCHMARK, _TOKENS) else ""
        time = f"about {duration(stage.left)} ({stage.measured}{without})"
    return f"{stage.folder:<{width}}  {stage.rows:>4}  {stage.state:<7}  {step:>15}  {time}"
