"""Optional destinations of metrics besides `metrics.jsonl`: TensorBoard and Weights & Biases."""

import functools
import pathlib
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kstore_jax.files import write_text
from kstore_jax.train.config import TelemetryConfig


class Tracker(Protocol):
    def write(self, line: dict) -> None:
        """Logs a line of metrics."""

    def close(self) -> None: ...


class Trackers:
    """The configured trackers of a stage in `folder` that resumes after `lines`.

    Training never depends on one: where its package is missing, or it raises an error, stderr gets
    one line, and it gets no more metrics.
    """

    def __init__(self, config: TelemetryConfig, folder: pathlib.Path, lines: Sequence[dict]):
        self._trackers: dict[str, Tracker] = {}
        wanted = {
            "tensorboard": config.tensorboard and (lambda: TensorBoard(folder, lines)),
            "wandb": config.wandb and (lambda: WeightsAndBiases(config.wandb, folder)),
        }
        for name, start in wanted.items():
            if start and (tracker := self._attempt(name, start)):
                self._trackers[name] = tracker

    def write(self, line: dict) -> None:
        """Logs a line of metrics."""
        for name, tracker in [*self._trackers.items()]:
            self._attempt(name, functools.partial(tracker.write, line))

    def close(self) -> None:
        for name, tracker in [*self._trackers.items()]:
            self._attempt(name, tracker.close)

    def _attempt(self, name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # a tracker is another program and may raise anything
            self._trackers.pop(name, None)
            first, *_ = str(error).splitlines() or [""]
            cause = f"{type(error).__name__}: {first}"
            if isinstance(error, ModuleNotFoundError):
                cause = f"{first}; pip install 'kstore_jax[{name}]' brings it"
            print(
                f"note: telemetry.{name}: {cause}; metrics.jsonl has the metrics", file=sys.stderr
            )


def flatten_metrics(line: dict, path: str = "") -> dict[str, float]:
    """The numbers of nested dictionaries, by names such as `spent/step`."""
    numbers = {}
    for name, value in line.items():
        if isinstance(value, dict):
            numbers |= flatten_metrics(value, f"{path}{name}/")
        elif value is not None:
            numbers[path + name] = value
    return numbers


class TensorBoard:
    """Event files in `folder / "tensorboard"`.

    They are rewritten from `lines` whenever training resumes, since a kill loses events that were
    not on disk. Wall times leave out the pauses between attempts.
    """

    def __init__(self, folder: pathlib.Path, lines: Sequence[dict]):
        import tensorboardX

        logs = folder / "tensorboard"
        shutil.rmtree(logs, ignore_errors=True)
        # an open TensorBoard drops the steps it has read, from 0 on
        self._writer = tensorboardX.SummaryWriter(str(logs), purge_step=0)
        self._began = time.time() - (lines[-1]["seconds"] if lines else 0.0)
        for line in lines:
            self.write(line)

    def write(self, line: dict) -> None:
        for name, value in flatten_metrics(line).items():
            if name not in ("step", "steps"):
                self._writer.add_scalar(name, value, line["step"], self._began + line["seconds"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run named as the stage's folder, resumed with the training; it logs no step twice.

    `folder / "wandb-id"` holds its id: the same stage in two folders is two runs.
    """

    def __init__(self, project: str, folder: pathlib.Path):
        import wandb  # pyright: ignore[reportMissingImports]  # an optional extra

        id_file = folder / "wandb-id"
        if not id_file.exists():
            write_text(id_file, secrets.token_hex(8))
        self._run = wandb.init(
            project=project,
            id=id_file.read_text(encoding="utf-8"),
            name=folder.resolve().name,
            dir=str(folder),
            resume="allow",
        )

    def write(self, line: dict) -> None:
        self._run.log(flatten_metrics(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()
