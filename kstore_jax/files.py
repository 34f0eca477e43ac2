"""Files of our own: written whole or not at all, and named where they are damaged."""

import json
import os
import pathlib

from kstore_jax.errors import DamagedFileError

PARTIAL_SUFFIX = ".writing"  # the suffix of what is not whole yet


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is either whole or as it was, whatever is killed or loses its power."""
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file that is either whole or as it was."""
    write_bytes(path, text.encode())


def write_json(path: pathlib.Path, value) -> None:
    """Writes a JSON file that is either whole or as it was."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path, remove: pathlib.Path | None = None) -> dict:
    """The object in a JSON file that `write_json` wrote.

    Raises:
      DamagedFileError: it holds no JSON object; the message says to remove `remove`, the file
        itself where that is None, and to run again.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path}: damaged; remove {remove or 'it'} and run again")
    return found
