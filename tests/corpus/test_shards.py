"""Datasets on disk: atomic writes, checked reads, resumed writers."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import encode_biographies
from kstore_jax.corpus.shards import with_marker
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.world.biographies import Variant

PEOPLE, FIRST, VARIANT, SEED, CONFIG = 150, 1000, "multi2+permute", 4, {"anything": 1}


@pytest.fixture(autouse=True, scope="module")
def _small_records_and_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ENTRIES_PER_RECORD", 64)
        patch.setattr(shards, "ENTRIES_PER_PART", 128)
        yield


def dataset_of(table, people=PEOPLE, variant=VARIANT, config=CONFIG) -> shards.DatasetSpec:
    source = table, SEED, Variant.parse(variant), FIRST, people
    return shards.DatasetSpec(config, gpt2(), lambda: shards.biography_parts(*source))


def write(folder, table, people=PEOPLE, variant=VARIANT, workers=1):
    return shards.write_dataset(dataset_of(table, people, variant), folder, workers)


@pytest.fixture(scope="module")
def dataset(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "dataset"
    write(folder, table)
    return folder


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dataset_is_read_back_as_it_was_written(table, biographies, dataset):
    corpus = shards.read_dataset(dataset)
    written = biographies(VARIANT, FIRST + np.arange(PEOPLE), SEED)
    texts = encode_biographies(table, written)
    assert np.array_equal(corpus.people, written.people)
    assert np.array_equal(corpus.entries, written.entries)
    for column in ("tokens", "offsets", "value_spans", "name_spans"):
        actual, expected = getattr(corpus.texts, column), getattr(texts, column)
        assert actual.dtype == expected.dtype
        assert np.array_equal(actual, expected)


def test_the_manifest_describes_the_dataset(dataset):
    manifest = shards.read_manifest(dataset)
    corpus = shards.read_dataset(dataset)
    assert manifest["config"] == CONFIG
    assert manifest["tokenizer"] == gpt2().fingerprint
    assert manifest["entries"] == 2 * PEOPLE == len(corpus.texts)
    assert manifest["tokens"] == len(corpus.texts.tokens)
    names = [part["name"] for part in manifest["parts"]]
    assert names == [f"part-0000{i}-of-00003.array_record" for i in range(3)]
    assert {*names, shards.MANIFEST} == set(contents(dataset))


@pytest.mark.parametrize("people", [1, 64, 65])
def test_any_number_of_people_is_written(table, tmp_path, people):
    write(tmp_path / "dataset", table, people, "single")
    corpus = shards.read_dataset(tmp_path / "dataset")
    assert corpus.people.tolist() == [FIRST + i for i in range(people)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(table, dataset, tmp_path, workers):
    write(tmp_path / "again", table, workers=workers)
    assert contents(tmp_path / "again") == contents(dataset)


def test_an_existing_dataset_is_not_written_again(table, dataset):
    before = contents(dataset)
    assert write(dataset, table) == shards.read_manifest(dataset)
    assert contents(dataset) == before


def test_a_dataset_of_another_configuration_is_refused(table, dataset):
    before = contents(dataset)
    with pytest.raises(UserError, match=f"^{dataset}: holds a dataset of another configuration"):
        shards.write_dataset(dataset_of(table, config={"anything": 2}), dataset)
    assert contents(dataset) == before


@given(part=st.integers(0, 2), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_detected(dataset, part, where, bit):
    path = dataset / f"part-0000{part}-of-00003.array_record"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(where * len(content))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        with pytest.raises(DamagedFileError, match=f"^{path}: changed"):
            shards.read_dataset(dataset)
    finally:
        path.write_bytes(content)


@pytest.fixture
def copy(table, tmp_path):
    write(tmp_path / "dataset", table)
    return tmp_path / "dataset"


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "lengthened"])
def test_a_damaged_part_is_named(copy, part, damage):
    path = copy / f"part-0000{part}-of-00003.array_record"
    content = path.read_bytes()
    damaged = {"truncated": content[:-1], "emptied": b"", "lengthened": content + b"\0"}
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(DamagedFileError, match=f"^{path}: ") as error:
        shards.read_dataset(copy)
    assert error.value.status == 1


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "{}", '{"format": "x"}'])
def test_a_missing_or_broken_manifest_is_named(copy, content):
    path = copy / shards.MANIFEST
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DamagedFileError, match=f"^{path}: missing or unreadable"):
        shards.read_manifest(copy)


@pytest.mark.parametrize(("change", "age"), [(1, "newer"), (-1, "older")])
def test_another_format_is_refused(copy, change, age):
    path = copy / shards.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": shards.FORMAT + change}))
    with pytest.raises(DamagedFileError, match=f"^{path}: format [13] is {age}"):
        shards.read_manifest(copy)


@pytest.mark.parametrize("field", ["config", "entries", "tokens", "tokenizer", "parts", "sha256"])
def test_a_changed_manifest_is_refused(copy, field):
    path = copy / shards.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, field: manifest["parts"][:1]}))
    with pytest.raises(DamagedFileError, match=f"^{path}: changed"):
        shards.read_manifest(copy)


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (shards, "biography_block", 1),
        (shards, "_pack", 4),
        (shards, "write_json", 1),
        (shards, "write_json", 4),
        (shards.os, "rename", 1),
    ],
)
def test_an_interrupted_write_leaves_no_dataset_and_resumes(
    table, dataset, tmp_path, monkeypatch, where, name, call
):
    original, calls = getattr(where, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "dataset", table)
    assert not (tmp_path / "dataset").exists()
    write(tmp_path / "dataset", table)
    assert contents(tmp_path / "dataset") == contents(dataset)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", ".dataset.lock"}


def interrupt_after(parts: int, table, folder, monkeypatch) -> None:
    """Starts to write a dataset and interrupts it after some parts."""
    original, calls = shards._write_part, itertools.count()

    def interrupted(*args):
        if next(calls) == parts:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(folder, table)


def test_a_resumed_writer_writes_only_the_missing_parts(table, tmp_path, monkeypatch):
    interrupt_after(2, table, tmp_path / "dataset", monkeypatch)
    written, pack = [], shards._pack
    monkeypatch.setattr(shards, "_pack", lambda corpus: written.append(corpus) or pack(corpus))
    write(tmp_path / "dataset", table)
    assert sum(len(corpus.texts) for corpus in written) == 2 * PEOPLE - 2 * shards.ENTRIES_PER_PART


def test_a_part_that_was_damaged_in_between_is_written_again(table, dataset, tmp_path, monkeypatch):
    interrupt_after(2, table, tmp_path / "dataset", monkeypatch)
    part = tmp_path / "dataset.writing" / "part-00000-of-00003.array_record"
    part.write_bytes(part.read_bytes()[:-1])
    write(tmp_path / "dataset", table)
    assert contents(tmp_path / "dataset") == contents(dataset)


def test_a_writer_does_not_resume_another_configuration(table, tmp_path, monkeypatch):
    interrupt_after(2, table, tmp_path / "dataset", monkeypatch)
    other = dataset_of(table, variant="multi5", config={"anything": 2})
    shards.write_dataset(other, tmp_path / "dataset")
    assert shards.read_manifest(tmp_path / "dataset")["entries"] == 5 * PEOPLE


def test_with_end_of_text_appends_one_token_to_every_text(dataset):
    texts = shards.read_dataset(dataset).texts
    longer = shards.with_end_of_text(texts, 50256)
    assert len(longer) == len(texts)
    for b in range(len(texts)):
        text = texts.tokens[texts.offsets[b] : texts.offsets[b + 1]].tolist()
        line = longer.tokens[longer.offsets[b] : longer.offsets[b + 1]].tolist()
        assert line == [*text, 50256]
    assert longer.offsets[-1] == len(longer.tokens)
    assert np.array_equal(longer.value_spans, texts.value_spans)


def test_a_marker_comes_before_each_text_and_spans_move_with_it(table, biographies):
    texts = encode_biographies(table, biographies("multi2", np.arange(5)))
    marker = table.tokenizer.size
    marked = with_marker(texts, marker)
    for b in range(len(texts)):
        plain = texts.tokens[texts.offsets[b] : texts.offsets[b + 1]]
        row = marked.tokens[marked.offsets[b] : marked.offsets[b + 1]]
        assert row.tolist() == [marker, *plain.tolist()]
        for name in ("value_spans", "name_spans"):
            spans = zip(getattr(texts, name)[b], getattr(marked, name)[b], strict=True)
            for (start, end), (moved, moved_end) in spans:
                assert row[moved:moved_end].tolist() == plain[start:end].tolist()
