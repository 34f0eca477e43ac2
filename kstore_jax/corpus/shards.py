"""Datasets on disk: ArrayRecord parts and a manifest.

A record is a block of consecutive entries as columns, in the safetensors format. A dataset is
written under a temporary name, part by part, and renamed when whole; interrupted writing goes on
after the last whole part. A reader checks every part against the manifest before anything else and
refuses one that is missing, cut short or altered, naming it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import filelock
import numpy as np
import safetensors.numpy
from array_record.python import array_record_module
from tqdm import tqdm

from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, concatenate, encode_biographies
from kstore_jax.corpus.tokenizer import Tokenizer
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import read_json, write_json
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.people import draw_people

FORMAT = 2
ENTRIES_PER_RECORD = 8192  # entries a record
ENTRIES_PER_PART = 32 * ENTRIES_PER_RECORD  # entries a part
MANIFEST = "manifest.json"
_BEGUN = "config.json"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A dataset in memory: E entries. `people` (E,) and `entries` (E,) say whose and which."""

    people: np.ndarray
    entries: np.ndarray
    texts: TokenizedTexts


Part = Callable[[], Iterable[Corpus]]


def biography_block(
    table: TokenTable, seed: int, variant: Variant, first: int, entries: np.ndarray
) -> Corpus:
    """Some biographies of people `first` and following.

    Args:
      entries: ascending numbers of biographies, `variant.entries` a person, the first person's
        first being 0.
    """
    person, entry = np.divmod(np.asarray(entries, np.int64), variant.biographies_per_person)
    lowest, highest = int(person[0]), int(person[-1])
    who = draw_people(table.language.pools, seed, first + np.arange(lowest, highest + 1))
    written = write_biographies(table.language, seed, variant, who.take(person - lowest), entry)
    return Corpus(first + person, entry, encode_biographies(table, written))


def fresh_epoch(
    table: TokenTable, seed: int, variant: Variant, first: int, size: int, number: int
) -> TokenizedTexts:
    """All texts of a pass of fresh text: entry `number` of people first .. first + size - 1."""
    blocks = []
    for start in range(0, size, ENTRIES_PER_RECORD):
        ids = first + np.arange(start, min(size, start + ENTRIES_PER_RECORD))
        who = draw_people(table.language.pools, seed, ids)
        written = write_biographies(table.language, seed, variant, who, np.full(len(who), number))
        blocks.append(encode_biographies(table, written))
    return concatenate(blocks)


def biography_parts(
    table: TokenTable, seed: int, variant: Variant, first: int, size: int
) -> list[Part]:
    """The parts of the dataset of all entries of people first .. first + size - 1."""
    return entry_parts(
        size * variant.biographies_per_person,
        lambda entries: biography_block(table, seed, variant, first, entries),
    )


def entry_parts(total: int, block: Callable[[np.ndarray], Corpus]) -> list[Part]:
    """The parts of a dataset of `total` entries; `block` makes those of ascending numbers."""

    def part(start: int, stop: int) -> Iterator[Corpus]:
        for first in range(start, stop, ENTRIES_PER_RECORD):
            yield block(np.arange(first, min(stop, first + ENTRIES_PER_RECORD)))

    starts = range(0, total, ENTRIES_PER_PART)
    return [
        functools.partial(part, start, min(total, start + ENTRIES_PER_PART)) for start in starts
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A dataset to be written.

    Attributes:
      config: the full generating configuration, plain JSON; kept in the manifest.
      tokenizer: the one that makes the tokens.
      parts: opens the sources and returns the parts, each a function that yields the blocks of one
        file.
    """

    config: dict
    tokenizer: Tokenizer
    parts: Callable[[], Sequence[Part]]


def write_dataset(dataset: DatasetSpec, folder: pathlib.Path, workers: int = 1) -> dict:
    """Writes a dataset and returns its manifest.

    The bytes do not depend on the number of workers. A dataset of the same configuration that
    stands there already is whole, and is only checked; what an interrupted attempt wrote of it is
    kept.

    Args:
      folder: where the dataset will stand.
      workers: how many parts are written at a time.

    Raises:
      UserError: another dataset stands there.
      DamagedFileError: the dataset that stands there is not as it was written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{folder.name}.writing")
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MANIFEST).exists():
                raise UserError(f"{folder}: is not empty and holds no dataset")
            manifest = read_manifest(folder)
            if manifest["config"] != dataset.config:
                raise UserError(f"{folder}: holds a dataset of another configuration")
            return manifest
        parts = dataset.parts()
        _begin(temporary, dataset.config)
        names = [f"part-{i:05d}-of-{len(parts):05d}.array_record" for i in range(len(parts))]
        described = _write_parts([temporary / name for name in names], parts, workers)
        manifest = {
            "format": FORMAT,
            "config": dataset.config,
            "entries": sum(part["entries"] for part in described),
            "tokens": sum(part["tokens"] for part in described),
            "tokenizer": dataset.tokenizer.fingerprint,
            "parts": described,
        }
        manifest["sha256"] = _checksum(manifest)
        write_json(temporary / MANIFEST, manifest)
        for name in names:
            _description(temporary / name).unlink()
        (temporary / _BEGUN).unlink()
        os.rename(temporary, folder)
    return manifest


