"""SIGTERM: training writes a checkpoint and ends; everything else ends at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from kstore_jax.errors import Stopped

_requested = threading.Event()
_deferrals = 0


def handle_sigterm() -> None:
    """Installs the handler: SIGTERM raises `Stopped`, or sets a flag inside `defer_sigterm`."""

    def stop(*_) -> None:
        _requested.set()
        if not _deferrals:
            raise Stopped

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def defer_sigterm() -> Iterator[Callable[[], bool]]:
    """Defers SIGTERM in its body: the yielded function returns True after one, and `Stopped` is
    raised when the body ends."""
    global _deferrals
    _deferrals += 1
    try:
        yield _requested.is_set
    finally:
        _deferrals -= 1
    if _requested.is_set() and not _deferrals:
        raise Stopped
