"""Whether a probe was trained to the end: its loss on people of P_train whom it is not trained on.

Numbers of a probe that was still improving are too low, and say little about the model.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.model.forward import Params
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.probe_config import Probe
from kstore_jax.readouts.probe_data import ProbeExamples, ProbeTasks
from kstore_jax.readouts.probes import probe_scores
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world import random

IMPROVING = 0.02
"""A probe was still improving where its held-back loss fell by a larger fraction in the last
quarter of its steps."""
OF_THE_FALL = 0.03
"""And where a larger part of its whole fall was in that quarter: a slow probe has barely begun. A
loss that falls evenly with a learning rate linear to zero has 0.06 of its fall there, twice as
much."""
_WHOLE_FALL = 0.01  # of the loss before training; a smaller whole fall is noise
_MEASURED_AT = 1 / 2, 3 / 4  # of the steps, besides before the first and after the last


def split_people(context: Context, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The people of P_train held back from the training of probes, and as many who are trained on,
    to compare with: (people,) bool both. At least one person is trained on."""
    shuffled = random.shuffled_members(context.in_train, context.world_seed, "probe validation")
    count = min(round(fraction * len(shuffled)), max(0, len(shuffled) - 1))
    everyone = np.arange(len(context.in_train))
    return np.isin(everyone, shuffled[:count]), np.isin(everyone, shuffled[count : 2 * count])


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """Measures a probe in the course of its training.

    Attributes:
      context: of the experiment, whose shape has no dropout.
      training, norm, tasks, num_classes: of the probe.
      trained: all texts trained on, whose statistics BatchNorm uses.
      parts: the texts to measure: `held_back`, and `trained` ones of as many people.
      people: how many people are held back.
    """

    context: Context
    training: Probe
    norm: str
    tasks: ProbeTasks
    num_classes: tuple[int, ...]
    trained: ProbeExamples
    parts: dict[str, ProbeExamples]
    people: int

    @property
    def measured_at(self) -> list[int]:
        """The steps after which training is interrupted for a measurement."""
        steps, call = self.training.steps, self.training.steps_per_call
        points = {call * round(share * steps / call) for share in _MEASURED_AT}
        return sorted(point for point in points if 0 < point < steps)

    def measure(self, params: Params) -> dict[str, dict[str, float]]:
        """`loss` (nats) and `first` (share of right first tokens) of each part: means over the
        tasks of the mean over their readings.

        Args:
          params: as `with_probe` returns them, whole on one device of this process.
        """
        measured: dict[str, dict[str, float]] = {"loss": {}, "first": {}}
        is_first = np.array([kind == "first" for _, kind in self.tasks])
        for name, examples in self.parts.items():
            hits, losses = probe_scores(
                self.context.shape, params, self.num_classes, self.norm, self.trained, examples
            )
            active = examples.active.transpose(2, 0, 1)
            measured["loss"][name] = _mean(losses, active)
            measured["first"][name] = _mean(hits[is_first], active[is_first])
        return measured

    def result(self, folder: pathlib.Path, before: dict, after: dict) -> dict:
        """The course of a training: `people` held back; `steps` of the measurements; `loss` and
        `first` at each of them, by part; `still_improving`.

        Args:
          folder: of its metrics.
          before, after: the measurements before the first and after the last step.
        """
        lines = [line for line in read_metrics(folder / METRICS) if line.get("evaluation")]
        measured = [before, *(line["evaluation"] for line in lines), after]
        courses = {
            kind: {name: [one[kind][name] for one in measured] for name in self.parts}
            for kind in before
        }
        steps = [0, *(line["step"] for line in lines), self.training.steps]
        improving = still_improving(steps, courses["loss"]["held_back"])
        return {"people": self.people, "steps": steps, **courses, "still_improving": improving}


def _mean(values_TxNxQ: np.ndarray, active_TxNxQ: np.ndarray) -> float:
    """The mean over the tasks of the mean over the readings of a task, where it has any."""
    counts = active_TxNxQ.sum((1, 2))
    totals = (values_TxNxQ * active_TxNxQ).sum((1, 2), dtype=np.float64)
    return float((totals[counts > 0] / counts[counts > 0]).mean())


def still_improving(steps: Sequence[int], losses: Sequence[float]) -> bool | None:
    """Whether the held-back loss still fell at the end, in a quarter of the steps by `IMPROVING` or
    by `OF_THE_FALL`; None where nothing was measured within the training.

    Args:
      steps: of the measurements. Where the last but one is not at 3/4, the fall since then is
        scaled to a quarter of the steps.
      losses: at these steps.
    """
    if len(steps) < 3:
        return None
    quarters = 4 * (steps[-1] - steps[-2]) / steps[-1]
    last, whole = (losses[-2] - losses[-1]) / quarters, losses[0] - losses[-1]
    slow = whole > _WHOLE_FALL * losses[0] and last > OF_THE_FALL * whole
    return last > IMPROVING * losses[-2] or slow


def marked(groups: Sequence[Measured]) -> list[Measured]:
    """The groups, with `, still improving` in the label where the probe of any row was."""
    return [
        dataclasses.replace(group, label=f"{group.label}, still improving")
        if group.has("training") and any(group.each("training", "still_improving"))
        else group
        for group in groups
    ]


def table(title: str, groups: Sequence[Measured]) -> list[Table]:
    """The losses of each probe and whether it was still improving, a line a row of the results;
    none where nobody was held back."""
    bodies = [
        Body(group.label, group.wording, [*map(_line, group.seeds, group.each("training"))])
        for group in groups
        if group.has("training")
    ]
    return [Table(f"{title}: is the probe trained?", _NOTE, bodies, _HEADS)]


_HEADS = ("steps", "loss before", "after 3/4 of the steps", "at the end", "trained on", "verdict")
_NOTE = (
    "Loss in nats, a mean over the tasks and the positions read, about people of the trained half "
    "who were held back from the probe, and at the end about as many who were trained on. Shares "
    "are first tokens in % of the same people. Still improving: the loss of people held back fell "
    f"by more than {100 * IMPROVING:g} %, or by more than {100 * OF_THE_FALL:g} % of its whole "
    "fall, in the last quarter of the steps. Such a probe reads less than the model holds: compare "
    "its numbers with nothing, and train it longer."
)


_VERDICTS = {True: "still improving", False: "no longer improving", None: "not known"}


def _line(seed: int, training: dict) -> Line:
    held_back, trained = (training["loss"][name] for name in ("held_back", "trained"))
    between = f"{held_back[-2]:.3f}" if len(held_back) > 2 else "–"
    ends = (f"{loss:.3f}" for loss in (held_back[-1], trained[-1]))
    verdict = _VERDICTS[training["still_improving"]]
    shares = {name.replace("_", " "): course[-1] for name, course in training["first"].items()}
    before = f"{training['steps'][-1]:,}", f"{held_back[0]:.3f}", between, *ends, verdict
    return Line(f"seed {seed}", shares, "ours", before)
