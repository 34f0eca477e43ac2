"""The graph of stages and its cache.

A stage's folder is named by a hash of its kind, the version of its code, its configuration and its
parents, so stages that agree are computed once for all experiments. A stage is finished when its
`result.json` exists; that file is renamed into place last. A lock, which dies with its process,
keeps two workers from computing one stage at the same time.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence

import filelock

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import read_json, write_json
from kstore_jax.train.distributed import broadcast_from_first, is_first
from kstore_jax.train.telemetry import METRICS, provenance, read_metrics

RESULT = "result.json"
_CONFIG, _STAGE = "config.json", "stage.json"


class NotFinished(UserError):
    """A stage whose result is needed has not been computed."""


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """A stage as plain JSON; `parents` are the names of their folders."""

    kind: str
    version: int
    config: dict
    parents: Sequence[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A step of an experiment.

    Attributes:
      kind: kind of stage, the first part of its folder's name.
      version: of the code that computes this kind; raised when its results change.
      config: every setting it depends on, plain JSON.
      parents: the stages it reads.
    """

    kind: str
    version: int
    config: dict
    parents: tuple["Stage", ...] = ()

    @property
    def key(self) -> str:
        content = {
            "kind": self.kind,
            "version": self.version,
            "config": self.config,
            "parents": [parent.key for parent in self.parents],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.key}"

    @property
    def spec(self) -> StageSpec:
        parents = tuple(parent.folder for parent in self.parents)
        return StageSpec(self.kind, self.version, self.config, parents)


Compute = Callable[[pathlib.Path], dict]
"""`folder -> result`: leaves files in the folder, and finds those of an interrupted attempt."""


class Cache:
    """The stages computed so far, one folder each under `root`."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def folder(self, stage: Stage) -> pathlib.Path:
        return self.root / stage.folder

    def result(self, stage: Stage) -> dict | None:
        """The result of a stage, None where it is not finished."""
        path = self.folder(stage) / RESULT
        return read_json(path) if path.exists() else None

    def require(self, stage: Stage, every_process: bool = True) -> dict:
        """The result of a finished stage.

        Args:
          every_process: whether all processes of a run ask; then the first one reads the file.

        Raises:
          NotFinished: it is not finished; the message names the stage and the command.
        """
        result = self.result(stage)
        if every_process:
            result = broadcast_from_first(result)
        if result is None:
            raise NotFinished(
                f"{self.folder(stage)}: stage {stage.kind} is not finished; `kstore sweep` or "
                "`kstore run` with the configuration of the run computes it"
            )
        return result

    def attempts(self, folder: str) -> list[dict]:
        """The provenance of each attempt at the stage of that folder."""
        return [read_json(path) for path in _attempts(self.root / folder)]

    def lock(self, folder: str) -> filelock.FileLock:
        """The lock a process holds while it computes the stage of that folder."""
        return filelock.FileLock(self.root / f".{folder}.lock")

    def is_locked(self, folder: str) -> bool:
        """Whether a process computes the stage of that folder now; it is not disturbed."""
        import fcntl  # Windows has none

        with contextlib.suppress(FileNotFoundError), open(self.lock(folder).lock_file) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # or a file system without such locks, where the file itself is one
                return True
        return False

    def seconds(self, folder: str) -> float | None:
        """Seconds the stage of that folder took, None where it is not finished."""
        path = self.root / folder / RESULT
        return read_json(path).get("seconds", 0.0) if path.exists() else None

    def specs(self) -> dict[str, StageSpec]:
        """Every stage begun in this cache, by the name of its folder.

        Raises:
          DamagedFileError: a file of a stage is not as it was written.
        """
        specs = {}
        for path in sorted(self.root.glob(f"*-{'[0-9a-f]' * 12}/{_STAGE}")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                config, stage = read_json(path.with_name(_CONFIG)), read_json(path)
                if not isinstance(stage.get("parents"), list):
                    raise DamagedFileError(f"{path}: damaged; remove {path.parent} and run again")
                specs[path.parent.name] = StageSpec(
                    path.parent.name.rpartition("-")[0],
                    stage.get("version", 1),
                    config,
                    stage["parents"],
                )
        return specs

    def ensure(self, stage: Stage, compute: Compute) -> dict:
        """Returns the result of a stage, computing it where it is not finished.

        Of several processes of a run all compute, and the first one reads and writes the files.

        Raises:
          NotFinished: a stage it depends on is not finished.
        """
        for parent in stage.parents:
            self.require(parent)
        if (result := broadcast_from_first(self.result(stage))) is not None:
            return result
        with self.lock(stage.folder) if is_first() else contextlib.nullcontext():
            if (result := broadcast_from_first(self.result(stage))) is not None:
                return result
            return self._compute([stage], lambda _: [compute(self.folder(stage))])[0]

    def ensure_together(
        self, stages: Sequence[Stage], compute: Callable[[Sequence[Stage]], list[dict]]
    ) -> None:
        """Computes several stages at once, except those that are finished or locked by another
        process. Their parents have to be finished.

        Args:
          compute: the stages left -> their results.
        """
        with contextlib.ExitStack() as locks:
            left = []
            for stage in stages:
                with contextlib.suppress(filelock.Timeout):
                    locks.enter_context(self.lock(stage.folder).acquire(timeout=0))
                    left += [stage] if self.result(stage) is None else []
            if left:
                self._compute(left, compute)

    def _compute(
        self, stages: Sequence[Stage], compute: Callable[[Sequence[Stage]], list[dict]]
    ) -> list[dict]:
        """Computes locked stages, writes and returns their results; each gets an equal share of
        the time."""
        folders = [self.folder(stage) for stage in stages]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        if is_first():
            for stage, folder in zip(stages, folders, strict=True):
                _begin(stage, folder)
        earlier = [read_metrics(folder / METRICS) for folder in folders]
        started = time.monotonic()
        computed = compute(stages)
        share = (time.monotonic() - started) / len(stages)
        results = []
        for folder, result, lines in zip(folders, computed, earlier, strict=True):
            seconds = share + (lines[-1]["seconds"] if lines else 0.0)
            results.append({**result, "seconds": round(seconds, 2)})
            if is_first():
                write_json(folder / RESULT, results[-1])
        return broadcast_from_first(results)


def _begin(stage: Stage, folder: pathlib.Path) -> None:
    """Writes the stage's configuration and the provenance of this attempt."""
    write_json(folder / _CONFIG, stage.config)
    write_json(folder / _STAGE, {"version": stage.version, "parents": list(stage.spec.parents)})
    attempt = len(_attempts(folder)) + 1
    write_json(folder / f"provenance-{attempt}.json", provenance())


def _attempts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The provenance files of a stage, one an attempt."""
    return sorted(folder.glob("provenance*.json"))
