"""Datasets on disk: ArrayRecord parts and a manifest.

A record is a block of consecutive entries as columns, in the safetensors format. A dataset is
written under a temporary name, part by part, and renamed when it is complete; an interrupted writer
resumes after the last complete part. A reader first checks every part against the manifest and
names one that is missing, truncated or altered.
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
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from tqdm import tqdm

from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, encode_biographies
from kstore_jax.corpus.tokenizer import Tokenizer
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.files import PARTIAL_SUFFIX, read_json, write_json, write_text
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.people import draw_people

FORMAT = 2
ENTRIES_PER_RECORD = 8192
ENTRIES_PER_PART = 32 * ENTRIES_PER_RECORD
MANIFEST = "manifest.json"
_CONFIG = "config.json"  # beside the parts while they are written


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A dataset in memory.

    Attributes:
      people: (E,) the person of each entry; -1 for real text.
      entries: (E,) the number of each entry: among those of its person, or among documents.
      texts: the E texts.
    """

    people: np.ndarray
    entries: np.ndarray
    texts: TokenizedTexts


Part = Callable[[], Iterable[Corpus]]
"""Returns the blocks of entries of one file."""


def biography_block(
    table: TokenTable, seed: int, variant: Variant, first: int, entries: np.ndarray
) -> Corpus:
    """Returns some biographies of person `first` and the following people.

    Args:
      entries: ascending numbers of biographies, `variant.biographies_per_person` per person; number
        0 is the first biography of person `first`.
    """
    person, entry = np.divmod(np.asarray(entries, np.int64), variant.biographies_per_person)
    start, stop = int(person[0]), int(person[-1]) + 1
    people = draw_people(table.language.pools, seed, first + np.arange(start, stop))
    written = write_biographies(table.language, seed, variant, people.take(person - start), entry)
    return Corpus(first + person, entry, encode_biographies(table, written))


def biography_parts(
    table: TokenTable, seed: int, variant: Variant, first: int, size: int
) -> list[Part]:
    """Returns the parts of the dataset of all biographies of people first .. first + size - 1."""
    return entry_parts(
        size * variant.biographies_per_person,
        lambda entries: biography_block(table, seed, variant, first, entries),
    )


def entry_parts(total: int, block: Callable[[np.ndarray], Corpus]) -> list[Part]:
    """Returns the parts of a dataset of `total` entries.

    Args:
      block: ascending numbers of entries -> these entries.
    """

    def part(start: int) -> Iterator[Corpus]:
        stop = min(total, start + ENTRIES_PER_PART)
        for first in range(start, stop, ENTRIES_PER_RECORD):
            yield block(np.arange(first, min(stop, first + ENTRIES_PER_RECORD)))

    return [functools.partial(part, start) for start in range(0, total, ENTRIES_PER_PART)]


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A dataset to write.

    Attributes:
      config: the full generating configuration, plain JSON; it goes into the manifest.
      tokenizer: the tokenizer of the tokens.
      parts: opens the sources and returns the parts, one per file.
    """

    config: dict
    tokenizer: Tokenizer
    parts: Callable[[], Sequence[Part]]


def write_dataset(dataset: DatasetSpec, folder: pathlib.Path, workers: int = 1) -> dict:
    """Writes a dataset and returns its manifest.

    The bytes do not depend on the number of workers. Where `folder` holds the dataset of the same
    configuration, it is checked and not written again. Parts that an interrupted call completed are
    not written again.

    Args:
      folder: the folder of the dataset.
      workers: the number of parts written at a time.

    Raises:
      UserError: `folder` holds another dataset or other files.
      DamagedFileError: a file of the dataset in `folder` has changed since it was written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(folder.name + PARTIAL_SUFFIX)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MANIFEST).exists():
                raise UserError(f"{folder}: is not empty and holds no dataset")
            manifest = read_manifest(folder)
            if manifest["config"] != dataset.config:
                raise UserError(f"{folder}: holds a dataset of another configuration")
            return manifest
        parts = dataset.parts()
        _make_folder(temporary, dataset.config)
        names = [f"part-{i:05d}-of-{len(parts):05d}.array_record" for i in range(len(parts))]
        summaries = _write_parts([temporary / name for name in names], parts, workers)
        manifest = {
            "format": FORMAT,
            "config": dataset.config,
            "entries": sum(part["entries"] for part in summaries),
            "tokens": sum(part["tokens"] for part in summaries),
            "tokenizer": dataset.tokenizer.fingerprint,
            "parts": summaries,
        }
        manifest["sha256"] = _checksum(manifest)
        write_json(temporary / MANIFEST, manifest)
        for name in names:
            _summary_path(temporary / name).unlink()
        (temporary / _CONFIG).unlink()
        os.rename(temporary, folder)
    return manifest


