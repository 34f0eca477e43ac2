"""SIGTERM: training writes a checkpoint and ends; everything else ends at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from kstore_jax.errors import Stopped

_requested = threading.Event()
_deferrals = 0


def handle_sigterm() -> None:
    """Installs the handler: the first SIGTERM raises `Stopped`, or sets a flag inside
    `defer_sigterm`. Later ones are ignored, so that none interrupts a checkpoint: a process group,
    a launch script and a parent may all pass on the same stop."""

    def stop(*_) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _requested.set()
        if not _deferrals:
            raise Stopped

    _requested.clear()
    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def defer_sigterm() -> Iterator[Callable[[], bool]]:
    """Defers SIGTERM in its body: the yielded function returns True after one, and `Stopped` is
    raised when the body ends, also by an error."""
    global _deferrals
    _deferrals += 1
    try:
        yield _requested.is_set
    finally:
        _deferrals -= 1
        if _requested.is_set() and not _deferrals:
            raise Stopped
