"""A journal of answers that were paid for: one JSON object a line, only ever added to.

A line reaches the system in one write before anything else is done with it, so killing the process
loses nothing; once a second what was written is forced to the disk. What a loss of power leaves of
the last line is dropped when the journal is opened again.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Collection, Iterator

import filelock

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import WRITING, read_json, write_json

JOURNAL = "journal.jsonl"
CONFIG = "config.json"
_LOCK = ".lock"
_SYNC_SECONDS = 1.0


class Journal:
    """A journal to be added to, by one process at a time."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._end = _whole(path)
        os.ftruncate(self._file.fileno(), self._end)
        self._synced = time.monotonic()

    def append(self, record: dict) -> None:
        """Adds a record; OSError where it cannot be written whole, and then nothing of it stays."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            written = self._file.write(line)
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            os.ftruncate(self._file.fileno(), self._end)
            raise
        self._end += len(line)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Forces what was added to the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._file.close()


def _whole(path: pathlib.Path) -> int:
    """How many bytes of a journal are whole lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                return start + newline + 1
            end = start
    return 0


def records(path: pathlib.Path, fields: Collection[str]) -> Iterator[tuple[int, dict]]:
    """The records of a journal in the order they were added, each with where it begins in bytes;
    a torn last line is left out.

    Raises:
      DamagedFileError: another line is no JSON object of these fields; the message names it.
    """
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield offset, _record(line, f"{path}:{number}", fields)
            offset += len(line)


def read_at(path: pathlib.Path, offsets: list[int]) -> list[dict]:
    """The records that begin at these bytes."""
    with path.open("rb") as file:
        lines = []
        for offset in offsets:
            file.seek(offset)
            lines.append(_record(file.readline(), f"{path}, byte {offset}"))
    return lines


def _record(line: bytes, where: str, fields: Collection[str] = ()) -> dict:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(fields):
        raise DamagedFileError(f"{where}: damaged; remove the line and run again")
    return found


def check(folder: pathlib.Path, config: dict) -> None:
    """Raises UserError, which names the field, where a folder was made by another configuration."""
    if not (folder / CONFIG).exists():
        if folder.exists() and (not folder.is_dir() or any(_not_ours(folder))):
            raise UserError(f"{folder}: is not empty and holds no journal of answers")
        return
    made = read_json(folder / CONFIG)
    for name in {**config, **made}:
        if made.get(name) != config.get(name):
            raise UserError(
                f"{folder}: made with another {name}: {made.get(name)!r}, not {config.get(name)!r}"
            )


def _not_ours(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in folder.iterdir() if path.name not in (_LOCK, CONFIG + WRITING))


@contextlib.contextmanager
def opened(folder: pathlib.Path, config: dict) -> Iterator[Journal]:
    """The journal of a folder, which is made where it is not there.

    A new one in which nothing was written down is removed again.

    Args:
      config: all that the questions depend on, plain JSON; kept beside the journal.

    Raises:
      UserError: the folder was made by another configuration, or another process writes to it.
    """
    check(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder}: another process writes to this journal") from None
    with lock:
        check(folder, config)
        if new := not (folder / CONFIG).exists():
            write_json(folder / CONFIG, config)
        journal = Journal(folder / JOURNAL)
        try:
            yield journal
        finally:
            journal.close()
            if new and not (folder / JOURNAL).stat().st_size:  # nobody answered
                for name in (JOURNAL, CONFIG, _LOCK):
                    (folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
