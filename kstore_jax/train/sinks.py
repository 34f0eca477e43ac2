"""Where metrics go beside `metrics.jsonl`, if asked for: TensorBoard and Weights & Biases."""

import importlib.util
import pathlib
from typing import Protocol

from kstore_jax.config import Telemetry
from kstore_jax.errors import UserError


class Sink(Protocol):
    def write(self, line: dict) -> None:
        """Takes a line of metrics."""

    def close(self) -> None: ...


def check(watch: Telemetry) -> None:
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


def sinks(watch: Telemetry, folder: pathlib.Path, first: int) -> list[Sink]:
    """The sinks asked for, of a stage in `folder` that goes on from step `first`."""
    check(watch)
    found: list[Sink] = []
    if watch.tensorboard:
        found.append(TensorBoard(folder, first))
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
    """Event files in `folder / "tensorboard"`; what a resumed training repeats is purged."""

    def __init__(self, folder: pathlib.Path, first: int):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(
            str(folder / "tensorboard"),
            purge_step=first + 1 if first else None,
            filename_suffix=f".{first}",
        )

    def write(self, line: dict) -> None:
        for name, value in flat(line).items():
            if name not in ("step", "steps"):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run named as the stage's folder, and gone on with when the training is; it takes no step
    twice."""

    def __init__(self, project: str, folder: pathlib.Path):
        import wandb

        name = folder.resolve().name
        self._run = wandb.init(project=project, id=name, name=name, dir=str(folder), resume="allow")

    def write(self, line: dict) -> None:
        self._run.log(flat(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()
