"""Atomic writes of files, and reads that name a damaged file."""

import contextlib
import hashlib
import json
import os
import pathlib
import resource
from collections.abc import Iterator, Mapping
from types import MappingProxyType, UnionType
from typing import Any, NoReturn

from kstore_jax.errors import DamagedFileError, UserError

_OPEN_FILES, _FEWEST_OPEN_FILES = 4096, 256  # TensorStore opens up to 128 at a time
PARTIAL_SUFFIX = ".writing"
"""Suffix of files and folders that are not complete yet."""


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file atomically: after a crash it has the new content or the old one."""
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    with errors_named(path):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def allow_open_files() -> None:
    """Lets this process open as many files as libraries need at a time that write in parallel.

    Raises:
      UserError: the limit of the system is too low.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now := wanted, most))
    if 0 <= now < _FEWEST_OPEN_FILES:
        raise UserError(f"ulimit -n: expected at least {_FEWEST_OPEN_FILES} open files, got {now}")


@contextlib.contextmanager
def errors_named(path: pathlib.Path) -> Iterator[None]:
    """Gives an error of the operating system the name of a file, which a failed write lacks."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file; of a folder, of the names and contents of all its files.

    Raises:
      OSError: a file or a folder cannot be read.
    """
    files = _files_below(path) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for each in files:
        with each.open("rb") as file:
            whole.update(each.relative_to(path).as_posix().encode() + b"\0")
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files in a folder and below, sorted; `rglob` leaves out folders that it may not read."""

    def fail(error: OSError) -> NoReturn:
        raise error

    walk = os.walk(folder, onerror=fail)
    return sorted(pathlib.Path(parent, name) for parent, _, names in walk for name in names)


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replaces a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(
    path: pathlib.Path,
    remove: pathlib.Path | None = None,
    kinds: Mapping[str, type | UnionType] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the object in a JSON file that `write_json` wrote.

    Args:
      remove: the path that the error message says to remove; None: the file itself.
      kinds: the type of each value that the object must have; may have, where it includes None.

    Raises:
      DamagedFileError: the file holds no JSON object, or one without such a value.
    """
    advice = f"remove {remove or 'it'} and run again"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path}: damaged; {advice}")
    with reading(path, advice):
        for name, kind in kinds.items():
            found = value.get(name)
            if not isinstance(found, kind) or isinstance(found, bool):
                raise TypeError(f"{name}: got {found!r:.40}")
    return value


@contextlib.contextmanager
def reading(path: pathlib.Path, advice: str = "remove it and run again") -> Iterator[None]:
    """Names a file where its content, which the block reads, is not as it was written.

    Raises:
      DamagedFileError: the block meets a missing key, another type or value, or too deep a nesting.
    """
    try:
        yield
    except KeyError as error:
        raise DamagedFileError(f"{path}: damaged ({error} is missing); {advice}") from error
    except RecursionError as error:
        raise DamagedFileError(f"{path}: damaged (nested too deep); {advice}") from error
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise DamagedFileError(f"{path}: damaged ({error}); {advice}") from error
