"""Real text to mix in, as the paper does with WikiBook: documents on the disk, read by number.

Nothing is downloaded. Documents are read in blocks.
"""

import bisect
import codecs
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, without_spans
from kstore_jax.corpus.shards import Corpus, Part
from kstore_jax.corpus.tokenizer import Tokenizer
from kstore_jax.errors import UserError

_DOCUMENTS_PER_RECORD = 256
_DOCUMENTS_PER_PART = 65_536


class Documents(Protocol):
    """Texts by number."""

    @property
    def fingerprint(self) -> str:
        """Differs between different documents; of files: their names, sizes and times."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> list[str]:
        """Returns documents start, ..., stop - 1 in order, 0 <= start <= stop <= len.

        Raises:
          UserError: one of them is not text; names its file and line.
        """
        ...


def open_documents(source: str) -> Documents:
    """Opens a source of documents.

    Args:
      source: one of
        `tfds:NAME`: split train of a TFDS data set prepared in TFDS's folder (`TFDS_DATA_DIR`);
        `tfds:FOLDER`: the same in the folder of a prepared version; begins with `/`, `.` or `~`;
        `hf:FOLDER`: a folder written by Hugging Face's `save_to_disk`; of several splits, train;
        a `.txt` file: one document; a `.jsonl` file: one document per line;
        a folder: all such files in it and below, in the order of their paths.
        The text is the field `text`, except in a `.txt` file. A line or field without text, such
        as a blank line or null, is an empty document. A byte order mark is no text.

    Raises:
      UserError: there is no such source, it has no text, or its first documents are not text.
    """
    kind, colon, name = source.partition(":")
    if colon and kind == "tfds":
        documents = _open_tfds(name)
    elif colon and kind == "hf":
        documents = _open_hugging_face(_existing(name))
    else:
        documents = _open_files(_existing(source))
    if not _have_text(documents):
        raise UserError(f"data.text: {source}: has no text")
    return documents


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizedTexts:
    """Returns the tokens of documents, one row each; documents without text are left out."""
    backend = tokenizer.backend
    not_blank = [text for text in texts if text.strip()]
    ids = [e.ids for e in backend.encode_batch(not_blank, add_special_tokens=False)]
    lengths = np.array([len(row) for row in ids], np.int64)
    tokens = np.fromiter(itertools.chain.from_iterable(ids), tokenizer.dtype, lengths.sum())
    return without_spans(tokens, lengths)


def text_parts(tokenizer: Tokenizer, documents: Documents) -> list[Part]:
    """Returns the parts of a dataset of documents; an entry is a document, its person is -1."""

    def part(first: int, last: int) -> Iterator[Corpus]:
        for start in range(first, last, _DOCUMENTS_PER_RECORD):
            texts = documents.read(start, min(start + _DOCUMENTS_PER_RECORD, last))
            numbers = start + np.flatnonzero([bool(text.strip()) for text in texts])
            yield Corpus(np.full(len(numbers), -1), numbers, encode_documents(tokenizer, texts))

    bounds = [*range(0, len(documents), _DOCUMENTS_PER_PART), len(documents)]
    return [functools.partial(part, first, last) for first, last in itertools.pairwise(bounds)]


def _have_text(documents: Documents, block: int = 64) -> bool:
    starts = range(0, len(documents), block)
    blocks = (documents.read(start, min(start + block, len(documents))) for start in starts)
    return any(text.strip() for texts in blocks for text in texts)


def _existing(path: str) -> pathlib.Path:
    expanded = pathlib.Path(path).expanduser()
    if not expanded.exists():
        raise UserError(f"data.text: {path}: no such file or folder")
    return expanded


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"data.text: {path}: cannot be read ({error.strerror})") from None


def _file_fingerprint(path: pathlib.Path) -> str:
    state = path.stat()
    return f"{path.name} {state.st_size} {state.st_mtime_ns}"


def _decode(content: bytes, where: object) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"data.text: {where}: not UTF-8 at byte {error.start}") from None


@dataclasses.dataclass(frozen=True)
class _TextFile:
    """A file that is one document."""

    path: pathlib.Path

    @property
    def fingerprint(self) -> str:
        with _open(self.path) as file:
            marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        # earlier versions read the mark as text
        return f"{_file_fingerprint(self.path)}{' without its mark' if marked else ''}"

    def __len__(self) -> int:
        return 1

    def read(self, start: int, stop: int) -> list[str]:
        with _open(self.path) as file:
            content = file.read().removeprefix(codecs.BOM_UTF8)
        return [_decode(content, self.path)][start:stop]


class _JsonLinesFile:
    """A file of one JSON object per line. Only the offsets of the lines are in memory."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        with _open(path) as file:
            lengths = np.fromiter(map(len, file), np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.fingerprint = _file_fingerprint(path)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, start: int, stop: int) -> list[str]:
        bounds = self.offsets[start : stop + 1] - self.offsets[start]
        with _open(self.path) as file:
            file.seek(self.offsets[start])
            content = file.read(bounds[-1])
        lines = (content[i:j] for i, j in itertools.pairwise(bounds))
        return [self._parse(line, number) for number, line in enumerate(lines, start + 1)]

    def _parse(self, line: bytes, number: int) -> str:
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if not line.strip():
            return ""
        try:
            text = json.loads(line.decode("utf-8"))["text"]
            text = "" if text is None else text
            text.encode("utf-8")  # JSON can escape a lone surrogate, which is not text
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f'data.text: {self.path}:{number}: expected an object with a string "text", UTF-8'
            ) from None
        return text