def _make_folder(folder: pathlib.Path, config: dict) -> None:
    """Makes the folder of a dataset, or keeps the one of an interrupted call with this `config`."""
    path, content = folder / _CONFIG, json.dumps(config)
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_text(path, content)


def _summary_path(path: pathlib.Path) -> pathlib.Path:
    """The file beside a complete part with its entry of the manifest."""
    return path.with_suffix(".json")


def _write_parts(paths: list[pathlib.Path], parts: Sequence[Part], workers: int) -> list[dict]:
    """Writes parts and returns their entries of the manifest."""
    pool = futures.ThreadPoolExecutor(workers)
    try:
        writing = [pool.submit(_write_part, *both) for both in zip(paths, parts, strict=True)]
        with tqdm(desc="shards", unit=" entries", unit_scale=True, delay=1, leave=False) as bar:
            for done in futures.as_completed(writing):
                bar.update(done.result()["entries"])
        return [done.result() for done in writing]
    finally:
        pool.shutdown(cancel_futures=True)


_SUMMARY = {"name": str, "bytes": int, "sha256": str, "entries": int, "tokens": int}


def _write_part(path: pathlib.Path, part: Part) -> dict:
    summary_path = _summary_path(path)
    if summary_path.exists():
        with contextlib.suppress(DamagedFileError):  # it is written again
            summary = read_json(summary_path, kinds=_SUMMARY)
            _check_part(path, summary)
            return summary
    entries = tokens = 0
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for corpus in part():
        entries += len(corpus.texts)
        tokens += len(corpus.texts.tokens)
        writer.write(_pack(corpus))
    writer.close()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    summary = {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "entries": entries,
        "tokens": tokens,
    }
    write_json(summary_path, summary)
    return summary


def _pack(corpus: Corpus) -> bytes:
    texts = corpus.texts
    return safetensors.numpy.save(
        {
            "people": corpus.people,
            "entries": corpus.entries.astype(np.int32),
            "lengths": texts.lengths.astype(np.int32),
            "tokens": texts.tokens,
            "value_spans": texts.value_spans,
            "name_spans": texts.name_spans,
        }
    )


def _checksum(manifest: dict) -> str:
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: pathlib.Path) -> dict:
    """Returns the manifest of a dataset, after a check of every part against it.

    Raises:
      DamagedFileError: a part or the manifest is missing, truncated or altered, or has another
        format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = int(manifest["format"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        raise DamagedFileError(f"{path}: missing or unreadable") from None
    if version != FORMAT:
        age = "newer" if version > FORMAT else "older"
        raise DamagedFileError(f"{path}: format {version} is {age}; expected format {FORMAT}")
    if manifest.get("sha256") != _checksum(manifest):
        raise DamagedFileError(f"{path}: changed since it was written (SHA-256 differs)")
    for part in manifest["parts"]:
        _check_part(folder / part["name"], part)
    return manifest


def _check_part(path: pathlib.Path, part: dict) -> None:
    if not path.exists():
        raise DamagedFileError(f"{path}: missing")
    if (size := path.stat().st_size) != part["bytes"]:
        raise DamagedFileError(f"{path}: has {size} bytes; expected {part['bytes']}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
            raise DamagedFileError(f"{path}: changed since it was written (SHA-256 differs)")


def read_dataset(folder: pathlib.Path) -> Corpus:
    """Checks a dataset and reads it into memory.

    Raises:
      DamagedFileError: as for `read_manifest`.
    """
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
    texts = TokenizedTexts(
        columns["tokens"], offsets, columns["value_spans"], columns["name_spans"]
    )
    return Corpus(columns["people"], columns["entries"], texts)


def with_marker(texts: TokenizedTexts, marker: int) -> TokenizedTexts:
    """Returns the texts with the token `marker` before each; spans move with the text."""
    offsets = texts.offsets + np.arange(len(texts) + 1)
    tokens = np.full(offsets[-1], marker, texts.tokens.dtype)
    is_text = np.ones(len(tokens), bool)
    is_text[offsets[:-1]] = False
    tokens[is_text] = texts.tokens[: int(texts.lengths.sum())]
    return TokenizedTexts(tokens, offsets, texts.value_spans + 1, texts.name_spans + 1)


def with_end_of_text(texts: TokenizedTexts, end_of_text: int) -> TokenizedTexts:
    """Returns the texts with the token `end_of_text` after each; spans stay as they are."""
    offsets = texts.offsets + np.arange(len(texts) + 1)
    tokens = np.full(offsets[-1], end_of_text, texts.tokens.dtype)
    is_text = np.ones(len(tokens), bool)
    is_text[offsets[1:] - 1] = False
    tokens[is_text] = texts.tokens[: int(texts.lengths.sum())]
    return dataclasses.replace(texts, tokens=tokens, offsets=offsets)
