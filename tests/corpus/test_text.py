"""Documents of every source are read by number; errors name the source."""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from numpy.testing import assert_array_equal

from kstore_jax.corpus import text as module
from kstore_jax.corpus.shards import DatasetSpec, read_dataset, write_dataset
from kstore_jax.corpus.text import encode_documents, open_documents, text_parts
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError

TEXTS = ["A first one.", "", "Ünïcode — 你好 🙂\r\nand a second line", " one with a space", "end"]


def shipped_with(package: str) -> pathlib.Path:
    """Plain text that an installed package ships: its licence."""
    files = importlib.metadata.files(package) or []
    return pathlib.Path(
        next(f for f in files if f.name.startswith(("LICENSE", "LICENCE"))).locate()
    )


def write_jsonl(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
    path.write_text("".join(json.dumps({"n": n, "text": t}) + "\n" for n, t in enumerate(texts)))
    return path


class TextBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set of one document per example, in the order of TEXTS."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded
    field, split = "text", "train"

    def _info(self):
        features = tfds.features.FeaturesDict({self.field: tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {self.split: self._generate_examples()}

    def _generate_examples(self):
        yield from ((n, {self.field: text}) for n, text in enumerate(TEXTS))


class OtherField(TextBuilder):
    """A data set without a feature `text`."""

    field = "content"


class OtherSplit(TextBuilder):
    """A data set without a split `train`."""

    split = "validation"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """`builder class -> its builder`, prepared in TFDS's own folder."""
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))

    def prepare(kind: type[TextBuilder]) -> TextBuilder:
        builder = kind(file_format="array_record")
        builder.download_and_prepare()
        return builder

    return prepare


def assert_reads(source: str, texts: list[str]) -> None:
    documents = open_documents(source)
    assert len(documents) == len(texts)
    for start in range(len(texts) + 1):
        for stop in range(start, len(texts) + 1):
            assert documents.read(start, stop) == texts[start:stop]


def test_tfds_by_name(prepared):
    prepared(TextBuilder)
    assert_reads("tfds:text_builder", TEXTS)
    assert_reads("tfds:text_builder:1.0.0", TEXTS)


def test_tfds_by_folder(prepared):
    assert_reads(f"tfds:{prepared(TextBuilder).data_dir}", TEXTS)


def test_a_text_file_is_one_document_byte_for_byte(tmp_path):
    (tmp_path / "licence.txt").symlink_to(shipped_with("numpy"))
    assert_reads(str(tmp_path / "licence.txt"), [shipped_with("numpy").read_bytes().decode()])
    (tmp_path / "windows.txt").write_bytes(b"one\r\ntwo\r\n")
    assert_reads(str(tmp_path / "windows.txt"), ["one\r\ntwo\r\n"])


def test_a_jsonl_file_is_one_document_per_line(tmp_path):
    assert_reads(str(write_jsonl(tmp_path / "a.jsonl", TEXTS)), TEXTS)
    content = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.jsonl").write_bytes(content[:-1].replace(b"\n", b"\r\n"))
    assert_reads(str(tmp_path / "b.jsonl"), TEXTS)


def test_a_folder_is_its_text_files_in_order(tmp_path):
    (tmp_path / "inner").mkdir()
    write_jsonl(tmp_path / "b.jsonl", TEXTS)
    (tmp_path / "c.jsonl").touch()
    (tmp_path / "inner" / "d.txt").write_text("deep")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "z.md").write_text("not read")
    assert_reads(str(tmp_path), ["first", *TEXTS, "deep"])


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert_reads("~/a.txt", ["at home"])


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})
    rows.save_to_disk(str(tmp_path / "one"))
    assert_reads(f"hf:{tmp_path / 'one'}", TEXTS)
    datasets.DatasetDict({"test": rows.select([0]), "train": rows}).save_to_disk(
        str(tmp_path / "several")
    )
    assert_reads(f"hf:{tmp_path / 'several'}", TEXTS)
    rows.rename_column("text", "content").save_to_disk(str(tmp_path / "other"))
    assert_refused(f"hf:{tmp_path / 'other'}", "no column 'text' of strings")
    rows.remove_columns("text").rename_column("n", "text").save_to_disk(str(tmp_path / "numbers"))
    assert_refused(f"hf:{tmp_path / 'numbers'}", "no column 'text' of strings")
    (tmp_path / "empty").mkdir()
    assert_refused(f"hf:{tmp_path / 'empty'}", "save_to_disk")


