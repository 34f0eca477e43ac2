"""Stages and their cache.

The folder of a stage is named by a hash of its kind, the version of its code, its configuration and
its parents, so equal stages of several experiments are computed once. A stage is finished when its
`result.json` exists; that file is renamed into place last. A lock, which is released when its
process dies, keeps two workers from computing one stage at the same time. The result holds the
digests of the files that other stages and users read; who reads them checks.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence

import filelock

from kstore_jax.corpus.shards import MANIFEST
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import read_json, sha256, write_json
from kstore_jax.train.distributed import any_process, broadcast_from_first, is_first
from kstore_jax.train.provenance import provenance
from kstore_jax.train.telemetry import METRICS, read_metrics

RESULT = "result.json"
_CONFIG, _STAGE = "config.json", "stage.json"
_READ = ("cases.npz", f"dataset/{MANIFEST}")
BOOKKEEPING = ("seconds", "stage", "digests")
"""Fields of every result that are no numbers of the stage."""


class NotFinished(UserError):
    """The result of a stage is needed that is not computed yet."""


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """A stage as its files describe it; `parents` are names of folders."""

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
      numbers: the numbers of its result that others read.
    """

    kind: str
    version: int
    config: dict
    parents: tuple["Stage", ...] = ()
    numbers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """12 hexadecimal digits of the SHA-256 of everything the stage depends on."""
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
        """The stage, with its parents as names of folders."""
        parents = tuple(parent.folder for parent in self.parents)
        return StageSpec(self.kind, self.version, self.config, parents)


Compute = Callable[[pathlib.Path], dict]
"""`folder -> result`. The folder may hold files of an interrupted attempt."""


