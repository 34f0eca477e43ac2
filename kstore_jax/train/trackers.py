"""Optional destinations of metrics besides `metrics.jsonl`: TensorBoard and Weights & Biases."""

import importlib.util
import pathlib
import secrets
import shutil
import time
from collections.abc import Sequence
from typing import Protocol

from kstore_jax.errors import UserError
from kstore_jax.files import write_text
from kstore_jax.train.config import TelemetryConfig


class Tracker(Protocol):
    def write(self, line: dict) -> None:
        """Logs a line of metrics."""

    def close(self) -> None: ...


def check_installed(config: TelemetryConfig) -> None:
    """Raises a UserError where the package of a configured tracker is not installed."""
    for wanted, package, extra in (
        (config.tensorboard, "tensorboardX", "tensorboard"),
        (config.wandb, "wandb", "wandb"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise UserError(
                f"telemetry.{extra}: needs the package {package}; "
                f"pip install 'kstore_jax[{extra}]' brings it"
            )


def open_trackers(
    config: TelemetryConfig, folder: pathlib.Path, lines: Sequence[dict]
) -> list[Tracker]:
    """The configured trackers of a stage in `folder` that resumes after `lines`."""
    check_installed(config)
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(folder, lines))
    if config.wandb:
        trackers.append(WeightsAndBiases(config.wandb, folder))
    return trackers


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