def assert_refused(source: str, message: str) -> None:
    """Opening or reading the source raises this error, in one line."""

    def read_all():
        documents = open_documents(source)
        return documents.read(0, len(documents))

    with pytest.raises(UserError) as error:
        read_all()
    assert str(error.value).startswith("data.text: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_hugging_face_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert_refused(f"hf:{tmp_path}", "needs the package datasets")


@pytest.mark.parametrize("name", ["never_prepared", "never_prepared/config:1.0.0", "", "kaggle:a"])
def test_a_tfds_data_set_that_is_not_prepared(prepared, name):
    assert_refused(f"tfds:{name}", 'download_and_prepare(file_format="array_record")')


def test_tfds_data_sets_without_text(prepared, tmp_path):
    assert_refused(f"tfds:{prepared(OtherField).data_dir}", "has no text feature 'text'")
    prepared(OtherSplit)
    assert_refused("tfds:other_split", "no split train")
    (tmp_path / "empty").mkdir()
    assert_refused(f"tfds:{tmp_path / 'empty'}", "prepare it")
    assert_refused(f"tfds:{tmp_path / 'none'}", "no such file or folder")


@pytest.mark.parametrize("source", ["none.txt", "none", "hf:none", "other:none", "tfds:./none"])
def test_a_missing_source_is_named(source):
    assert_refused(source, "no such file or folder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "has no text"),
        ("a.txt", b" \n\t", "has no text"),
        ("a.jsonl", b"", "has no text"),
        ("a.jsonl", b'{"text": " "}\n{"text": ""}\n', "has no text"),
        ("a.txt", b"caf\xe9", "a.txt: not UTF-8 at byte 3"),
        ("a.txt", "text".encode("utf-16"), "a.txt: not UTF-8 at byte 0"),
        ("a.md", b"text", "expected tfds:NAME"),
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "a.jsonl:2: expected"),
        ("a.jsonl", b'\n{"text": null}\n', "has no text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"content": "c"}', "a.jsonl:3: expected"),
        ("a.jsonl", b'{"text": 1}', "a.jsonl:1: expected"),
        ("a.jsonl", b'["text"]', "a.jsonl:1: expected"),
        ("a.jsonl", b"3", "a.jsonl:1: expected"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "a.jsonl:1: expected"),
        ("a.jsonl", rb'{"text": "\ud800"}', "a.jsonl:1: expected"),
    ],
)
def test_a_file_that_is_not_text_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert_refused(str(tmp_path / name), message)


def test_a_folder_without_text(tmp_path):
    (tmp_path / "a.md").write_text("text")
    assert_refused(str(tmp_path), "a folder without .txt and .jsonl files")


def test_an_error_names_the_line_of_a_document_read_later(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["text"] * 1000)
    with path.open("a") as file:
        file.write("broken\n")
    documents = open_documents(str(path))
    assert documents.read(990, 1000) == ["text"] * 10
    with pytest.raises(UserError, match=r"a\.jsonl:1001: expected"):
        documents.read(995, 1001)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_removed_after_opening_is_named(tmp_path, name):
    path = write_jsonl(tmp_path / name, TEXTS)
    documents = open_documents(str(path))
    path.unlink()
    with pytest.raises(UserError, match=rf"^data\.text: .*{name}: cannot be read \(No such file"):
        documents.read(0, 1)


def test_tokens_decode_to_the_text():
    texts = [shipped_with(package).read_text("utf-8") for package in ("numpy", "tqdm")] + TEXTS
    tokenizer = gpt2()
    rows = encode_documents(tokenizer, texts)
    not_empty = [text for text in texts if text]
    assert rows.tokens.dtype == np.uint16
    assert len(rows) == len(not_empty)
    for text, start, stop in zip(not_empty, rows.offsets, rows.offsets[1:], strict=False):
        ids = rows.tokens[start:stop].tolist()
        assert tokenizer.decode(ids) == text
        assert ids == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert rows.value_spans.shape == rows.name_spans.shape == (len(not_empty), 0, 2)


def test_tokens_of_two_words_and_of_nothing():
    assert_array_equal(encode_documents(gpt2(), ["Hello world", ""]).tokens, [15496, 995])
    nothing = encode_documents(gpt2(), ["", " \n"])
    assert (len(nothing), len(nothing.tokens)) == (0, 0)


def test_a_dataset_of_documents_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_DOCUMENTS_PER_RECORD", 3)
    monkeypatch.setattr(module, "_DOCUMENTS_PER_PART", 7)
    texts = [f"Document {i} has {i * i} words." if i % 5 else " \n" for i in range(1, 24)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "some.jsonl").write_text(lines)
    documents = open_documents(str(tmp_path / "some.jsonl"))
    dataset = DatasetSpec({}, gpt2(), lambda: text_parts(gpt2(), documents))
    manifest = write_dataset(dataset, tmp_path / "shards")
    assert len(manifest["parts"]) == 4
    corpus = read_dataset(tmp_path / "shards")
    not_blank = [i for i, text in enumerate(texts) if text.strip()]
    assert corpus.entries.tolist() == not_blank
    assert set(corpus.people) == {-1}
    for row, i in enumerate(not_blank):
        ids = corpus.texts.tokens[corpus.texts.offsets[row] : corpus.texts.offsets[row + 1]]
        assert gpt2().decode(ids) == texts[i]
