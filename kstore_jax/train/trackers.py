"""Where metrics go beside `metrics.jsonl`, if asked for: TensorBoard and Weights & Biases."""

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


class Sink(Protocol):
    def write(self, line: dict) -> None:
        """Takes a line of metrics."""

    def close(self) -> None: ...


def check(watch: TelemetryConfig) -> None:
    """Raises a UserError where something is asked for whose package is not here."""
    for asked, package, extra in (
        (watch.tensorboard, "tensorboardX", "tensorboard"),
        (watch.wandb, "wandb", "wandb"),
    ):
        if asked and importlib.util.find_spec(package) is None:
            raise UserError(
                f"telemetry.{extra}: needs the package {package}; "
                f"pip install 'kstore_jax[{extra}]' brings it"
            )


def sinks(watch: TelemetryConfig, folder: pathlib.Path, told: Sequence[dict]) -> list[Sink]:
    """The sinks asked for, of a stage in `folder` that goes on after the lines `told`."""
    check(watch)
    found: list[Sink] = []
    if watch.tensorboard:
        found.append(TensorBoard(folder, told))
    if watch.wandb:
        found.append(WeightsAndBiases(watch.wandb, folder))
    return found


def flat(line: dict, path: str = "") -> dict[str, float]:
    """The numbers of a nest of dictionaries, by names such as `spent/step`."""
    found = {}
    for name, value in line.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}{name}/")
        elif value is not None:
            found[path + name] = value
    return found


class TensorBoard:
    """Event files in `folder / "tensorboard"`, written anew from the lines `told` whenever a
    training goes on, since a kill takes what was not on the disk yet. Their time is that of the
    training, without what was between its attempts."""

    def __init__(self, folder: pathlib.Path, told: Sequence[dict]):
        import tensorboardX

        logs = folder / "tensorboard"
        shutil.rmtree(logs, ignore_errors=True)
        # A TensorBoard that is open forgets the steps it has read: all from 0 on.
        self._writer = tensorboardX.SummaryWriter(str(logs), purge_step=0)
        self._began = time.time() - (told[-1]["seconds"] if told else 0.0)
        for line in told:
            self.write(line)

    def write(self, line: dict) -> None:
        for name, value in flat(line).items():
            if name not in ("step", "steps"):
                self._writer.add_scalar(name, value, line["step"], self._began + line["seconds"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run named as the stage's folder, and gone on with when the training is; it takes no step
    twice. `folder / "wandb-id"` tells which: the same stage in two folders is two runs."""

    def __init__(self, project: str, folder: pathlib.Path):
        import wandb

        kept = folder / "wandb-id"
        if not kept.exists():
            write_text(kept, secrets.token_hex(8))
        self._run = wandb.init(
            project=project,
            id=kept.read_text(),
            name=folder.resolve().name,
            dir=str(folder),
            resume="allow",
        )

    def write(self, line: dict) -> None:
        self._run.log(flat(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()
