"""What a sweep needs, stage by stage, and how far each is: told from files alone.

`plan.json` in a workdir names the folders of its stages and what each depends on. Who reads it
needs neither the configuration file nor an accelerator, and disturbs no worker.
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
_TIMELESS = {  # settings of a training that change nothing about the time a step takes
    *("steps", "warmup_steps", "schedule", "final_lr_ratio", "learning_rate", "weight_decay"),
    *("b1", "b2", "eps", "clip_global_norm", "alpha", "init_std"),
}
_READ_WHOLE = {"shards", "celebrities", "recall"}  # stages whose work is every biography

Benchmark = Callable[[str], float | None]  # a folder to the seconds of its stage


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
      folder: the name of its folder in the cache. kind: the first part of it.
      rows: how many rows of the sweep need it.
      state: `done`; `running`, which a process holds the lock of; `stopped`, begun and left; or
        `waiting`.
      step, steps: of its training, None where it has none or has not begun.
      seconds: that it took so far. left: that it will take, None where that is not known.
      measured: what `left` was told from; compilation is not in it where that is a benchmark.
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
      rows: each by its name, or else its dataset and seed, and the folders it needs, in order.
      stages: every stage once, parents before children, by the name of its folder.
    """

    cache: Cache
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    stages: Mapping[str, StageSpec]

    def share(self, index: int, count: int) -> Self:
        """The plan of the rows index, index + count, ... alone."""
        rows = self.rows[index::count]
        needed = {folder for _, folders in rows for folder in folders}
        stages = {folder: stage for folder, stage in self.stages.items() if folder in needed}
        return dataclasses.replace(self, rows=rows, stages=stages)

    def path_from(self, workdir: pathlib.Path) -> str:
        """The cache as seen from a workdir, so that a folder with both in it may be moved."""
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
          UserError: there is none.
          DamagedFileError: it is not what `write` wrote.
        """
        path = workdir / PLAN
        if not path.exists():
            raise UserError(
                f"{path}: no such file; expected the folder of a run, which its own command writes"
            )
        found = read_json(path)
        try:
            rows = tuple((row["name"], tuple(row["stages"])) for row in found["rows"])
            stages = {folder: StageSpec(**told) for folder, told in found["stages"].items()}
            return cls(Cache(workdir / found["cache"]), rows, stages)
        except (KeyError, TypeError, AttributeError):
            raise DamagedFileError(
                f"{path}: damaged; run `kstore sweep` again, it writes it"
            ) from None

    def progress(self, benchmark: Benchmark = lambda _: None) -> list[Progress]:
        """How far every stage is; `benchmark` is asked about one that the cache has none like."""
        needed = collections.Counter(folder for _, folders in self.rows for folder in folders)
        pace = _paces(self.cache)
        known = {**self.cache.specs(), **self.stages}
        return [self._one(folder, needed[folder], known, pace, benchmark) for folder in self.stages]

    def _one(self, folder: str, rows: int, known, pace, benchmark: Benchmark) -> Progress:
        stage = self.stages[folder]
        told = functools.partial(Progress, folder, stage.kind, rows)
        line = last_metrics(self.cache.root / folder / METRICS) or {}
        step, steps = line.get("step"), line.get("steps")
        if (seconds := self.cache.seconds(folder)) is not None:
            return told("done", step, steps, seconds, 0.0, "")
        begun = (self.cache.root / folder / "config.json").exists()
        state = "running" if self.cache.is_locked(folder) else "stopped" if begun else "waiting"
        seconds = line.get("seconds", 0.0)
        if step and steps:
            left = (steps - step) * seconds / step
            return told(state, step, steps, seconds, left, "its own pace")
        key, work = _cost(stage, known)
        if key in pace:
            each, count = pace[key]
            return told(state, step, steps, seconds, each * work, f"{count} like it")
        left = benchmark(folder)
        told_from = _BENCHMARK if stage.kind == "pretrain" else _TOKENS
        return told(state, step, steps, seconds, left, told_from if left is not None else "")


def _paces(cache: Cache) -> dict[str, tuple[float, int]]:
    """Seconds a unit of work of every kind of stage that was finished, and how many those were."""
    found, seconds, work = cache.specs(), collections.Counter(), collections.Counter()
    count = collections.Counter()
    for folder, stage in found.items():
        if (took := cache.seconds(folder)) is not None:
            key, done = _cost(stage, found)
            seconds[key] += took
            work[key] += done
            count[key] += 1
    return {key: (seconds[key] / work[key], count[key]) for key in seconds if work[key]}


def _cost(stage: StageSpec, known: Mapping[str, StageSpec]) -> tuple[str, float]:
    """What stages must agree on to take as long for as much work, and how much work it is: steps,
    or biographies or people read."""
    before = list(_ancestors(stage, known))
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
            told["people"] * (Variant.parse(told["variant"]).biographies_per_person if whole else 1)
            for told in read
        )
    return json.dumps([stage.kind, settings, models], sort_keys=True), max(work, 1)


def _ancestors(stage: StageSpec, known: Mapping[str, StageSpec]) -> Iterable[StageSpec]:
    """A stage and all it depends on, as far as it is known, each once."""
    found, todo = {}, [("", stage)]
    while todo:
        folder, one = todo.pop()
        found[folder] = one
        todo += [(p, known[p]) for p in one.parents if p in known and p not in found]
    return found.values()


def _duration(seconds: float) -> str:
    """Seconds in the units that suit them: `12 s`, `3 min`, `5.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclasses.dataclass(frozen=True)
class Report:
    """A plan and how far it is, to be told."""

    plan: Plan
    stages: Sequence[Progress]

    @property
    def left(self) -> tuple[float, int]:
        """Seconds of work left, and how many stages are not in it, as their time is not known."""
        told = [stage.left for stage in self.stages]
        return sum(seconds or 0.0 for seconds in told), told.count(None)

    def told(self, as_json: bool) -> str:
        return json.dumps(self._json()) if as_json else self._text()

    def _json(self) -> dict:
        seconds, unknown = self.left
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
        """A line a stage, and what they come to."""
        width = max((len(stage.folder) for stage in self.stages), default=0)
        lines = [f"{'stage':<{width}}  rows  state    {'step':>15}  time"]
        lines += [_line(stage, width) for stage in self.stages]
        counts = collections.Counter(stage.state for stage in self.stages)
        states = ("done", "running", "stopped", "waiting")
        told = ", ".join(f"{counts[state]} {state}" for state in states if counts[state])
        shared = sum(stage.rows > 1 for stage in self.stages)
        lines += ["", f"{len(self.stages)} stages: {told}; {shared} shared by several rows"]
        seconds, unknown = self.left
        if seconds or unknown:
            more = f", and {unknown} stages of which nothing like was measured" if unknown else ""
            lines.append(f"left: about {_duration(seconds)} for one worker{more}")
        return "\n".join(lines)


def _line(stage: Progress, width: int) -> str:
    step = f"{stage.step:,}/{stage.steps:,}" if stage.step is not None else ""
    if stage.state == "done":
        time = f"took {_duration(stage.seconds)}"
    elif stage.left is None:
        time = "?"
    else:
        without = ", compilation left out" if stage.measured in (_BENCHMARK, _TOKENS) else ""
        time = f"about {_duration(stage.left)} ({stage.measured}{without})"
    return f"{stage.folder:<{width}}  {stage.rows:>4}  {stage.state:<7}  {step:>15}  {time}"
