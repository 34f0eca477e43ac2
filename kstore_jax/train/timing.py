"""Where the time of a training goes."""

import collections
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import jax

PARTS = ("start", "compile", "data", "step", "evaluation", "checkpoint", "lost")
"""What the seconds are told of: until the first batch; XLA and tracing; waiting for batches, for
steps, for evaluations, for checkpoints; and steps that were done and had to be done again."""


def goodput(spent: Mapping[str, float]) -> float:
    """The share of all seconds that went to steps which were done once, 0 where none is told."""
    return spent.get("step", 0.0) / (sum(spent.values()) or 1.0)


_compiled = collections.Counter()  # seconds, by thread


def _listen(event: str, seconds: float, **_) -> None:
    if event.startswith("/jax/core/compile/"):
        _compiled[threading.get_ident()] += seconds


jax.monitoring.register_event_duration_secs_listener(_listen)


def _now() -> tuple[float, float]:
    """The time, and how much of it this thread has compiled."""
    return time.perf_counter(), _compiled[threading.get_ident()]


class Clock:
    """Seconds by part, since it was made.

    What JAX compiles meanwhile counts as `compile` and not as the part it happens in.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._made = _now()

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts what happens inside."""
        since = _now()
        try:
            yield
        finally:
            self._add(part, since)

    def waited(self, part: str, items: Iterable) -> Iterator:
        """`items`, whose making is counted; the time before the first one is `start`."""
        name, since = "start", self._made
        for item in items:
            self._add(name, since)
            yield item
            name, since = part, _now()

    def _add(self, part: str, since: tuple[float, float]) -> None:
        seconds, compiling = (b - a for a, b in zip(since, _now(), strict=True))
        self.seconds["compile"] += compiling
        self.seconds[part] += max(0.0, seconds - compiling)