class _Concatenated:
    """Several sources in order."""

    def __init__(self, parts: Sequence[Documents]):
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)]).tolist()
        fingerprints = "\n".join(part.fingerprint for part in parts)
        self.fingerprint = hashlib.sha256(fingerprints.encode()).hexdigest()

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, start: int, stop: int) -> list[str]:
        first = bisect.bisect_right(self.starts, start) - 1
        texts = []
        for part, begin in zip(self.parts[first:], self.starts[first:-1], strict=True):
            if begin >= stop:
                break
            texts += part.read(max(start - begin, 0), min(stop - begin, len(part)))
        return texts


_FORMATS = {".txt": _TextFile, ".jsonl": _JsonLinesFile}


def _files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files in a folder and below it, also behind links to folders, each folder once."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        folders.sort()  # so that of two names of a folder every machine takes the same
        state = os.stat(path)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        yield from (pathlib.Path(path, name) for name in names)


def _open_files(path: pathlib.Path) -> Documents:
    if path.is_dir():
        paths = sorted(p for p in _files_below(path) if p.suffix in _FORMATS and p.is_file())
        if not paths:
            raise UserError(f"data.text: {path}: a folder without .txt and .jsonl files")
        return _Concatenated([_FORMATS[p.suffix](p) for p in paths])
    if path.suffix not in _FORMATS:
        raise UserError(
            f"data.text: {path}: expected tfds:NAME, hf:FOLDER, a .txt or .jsonl file or a folder"
        )
    return _FORMATS[path.suffix](path)


@dataclasses.dataclass(frozen=True)
class _LibraryDataset:
    """A data set of a library; `fetch(start, stop)` returns its texts."""

    fingerprint: str
    length: int
    fetch: Callable[[int, int], list[str]]

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, stop: int) -> list[str]:
        return self.fetch(start, stop)


def _open_tfds(name: str) -> Documents:
    import tensorflow_datasets as tfds  # slow to import, and most experiments read no text
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    folder = _existing(name) if name.startswith(("/", ".", "~")) else None
    # From its files, not from its code (tfds.data_source): so any version on the disk can be read,
    # and no name leads to the network.
    try:
        builder: Any = tfds.builder_from_directory(folder) if folder else builder_from_files(name)
        examples = builder.as_data_source(split="train")
    except Exception as error:  # TFDS raises no narrower type
        raise UserError(
            f"data.text: tfds:{name}: no split train prepared as ArrayRecord "
            f"({_first_line(error)}); prepare it with tfds.builder(NAME)"
            '.download_and_prepare(file_format="array_record")'
        ) from None
    if not isinstance(dict(builder.info.features.items()).get("text"), tfds.features.Text):
        raise UserError(f"data.text: tfds:{name}: has no text feature 'text'")

    def fetch(start: int, stop: int) -> list[str]:
        rows = enumerate(examples.__getitems__(list(range(start, stop))), start)
        return [_decode(row["text"], f"tfds:{name}, document {i}") for i, row in rows]

    splits = builder.info.splits["train"]
    fingerprint = f"{builder.info.full_name} {splits.num_bytes} {splits.shard_lengths}"
    return _LibraryDataset(fingerprint, len(examples), fetch)


def _open_hugging_face(folder: pathlib.Path) -> Documents:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"data.text: hf:{folder}: needs the package datasets (pip install 'kstore_jax[hf]')"
        ) from None
    try:
        rows = datasets.load_from_disk(str(folder))
        rows = rows["train"] if isinstance(rows, datasets.DatasetDict) else rows
        fingerprint = rows._fingerprint
        rows = rows.with_format(None)  # it may be saved with one, of other columns or types
    except Exception as error:  # datasets raises no narrower type
        raise UserError(
            f"data.text: hf:{folder}: no split train written by save_to_disk ({_first_line(error)})"
        ) from None
    if getattr(rows.features.get("text"), "dtype", None) not in ("string", "large_string"):
        raise UserError(f"data.text: hf:{folder}: has no column 'text' of strings")

    def fetch(start: int, stop: int) -> list[str]:
        # A row may be None: a document without text, which is left out.
        return [text or "" for text in rows[start:stop]["text"]]

    return _LibraryDataset(fingerprint, len(rows), fetch)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
