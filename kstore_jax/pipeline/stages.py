"""The graph of stages and its cache.

A stage's folder is named by a hash of the configuration it depends on and of its parents, so
stages that agree are computed once, whoever asks. A stage is done when its `result.json` is there;
that file is renamed into place last. A lock, which dies with its process, keeps two workers from
computing one stage at the same time.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import random
import time
from collections.abc import Callable, Sequence

import filelock

from kstore_jax.errors import DamagedFileError
from kstore_jax.files import read_json, write_json
from kstore_jax.train import distributed
from kstore_jax.train.telemetry import METRICS, provenance, read_metrics

RESULT = "result.json"
_CONFIG, _PARENTS = "config.json", "parents.json"


@dataclasses.dataclass(frozen=True)
class Described:
    """What a stage is, without the program: `parents` are the names of their folders."""

    kind: str
    config: dict
    parents: Sequence[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A step of an experiment.

    Attributes:
      name: what kind of stage, the first part of its folder's name.
      config: every setting it depends on, plain JSON.
      parents: the stages it reads from.
      compute: `folder -> result`; it may leave files in the folder, and finds there what an
        interrupted attempt left.
    """

    name: str
    config: dict
    parents: tuple["Stage", ...]
    compute: Callable[[pathlib.Path], dict]

    @property
    def key(self) -> str:
        described = {
            "name": self.name,
            "config": self.config,
            "parents": [parent.key for parent in self.parents],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.name}-{self.key}"

    @property
    def described(self) -> Described:
        return Described(self.name, self.config, tuple(p.folder for p in self.parents))


class Cache:
    """The stages computed so far, one folder each under `root`."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def folder(self, stage: Stage) -> pathlib.Path:
        return self.root / stage.folder

    def result(self, stage: Stage) -> dict | None:
        """What a stage found, None where it is not done."""
        path = self.folder(stage) / RESULT
        return read_json(path) if path.exists() else None

    def attempts(self, folder: str) -> list[dict]:
        """What each attempt at the stage of that folder was made with: `provenance` there."""
        return [read_json(path) for path in _attempts(self.root / folder)]

    def lock(self, folder: str) -> filelock.FileLock:
        """Held by who works on the stage of that folder; it dies with the process."""
        return filelock.FileLock(self.root / f".{folder}.lock")

    def held(self, folder: str) -> bool:
        """Whether a process works on the stage of that folder now; who does is not disturbed."""
        import fcntl  # Windows has none

        with contextlib.suppress(FileNotFoundError), open(self.lock(folder).lock_file) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # or a file system without such locks, where the file itself is one
                return True
        return False

    def seconds(self, folder: str) -> float | None:
        """How long the stage of that folder took, None where it is not done."""
        path = self.root / folder / RESULT
        return read_json(path).get("seconds", 0.0) if path.exists() else None

    def described(self) -> dict[str, Described]:
        """What every stage is that was begun here, by the name of its folder.

        Raises:
          DamagedFileError: a file of a stage is not as it was written.
        """
        found = {}
        for path in sorted(self.root.glob(f"*-{'[0-9a-f]' * 12}/{_PARENTS}")):
            kind, _, _ = path.parent.name.rpartition("-")
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                config, told = read_json(path.with_name(_CONFIG)), read_json(path)
                if not isinstance(parents := told.get("parents"), list):
                    raise DamagedFileError(f"{path}: damaged; remove {path.parent} and run again")
                found[path.parent.name] = Described(kind, config, parents)
        return found

    def ensure(self, stage: Stage) -> dict:
        """The result of a stage; it and its parents are computed where they are not done. Of
        several processes of a run all compute, and the first one looks and writes."""
        for parent in stage.parents:
            self.ensure(parent)
        if (done := distributed.told(self.result(stage))) is not None:
            return done
        with self.lock(stage.folder) if distributed.is_first() else contextlib.nullcontext():
            if (done := distributed.told(self.result(stage))) is not None:
                return done
            return self._computed([stage], lambda _: [stage.compute(self.folder(stage))])[0]

    def ensure_together(
        self, stages: Sequence[Stage], compute: Callable[[Sequence[Stage]], list[dict]]
    ) -> None:
        """Computes several stages at once by `compute`, which is given those of them that are not
        done and that nobody else is at. Their parents are to be done."""
        with contextlib.ExitStack() as locks:
            left = []
            for stage in stages:
                with contextlib.suppress(filelock.Timeout):
                    locks.enter_context(self.lock(stage.folder).acquire(timeout=0))
                    left += [stage] if self.result(stage) is None else []
            if left:
                self._computed(left, compute)

    def _computed(
        self, stages: Sequence[Stage], compute: Callable[[Sequence[Stage]], list[dict]]
    ) -> list[dict]:
        """The results of stages whose locks are held, as they are written; each took its share of
        the time."""
        folders = [self.folder(stage) for stage in stages]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        if distributed.is_first():
            for stage, folder in zip(stages, folders, strict=True):
                _begin(stage, folder)
        earlier = [read_metrics(folder / METRICS) for folder in folders]
        started = time.monotonic()
        found = compute(stages)
        share = (time.monotonic() - started) / len(stages)
        results = []
        for folder, told, lines in zip(folders, found, earlier, strict=True):
            seconds = share + (lines[-1]["seconds"] if lines else 0.0)
            results.append({**told, "seconds": round(seconds, 2)})
            if distributed.is_first():
                write_json(folder / RESULT, results[-1])
        return distributed.told(results)


def _begin(stage: Stage, folder: pathlib.Path) -> None:
    """Says what the stage is, and who is at it."""
    write_json(folder / _CONFIG, stage.config)
    write_json(folder / _PARENTS, {"parents": stage.described.parents})
    attempt = len(_attempts(folder)) + 1
    write_json(folder / f"provenance-{attempt}.json", provenance())


def _attempts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Where each attempt at a stage says by what code and on what machine it was made."""
    return sorted(folder.glob("provenance*.json"))


def usable_cores() -> list[int]:
    """The cores this process may use: those it is bound to, all where the system binds none, and
    no more of them than it is granted the time of.

    Which ones is left to chance then, as other containers of the machine choose among the same.
    """
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = sorted(bound) or list(range(os.cpu_count() or 1))
    granted = max(1, int(min(cores_granted(), len(cores))))
    return sorted(random.sample(cores, granted))


def cores_granted(
    proc: pathlib.Path = pathlib.Path("/proc"), root: pathlib.Path = pathlib.Path("/sys/fs/cgroup")
) -> float:
    """The cores' worth of time that the cgroups (version 2) of this process get, such as 1.5 of a
    container started with `--cpus=1.5`; infinite where none of them is limited."""
    least = math.inf
    with contextlib.suppress(OSError):
        lines = (proc / "self/cgroup").read_text().splitlines()
        for own in (root / line[4:] for line in lines if line.startswith("0::/")):
            for group in (own, *own.parents):
                with contextlib.suppress(FileNotFoundError):
                    quota, period = (group / "cpu.max").read_text().split()
                    least = min(least, float(quota.replace("max", "inf")) / float(period))
    return least