def _begin(temporary: pathlib.Path, config: dict) -> None:
    """Makes the folder; what another configuration left there is removed."""
    begun, described = temporary / _BEGUN, json.dumps(config)
    if not begun.exists() or begun.read_text() != described:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        begun.write_text(described)


def _description(path: pathlib.Path) -> pathlib.Path:
    """What is beside a part once it is whole."""
    return path.with_suffix(".json")


def _write_parts(paths: list[pathlib.Path], parts: Sequence[Part], workers: int) -> list[dict]:
    pool = futures.ThreadPoolExecutor(workers)
    try:
        writing = [pool.submit(_write_part, *both) for both in zip(paths, parts, strict=True)]
        with tqdm(desc="shards", unit=" entries", unit_scale=True, delay=1, leave=False) as bar:
            for done in futures.as_completed(writing):
                bar.update(done.result()["entries"])
        return [done.result() for done in writing]
    finally:
        pool.shutdown(cancel_futures=True)


def _write_part(path: pathlib.Path, part: Part) -> dict:
    described = _description(path)
    if described.exists():
        found = read_json(described)
        with contextlib.suppress(DamagedFileError):  # it is written again
            _check_part(path, found)
            return found
    entries = tokens = 0
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for corpus in part():
        entries += len(corpus.texts)
        tokens += len(corpus.texts.tokens)
        writer.write(_pack(corpus))
    writer.close()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "entries": entries,
        "tokens": tokens,
    }
    write_json(described, found)
    return found


def _pack(corpus: Corpus) -> bytes:
    rows = corpus.texts
    return safetensors.numpy.save(
        {
            "people": corpus.people,
            "entries": corpus.entries.astype(np.int32),
            "lengths": rows.lengths.astype(np.int32),
            "tokens": rows.tokens,
            "value_spans": rows.value_spans,
            "name_spans": rows.name_spans,
        }
    )


def _checksum(manifest: dict) -> str:
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: pathlib.Path) -> dict:
    """The manifest of a dataset, after checking every part against it.

    Raises:
      DamagedFileError: a part or the manifest is missing, cut short or altered, or was written
        in another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version = int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedFileError(f"{path}: missing or unreadable") from None
    if version != FORMAT:
        age = "newer" if version > FORMAT else "older"
        raise DamagedFileError(f"{path}: format {version} is {age} than this program's ({FORMAT})")
    if manifest.get("sha256") != _checksum(manifest):
        raise DamagedFileError(f"{path}: changed since it was written (SHA-256 differs)")
    for part in manifest["parts"]:
        _check_part(folder / part["name"], part)
    return manifest


def _check_part(path: pathlib.Path, part: dict) -> None:
    if not path.exists():
        raise DamagedFileError(f"{path}: missing")
    if (size := path.stat().st_size) != part["bytes"]:
        raise DamagedFileError(f"{path}: {size} bytes, not {part['bytes']} as written")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
            raise DamagedFileError(f"{path}: changed since it was written (SHA-256 differs)")


def read_dataset(folder: pathlib.Path) -> Corpus:
    """A dataset, checked and read into memory as flat arrays."""
    manifest = read_manifest(folder)
    counts = {name: manifest["entries"] for name in ("people", "entries", "lengths")}
    counts |= {name: manifest["entries"] for name in ("value_spans", "name_spans")}
    counts["tokens"] = manifest["tokens"]
    columns: dict[str, np.ndarray] = {}
    filled = dict.fromkeys(counts, 0)
    for part in manifest["parts"]:
        reader = array_record_module.ArrayRecordReader(str(folder / part["name"]))
        for record in range(reader.num_records()):
            for name, block in safetensors.numpy.load(reader.read([record])[0]).items():
                if name not in columns:
                    columns[name] = np.empty((counts[name], *block.shape[1:]), block.dtype)
                columns[name][filled[name] : filled[name] + len(block)] = block
                filled[name] += len(block)
        reader.close()
    offsets = np.concatenate([[0], np.cumsum(columns["lengths"], dtype=np.int64)])
    rows = TokenizedTexts(columns["tokens"], offsets, columns["value_spans"], columns["name_spans"])
    return Corpus(columns["people"], columns["entries"], rows)


def with_end_of_text(rows: TokenizedTexts, end_of_text: int) -> TokenizedTexts:
    """The same rows, each closed by the end of text; spans keep their places."""
    lengths = rows.lengths
    offsets = rows.offsets + np.arange(len(rows) + 1)
    tokens = np.full(offsets[-1], end_of_text, rows.tokens.dtype)
    keep = np.ones(len(tokens), bool)
    keep[offsets[1:] - 1] = False
    tokens[keep] = rows.tokens[: int(lengths.sum())]
    return dataclasses.replace(rows, tokens=tokens, offsets=offsets)
