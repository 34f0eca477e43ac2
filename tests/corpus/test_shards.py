"""A dataset is written whole or not at all, and read back only as it was written."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import encode_entries
from kstore_jax.corpus.tokenizer import END_OF_TEXT
from kstore_jax.errors import DamagedFileError
from kstore_jax.world.biographies import Variant

PEOPLE, VARIANT, SEED = 150, "multi2+permute", 4


@pytest.fixture(autouse=True, scope="module")
def _several_blocks_and_parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK", 64)
        patch.setattr(shards, "PART", 128)
        yield


def write(folder, language, people=PEOPLE, variant=VARIANT):
    parsed = Variant.parse(variant)
    return shards.write_dataset(folder, language, SEED, parsed, people, {"anything": 1})


@pytest.fixture(scope="module")
def dataset(language, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "dataset"
    write(folder, language)
    return folder


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_read_is_what_was_generated(language, biographies, dataset):
    corpus = shards.read_dataset(dataset)
    entries = biographies(VARIANT, np.arange(PEOPLE), SEED)
    rows = encode_entries(language, entries)
    assert np.array_equal(corpus.people, entries.people)
    assert np.array_equal(corpus.entries, entries.entries)
    for column in ("tokens", "offsets", "value_spans", "name_spans"):
        read, written = getattr(corpus.rows, column), getattr(rows, column)
        assert read.dtype == written.dtype
        assert np.array_equal(read, written)


def test_the_manifest_says_what_is_there(dataset):
    manifest = shards.read_manifest(dataset)
    corpus = shards.read_dataset(dataset)
    assert manifest["config"] == {"anything": 1}
    assert manifest["people"] == PEOPLE
    assert manifest["entries"] == 2 * PEOPLE == len(corpus.rows)
    assert manifest["tokens"] == len(corpus.rows.tokens)
    names = [part["name"] for part in manifest["parts"]]
    assert names == [f"part-0000{i}-of-00003.array_record" for i in range(3)]
    assert {*names, shards.MANIFEST} == set(contents(dataset))


@pytest.mark.parametrize("people", [1, 64, 65])
def test_any_number_of_people_is_written_whole(language, tmp_path, people):
    write(tmp_path / "dataset", language, people, "single")
    corpus = shards.read_dataset(tmp_path / "dataset")
    assert corpus.people.tolist() == list(range(people))


def test_same_configuration_same_bytes(language, dataset, tmp_path):
    write(tmp_path / "again", language)
    assert contents(tmp_path / "again") == contents(dataset)


def test_a_dataset_that_stands_there_is_left_as_it_is(language, dataset):
    before = contents(dataset)
    assert write(dataset, language) == shards.read_manifest(dataset)
    assert contents(dataset) == before


@given(part=st.integers(0, 2), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(dataset, part, place, bit):
    path = dataset / f"part-0000{part}-of-00003.array_record"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        with pytest.raises(DamagedFileError, match=f"^{path}: changed"):
            shards.read_dataset(dataset)
    finally:
        path.write_bytes(whole)


@pytest.fixture
def copy(language, tmp_path):
    write(tmp_path / "dataset", language)
    return tmp_path / "dataset"


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "lengthened"])
def test_a_part_cut_short_or_removed_is_named(copy, part, damage):
    path = copy / f"part-0000{part}-of-00003.array_record"
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-1], "emptied": b"", "lengthened": whole + b"\0"}[damage])
    with pytest.raises(DamagedFileError, match=f"^{path}: ") as found:
        shards.read_dataset(copy)
    assert found.value.status == 1


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "3", "{}", '{"format": 1}', '{"format": 1, "parts": [{}]}']
)
def test_a_missing_or_broken_manifest_is_named(copy, content):
    path = copy / shards.MANIFEST
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DamagedFileError, match=f"^{path}: missing or unreadable"):
        shards.read_manifest(copy)


def test_a_newer_format_is_refused(copy):
    path = copy / shards.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": shards.FORMAT + 1}))
    with pytest.raises(DamagedFileError, match=f"^{path}: format 2 is newer"):
        shards.read_manifest(copy)


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (shards, "_block", 1),
        (shards, "_pack", 4),
        (shards.json, "dumps", 1),
        (shards.os, "rename", 1),
    ],
)
def test_an_interrupted_write_leaves_nothing_and_can_be_repeated(
    language, dataset, tmp_path, monkeypatch, where, name, call
):
    whole, calls = getattr(where, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(calls) == call:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "dataset", language)
    assert not (tmp_path / "dataset").exists()
    (tmp_path / "dataset.writing" / "left-over").write_text("by an interrupted attempt")
    write(tmp_path / "dataset", language)
    assert contents(tmp_path / "dataset") == contents(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_every_row_is_closed_by_one_end_of_text(dataset):
    rows = shards.read_dataset(dataset).rows
    closed = shards.with_end_of_text(rows)
    assert len(closed) == len(rows)
    for b in range(len(rows)):
        row = rows.tokens[rows.offsets[b] : rows.offsets[b + 1]].tolist()
        line = closed.tokens[closed.offsets[b] : closed.offsets[b + 1]].tolist()
        assert line == [*row, END_OF_TEXT]
    assert closed.offsets[-1] == len(closed.tokens)
    assert np.array_equal(closed.value_spans, rows.value_spans)
