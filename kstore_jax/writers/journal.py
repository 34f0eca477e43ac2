"""An append-only journal of a model's answers: one JSON object a line.

A record is one write to the operating system before anything else happens, so killing the process
loses none. Once a second the file is synced to disk. After a loss of power the next open drops a
torn last line.
"""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

import filelock

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import PARTIAL_SUFFIX, read_json, write_json

JOURNAL = "journal.jsonl"
CONFIG = "config.json"
_LOCK = ".lock"
_SYNC_SECONDS = 1.0


class Journal:
    """A journal open for appending, by one process at a time."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._end = _end_of_last_line(path)
        os.ftruncate(self._file.fileno(), self._end)
        self._synced_at = time.monotonic()

    def append(self, record: dict) -> None:
        """Adds a record; where it cannot be written completely, removes the part and raises
        OSError."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            written = self._file.write(line)
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            os.ftruncate(self._file.fileno(), self._end)
            raise
        self._end += len(line)
        if time.monotonic() - self._synced_at > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Forces all records to disk."""
        os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._file.close()


def _end_of_last_line(path: pathlib.Path) -> int:
    """The number of bytes up to the last line feed."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                return start + newline + 1
            end = start
    return 0


def read_records(path: pathlib.Path, fields: Mapping[str, type]) -> Iterator[tuple[int, dict]]:
    """Yields (byte offset, record) in the order of writing; leaves out a torn last line.

    Args:
      fields: the type of each field of a record.

    Raises:
      DamagedFileError: another line is not a JSON object with these fields; names the line.
    """
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield offset, _parse_record(line, f"{path}:{number}", fields)
            offset += len(line)


def read_at(path: pathlib.Path, offsets: list[int], fields: Mapping[str, type]) -> list[dict]:
    """The records that begin at these byte offsets, as `read_records` yields them."""
    with path.open("rb") as file:
        records = []
        for offset in offsets:
            file.seek(offset)
            records.append(_parse_record(file.readline(), f"{path}, byte {offset}", fields))
    return records


def _parse_record(line: bytes, where: str, fields: Mapping[str, type]) -> dict:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name), kind) for name, kind in fields.items()
    ):
        raise DamagedFileError(f"{where}: damaged; remove the line and run again")
    return record


def check_config(folder: pathlib.Path, config: dict) -> None:
    """Raises UserError where another configuration made the folder; names the field."""
    if not (folder / CONFIG).exists():
        if folder.exists() and (not folder.is_dir() or any(_foreign_files(folder))):
            raise UserError(f"{folder}: is not empty and has no journal of answers")
        return
    saved = read_json(folder / CONFIG)
    for name in {**config, **saved}:
        if saved.get(name) != config.get(name):
            raise UserError(
                f"{folder}: made with another {name}: {saved.get(name)!r}, not {config.get(name)!r}"
            )


def _foreign_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in folder.iterdir() if path.name not in (_LOCK, CONFIG + PARTIAL_SUFFIX))


@contextlib.contextmanager
def open_journal(folder: pathlib.Path, config: dict) -> Iterator[Journal]:
    """Opens the journal of a folder for appending; creates both where missing.

    Removes a new journal again if nothing was appended to it.

    Args:
      config: everything that the prompts depend on, plain JSON; saved beside the journal.

    Raises:
      UserError: another configuration made the folder, or another process writes to it.
    """
    check_config(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder}: another process writes to this journal") from None
    with lock:
        check_config(folder, config)
        if new := not (folder / CONFIG).exists():
            write_json(folder / CONFIG, config)
        journal = Journal(folder / JOURNAL)
        try:
            yield journal
        finally:
            journal.close()
            if new and not (folder / JOURNAL).stat().st_size:
                for name in (JOURNAL, CONFIG, _LOCK):
                    (folder / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
