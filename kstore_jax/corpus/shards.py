"""Datasets on disk: ArrayRecord parts and a manifest.

A record is a block of consecutive entries as columns, in the safetensors format. A dataset is
written under a temporary name and renamed when whole; a reader checks every part against the
manifest before anything else and refuses one that is missing, cut short or altered, naming it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import safetensors.numpy
from array_record.python import array_record_module

from kstore_jax.corpus.encode import TokenRows, encode_entries
from kstore_jax.corpus.tokenizer import END_OF_TEXT
from kstore_jax.errors import DamagedFileError
from kstore_jax.world.biographies import Variant, write
from kstore_jax.world.language import Language
from kstore_jax.world.people import people

FORMAT = 1
BLOCK = 4096  # entries a record
PART = 64 * BLOCK  # entries a part
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A dataset in memory: E entries. `people` (E,) and `entries` (E,) say whose and which."""

    people: np.ndarray
    entries: np.ndarray
    rows: TokenRows


def write_dataset(
    folder: pathlib.Path, language: Language, seed: int, variant: Variant, size: int, config: dict
) -> dict:
    """Writes all entries of people 0 .. size - 1 and returns the manifest.

    A dataset that stands there already is whole, and is only checked.

    Args:
      folder: where the dataset will stand; it must not exist.
      config: the full generating configuration, kept in the manifest.
    """
    if folder.exists():
        return read_manifest(folder)
    temporary = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    total = size * variant.entries
    parts = max(1, -(-total // PART))
    tokens, described = 0, []
    for part in range(parts):
        path = temporary / f"part-{part:05d}-of-{parts:05d}.array_record"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for start in range(part * PART, min(total, (part + 1) * PART), BLOCK):
            index = np.arange(start, min(total, start + BLOCK, (part + 1) * PART))
            corpus = _block(language, seed, variant, index)
            tokens += len(corpus.rows.tokens)
            writer.write(_pack(corpus))
        writer.close()
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        described.append({"name": path.name, "bytes": len(content), "sha256": sha256})
    manifest = {
        "format": FORMAT,
        "config": config,
        "people": size,
        "entries": total,
        "tokens": tokens,
        "tokenizer": "gpt2",
        "parts": described,
    }
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    os.rename(temporary, folder)
    return manifest


def _block(language: Language, seed: int, variant: Variant, index: np.ndarray) -> Corpus:
    person, entry = np.divmod(index, variant.entries)
    written = write(language, seed, variant, people(language.pools, seed, person), entry)
    return Corpus(person, entry, encode_entries(language, written))


def _pack(corpus: Corpus) -> bytes:
    rows = corpus.rows
    return safetensors.numpy.save(
        {
            "people": corpus.people,
            "entries": corpus.entries.astype(np.int32),
            "offsets": rows.offsets.astype(np.int32),
            "tokens": rows.tokens,
            "value_spans": rows.value_spans.astype(np.int16),
            "name_spans": rows.name_spans.astype(np.int16),
        }
    )


def read_manifest(folder: pathlib.Path) -> dict:
    """The manifest of a dataset, after checking every part against it.

    Raises:
      DamagedFileError: a part or the manifest is missing, cut short or altered, or was written
        by a newer version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        version = int(manifest["format"])
        parts = [(str(p["name"]), int(p["bytes"]), str(p["sha256"])) for p in manifest["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedFileError(f"{folder / MANIFEST}: missing or unreadable") from None
    if version > FORMAT:
        raise DamagedFileError(
            f"{folder / MANIFEST}: format {version} is newer than this program's ({FORMAT})"
        )
    for name, size, sha256 in parts:
        path = folder / name
        if not path.exists():
            raise DamagedFileError(f"{path}: missing")
        content = path.read_bytes()
        if len(content) != size:
            raise DamagedFileError(f"{path}: {len(content)} bytes, not {size} as written")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DamagedFileError(f"{path}: changed since it was written (SHA-256 differs)")
    return manifest


def read_dataset(folder: pathlib.Path) -> Corpus:
    """A dataset, checked and read into memory as flat arrays."""
    blocks = []
    for part in read_manifest(folder)["parts"]:
        reader = array_record_module.ArrayRecordReader(str(folder / part["name"]))
        blocks.extend(safetensors.numpy.load(record) for record in reader.read_all())
        reader.close()
    columns = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    lengths = np.concatenate([np.diff(b["offsets"]) for b in blocks]).astype(np.int64)
    return Corpus(
        people=columns["people"],
        entries=columns["entries"],
        rows=TokenRows(
            tokens=columns["tokens"],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            value_spans=columns["value_spans"].astype(np.int64),
            name_spans=columns["name_spans"].astype(np.int64),
        ),
    )


def with_end_of_text(rows: TokenRows) -> TokenRows:
    """The same rows, each closed by `<|endoftext|>`; spans keep their places."""
    lengths = rows.lengths
    offsets = rows.offsets + np.arange(len(rows) + 1)
    tokens = np.full(offsets[-1], END_OF_TEXT, np.uint16)
    keep = np.ones(len(tokens), bool)
    keep[offsets[1:] - 1] = False
    tokens[keep] = rows.tokens[: int(lengths.sum())]
    return dataclasses.replace(rows, tokens=tokens, offsets=offsets)
