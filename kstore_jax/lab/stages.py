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

from kstore_jax.train.telemetry import METRICS, provenance, read_metrics

RESULT = "result.json"
WRITING = ".writing"  # the suffix of what is not whole yet


def write_json(path: pathlib.Path, value) -> None:
    """Writes a JSON file that is either whole or not there."""
    temporary = path.with_name(path.name + WRITING)
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


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
        self._root = root

    def folder(self, stage: Stage) -> pathlib.Path:
        return self._root / f"{stage.name}-{stage.key}"

    def result(self, stage: Stage) -> dict | None:
        """What a stage found, None where it is not done."""
        path = self.folder(stage) / RESULT
        return json.loads(path.read_text()) if path.exists() else None

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
            write_json(folder / "provenance.json", provenance())
            earlier = read_metrics(folder / METRICS)
            started = time.monotonic()
            found = stage.compute(folder)
            seconds = time.monotonic() - started + (earlier[-1]["seconds"] if earlier else 0.0)
            result = {**found, "seconds": round(seconds, 2)}
            write_json(folder / RESULT, result)
            return result
