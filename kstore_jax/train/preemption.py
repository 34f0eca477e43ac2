"""SIGTERM: a training writes a checkpoint and ends; everything else ends at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from kstore_jax.errors import Stopped

_asked = threading.Event()
_deferrals = 0


def listen() -> None:
    """From now on SIGTERM raises `Stopped`, or, inside `deferred`, is remembered."""

    def stop(*_) -> None:
        _asked.set()
        if not _deferrals:
            raise Stopped

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM only makes what is yielded true; the body ends when it can, and `Stopped` is
    raised then."""
    global _deferrals
    _deferrals += 1
    try:
        yield _asked.is_set
    finally:
        _deferrals -= 1
    if _asked.is_set() and not _deferrals:
        raise Stopped