class Cache:
    """The stages computed so far, one folder each under `root`."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self._checked: set[str] = set()  # stages whose files are as they were written

    def folder(self, stage: Stage) -> pathlib.Path:
        return self.root / stage.folder

    def result(self, stage: Stage) -> dict | None:
        """The result of a stage, None where it is not finished.

        Raises:
          DamagedFileError: the file is not as it was written, or is of another stage.
        """
        path = self.folder(stage) / RESULT
        if not path.exists():
            return None
        result = _read_result(path, stage.numbers)
        if (found := result.get("stage", stage.folder)) != stage.folder:
            raise DamagedFileError(f"{path}: is of {found}; remove {path.parent} and run again")
        return result

    def require(self, stage: Stage, every_process: bool = True) -> dict:
        """The result of a finished stage.

        Args:
          every_process: whether all processes of a run call this; the first one reads the file
            for all.

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

    def check_files(self, stage: Stage) -> None:
        """Checks the files of a finished stage, once, against the digests in its result; the first
        process of a run reads them for all.

        Raises:
          DamagedFileError: one is missing or was changed; the message says what to remove.
        """
        folder, changed = self.folder(stage), []
        if stage.folder not in self._checked and is_first():
            for name, digest in ((self.result(stage) or {}).get("digests") or {}).items():
                changed += [name] if _sha256(folder / name) != digest else []
        if any_process(bool(changed)):
            names = ", ".join(str(folder / name) for name in changed) or str(folder)
            raise DamagedFileError(f"{names}: damaged; remove {folder} and run again")
        self._checked.add(stage.folder)

    def attempts(self, folder: str) -> list[dict]:
        """The provenance of each attempt at the stage of that folder."""
        kinds = {"git": str | None, "versions": dict}
        return [read_json(path, kinds=kinds) for path in _attempts(self.root / folder)]

    def lock(self, folder: str) -> filelock.FileLock:
        """The lock a process holds while it computes the stage of that folder."""
        return filelock.FileLock(self.root / f".{folder}.lock")

    def is_locked(self, folder: str) -> bool:
        """Whether a process computes the stage of that folder now. Does not take the lock."""
        import fcntl  # Windows has none

        with (
            contextlib.suppress(FileNotFoundError),
            open(self.lock(folder).lock_file, "rb") as file,
        ):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # locked, or the file system has no locks and the file stands for one
                return True
        return False

    def seconds(self, folder: str) -> float | None:
        """Seconds that the stage of that folder took, all attempts together; None: not finished."""
        path = self.root / folder / RESULT
        return _read_result(path).get("seconds") or 0.0 if path.exists() else None

    def specs(self) -> dict[str, StageSpec]:
        """Every stage begun in this cache, by the name of its folder.

        Raises:
          DamagedFileError: a file of a stage is not as it was written.
        """
        specs = {}
        for path in sorted(self.root.glob(f"*-{'[0-9a-f]' * 12}/{_STAGE}")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                config = read_json(path.with_name(_CONFIG), path.parent)
                stage = read_json(path, path.parent, {"parents": list})
                if not all(isinstance(parent, str) for parent in stage["parents"]):
                    raise DamagedFileError(f"{path}: damaged; remove {path.parent} and run again")
                specs[path.parent.name] = StageSpec(
                    path.parent.name.rpartition("-")[0],
                    stage.get("version", 1),
                    config,
                    stage["parents"],
                )
        return specs

    def ensure(self, stage: Stage, compute: Compute) -> dict:
        """Returns the result of a stage; computes it where it is not finished.

        Every process of a multi-process run computes; the first one reads and writes the files.

        Raises:
          NotFinished: a parent is not finished.
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
        """Computes several stages at once, except stages that are finished or locked by another
        process. Their parents have to be finished.

        Args:
          compute: stages to compute -> their results.
        """
        with contextlib.ExitStack() as locks:
            missing = []
            for stage in stages:
                with contextlib.suppress(filelock.Timeout):
                    locks.enter_context(self.lock(stage.folder).acquire(timeout=0))
                    missing += [stage] if self.result(stage) is None else []
            if missing:
                self._compute(missing, compute)

    def _compute(
        self, stages: Sequence[Stage], compute: Callable[[Sequence[Stage]], list[dict]]
    ) -> list[dict]:
        """Computes stages that this process has locked; writes and returns their results. The time
        is divided evenly among them."""
        folders = [self.folder(stage) for stage in stages]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        if is_first():
            for stage, folder in zip(stages, folders, strict=True):
                _begin(stage, folder)
        earlier = [read_metrics(folder / METRICS) for folder in folders]  # of stopped attempts
        started = time.monotonic()
        computed = compute(stages)
        share = (time.monotonic() - started) / len(stages)
        results = []
        for folder, result, lines in zip(folders, computed, earlier, strict=True):
            seconds = share + (lines[-1]["seconds"] if lines else 0.0)
            results.append({**result, "seconds": round(seconds, 2), "stage": folder.name})
            if is_first():
                results[-1]["digests"] = _digests(folder)
                write_json(folder / RESULT, results[-1])
        return broadcast_from_first(results)


def _read_result(path: pathlib.Path, numbers: Sequence[str] = ()) -> dict:
    kinds = {"seconds": int | float | None, "digests": dict | None}
    return read_json(path, kinds={**kinds, **dict.fromkeys(numbers, int | float)})


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of the trained parameters of the last checkpoint, of the cases of a readout, and
    of the manifest of a dataset, which has those of its parts, by path."""
    steps = [int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    names = [f"checkpoints/{max(steps)}/trainable"] if steps else []
    digests = {name: _sha256(folder / name) for name in (*names, *_READ)}
    return {name: digest for name, digest in digests.items() if digest}


def _sha256(path: pathlib.Path) -> str:
    """The SHA-256 of a file or folder; empty where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return sha256(path)
    return ""


def _begin(stage: Stage, folder: pathlib.Path) -> None:
    """Writes the stage's configuration and the provenance of this attempt."""
    write_json(folder / _CONFIG, stage.config)
    write_json(folder / _STAGE, {"version": stage.version, "parents": list(stage.spec.parents)})
    attempt = len(_attempts(folder)) + 1
    write_json(folder / f"provenance-{attempt}.json", provenance())


def _attempts(folder: pathlib.Path) -> list[pathlib.Path]:
    """The provenance files of a stage, one for each attempt."""
    return sorted(folder.glob("provenance*.json"))
