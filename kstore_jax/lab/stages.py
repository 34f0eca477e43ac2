"""The graph of stages and its cache.

A stage's folder is named by a hash of the configuration it depends on and of its parents, so
stages that agree are computed once, whoever asks. A stage is done when its `result.json` is there;
that file is renamed into place last. A lock, which dies with its process, keeps two workers from
computing one stage at the same time.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable

import filelock

from kstore_jax.files import read_json, write_json
from kstore_jax.train.telemetry import METRICS, code_version, provenance, read_metrics

RESULT = "result.json"


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


class Cache:
    """The stages computed so far, one folder each under `root`."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def folder(self, stage: Stage) -> pathlib.Path:
        return self.root / f"{stage.name}-{stage.key}"

    def result(self, stage: Stage) -> dict | None:
        """What a stage found, None where it is not done."""
        path = self.folder(stage) / RESULT
        return read_json(path) if path.exists() else None

    def code(self, stage: Stage) -> set[str]:
        """The versions of the code that worked on a stage, one an attempt that differs."""
        return {code_version(read_json(path)) for path in _attempts(self.folder(stage))}

    def ensure(self, stage: Stage) -> dict:
        """The result of a stage; it and its parents are computed where they are not done."""
        for parent in stage.parents:
            self.ensure(parent)
        if (done := self.result(stage)) is not None:
            return done
        folder = self.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
            if (done := self.result(stage)) is not None:
                return done
            write_json(folder / "config.json", stage.config)
            attempt = len(_attempts(folder)) + 1
            write_json(folder / f"provenance-{attempt}.json", provenance())
            earlier = read_metrics(folder / METRICS)
            started = time.monotonic()
            found = stage.compute(folder)
            seconds = time.monotonic() - started + (earlier[-1]["seconds"] if earlier else 0.0)
            result = {**found, "seconds": round(seconds, 2)}
            write_json(folder / RESULT, result)
            return result


def _attempts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Where each attempt at a stage says by what code and on what machine it was made."""
    return list(folder.glob("provenance*.json"))


def usable_cores() -> list[int]:
    """The cores this process may use, all of them where the system does not bind processes."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
