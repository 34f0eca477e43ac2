"""Where the time of a training goes."""

import collections
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import jax

PHASES = ("start", "compile", "data", "step", "evaluation", "checkpoint", "lost")
"""Until the first batch; tracing and XLA; waiting for batches, steps, evaluations, checkpoints; and
steps that were lost and repeated."""


def goodput(spent: Mapping[str, float]) -> float:
    """The share of all seconds spent on steps that were not repeated; 0 without any seconds."""
    return spent.get("step", 0.0) / (sum(spent.values()) or 1.0)


_compiled: dict[int, float] = collections.defaultdict(float)  # seconds, by thread


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):
        _compiled[threading.get_ident()] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def _now() -> tuple[float, float]:
    """The time, and how much of it this thread has compiled."""
    return time.perf_counter(), _compiled[threading.get_ident()]


class PhaseTimer:
    """Seconds by phase since it was made.

    Compilation counts as `compile`, not as the phase it happens in.
    """

    def __init__(self):
        self.seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._made = _now()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the time of its body as `phase`."""
        since = _now()
        try:
            yield
        finally:
            self._add(phase, since)

    def timed_items(self, phase: str, items: Iterable) -> Iterator:
        """Yields `items` and counts the time each takes as `phase`, the first one's as `start`."""
        name, since = "start", self._made
        for item in items:
            self._add(name, since)
            yield item
            name, since = phase, _now()

    def _add(self, phase: str, since: tuple[float, float]) -> None:
        seconds, compiling = (b - a for a, b in zip(since, _now(), strict=True))
        self.seconds["compile"] += compiling
        self.seconds[phase] += max(0.0, seconds - compiling)
