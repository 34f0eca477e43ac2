"""The TFDS data set holds what the package generates, for every kind of configuration."""

import hashlib
import subprocess
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from numpy.testing import assert_array_equal

from kstore_jax.corpus import bio_s
from kstore_jax.corpus.bio_s import BioS, BioSConfig
from kstore_jax.corpus.encode import encode_biographies, token_table
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS, Variant
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people, in_train_half
from kstore_jax.world.questions import write_questions
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import films

PEOPLE, SEED = 40, 3


@pytest.fixture
def prepared(tmp_path):
    """`content -> builder`, prepared for 40 people in a folder of the test."""

    def prepare(content: str, people: int = PEOPLE, folder: str = "") -> tfds.core.DatasetBuilder:
        config = BioSConfig(content=content, people=people, seed=SEED, folder=folder)
        builder = tfds.builder("bio_s", config=config, data_dir=tmp_path)
        builder.download_and_prepare(file_format="array_record")
        return builder

    return prepare


def read(builder, split: str = "train") -> list[dict]:
    """Every example, found on the disk by the name of the data set."""
    name = f"{builder.name}/{builder.builder_config.name}:{builder.version}"
    return list(tfds.data_source(name, split=split, data_dir=builder.data_dir_root, download=False))


def column(examples: list[dict], name: str) -> np.ndarray:
    return np.array([example[name] for example in examples])


@pytest.mark.parametrize(
    "content",
    ["single", "multi2+permute", "single+permute5+fullname", "couple2", "multi5+reverse6"],
)
def test_biographies_are_those_of_the_package(prepared, language, biographies, content):
    variant = Variant.parse(content)
    examples = read(prepared(content))
    written = biographies(content, np.arange(PEOPLE), SEED)
    rows = encode_biographies(token_table(language, gpt2()), written)
    assert_array_equal(column(examples, "person"), written.people)
    assert_array_equal(column(examples, "entry"), written.entries)
    trained = in_train_half(SEED, written.people)
    assert_array_equal(column(examples, "half"), np.where(trained, 0, 1))
    texts = [pieces_to_text(language, pieces) for pieces in written.texts.pieces]
    assert column(examples, "text").tolist() == [text.encode() for text in texts]
    assert_array_equal(np.concatenate([example["tokens"] for example in examples]), rows.tokens)
    assert_array_equal([len(example["tokens"]) for example in examples], rows.lengths)
    assert_array_equal(column(examples, "value_spans"), rows.value_spans)
    assert_array_equal(column(examples, "name_spans"), rows.name_spans)
    assert len(examples) == PEOPLE * variant.biographies_per_person


def test_spans_decode_to_the_values_and_the_name_of_the_person(prepared):
    people = read(prepared("people"))
    biographies = read(prepared("multi2+permute+fullname"))
    for example in biographies:
        person, tokens = people[example["person"]], example["tokens"]
        for attribute, (start, stop) in zip(ATTRIBUTES, example["value_spans"], strict=True):
            assert gpt2().decode(tokens[start:stop]).encode() == b" " + person[attribute]
        for start, stop in example["name_spans"]:
            assert gpt2().decode(tokens[start:stop]).encode() == b" " + person["name"]
        assert gpt2().decode(tokens).encode() == example["text"]
        assert example["half"] == person["half"]


def test_people_are_those_of_the_package(prepared, language):
    builder = prepared("people")
    examples = read(builder)
    people = draw_people(language.pools, SEED, np.arange(PEOPLE))
    assert_array_equal(column(examples, "person"), people.ids)
    for name, classes, expected in (
        ("half", ("P_train", "P_test"), np.where(in_train_half(SEED, people.ids), 0, 1)),
        ("pronoun", language.schema.pronouns, people.pronouns),
    ):
        assert tuple(builder.info.features[name].names) == classes
        assert_array_equal(column(examples, name), expected)
    for k, attribute in enumerate(ATTRIBUTES):
        values = [language.pools.values[attribute][value] for value in people.values[:, k]]
        assert column(examples, attribute).tolist() == [value.encode() for value in values]
    assert len(set(column(examples, "name"))) == PEOPLE


def test_questions_of_the_two_halves_are_the_two_splits(prepared, language):
    builder = prepared("questions")
    people = {person["person"]: person for person in read(prepared("people"))}
    trained = in_train_half(SEED, np.arange(PEOPLE))
    for split, half in (("train", trained), ("test", ~trained)):
        examples = read(builder, split)
        ids = np.flatnonzero(half)
        assert_array_equal(column(examples, "person"), np.repeat(ids, 6 * 5))
        assert_array_equal(column(examples, "attribute"), np.tile(np.repeat(np.arange(6), 5), 20))
        assert_array_equal(column(examples, "wording"), np.tile(np.arange(5), 20 * 6))
        for example in examples:
            person, attribute = people[example["person"]], ATTRIBUTES[example["attribute"]]
            assert example["half"] == person["half"]
            assert example["answer"] == person[attribute]
            assert b" " + person["name"] in example["question"]
            assert example["text"] == example["question"] + b" Answer: " + example["answer"]


def test_films_of_a_table(prepared, tmp_path):
    folder = str(films(tmp_path / "films"))
    facts = read(prepared("people", 6, folder))
    assert column(facts, "name").tolist()[:2] == [b"The Big Sleep", b"Yes, Minister of Fish"]
    assert column(facts, "country").tolist()[:2] == [b"USA", b"Spain"]
    texts, names = read(prepared("multi2+permute", 6, folder)), ("director", "year", "country")
    for example in texts:
        assert example["value_spans"].shape == (3, 2)
        for attribute, (start, stop) in zip(names, example["value_spans"], strict=True):
            value = gpt2().decode(example["tokens"][start:stop]).encode()
            assert value == b" " + facts[example["person"]][attribute]
    assert {q["attribute"] for q in read(prepared("questions", 6, folder))} == {0, 1, 2}
    with pytest.raises(UserError, match=r"^bio_s\.content: expected reverse1 to reverse3 where"):
        BioSConfig(content="multi5+reverse4", people=6, folder=folder)


@pytest.mark.parametrize("wording", range(5))
def test_questions_are_those_of_the_package(prepared, language, wording):
    examples = read(prepared("questions"), "test")
    some = [example for example in examples if example["wording"] == wording]
    people = draw_people(language.pools, SEED, column(some, "person"))
    written = write_questions(language, people, column(some, "attribute"), wording)
    texts = [pieces_to_text(language, pieces).encode() for pieces in written.texts.pieces]
    assert column(some, "text").tolist() == texts


def test_several_shards_and_blocks_are_in_order(prepared, monkeypatch):
    one_shard = read(prepared("multi5"))
    monkeypatch.setattr(bio_s, "EXAMPLES_PER_SHARD", 30)
    monkeypatch.setattr(bio_s, "PEOPLE_PER_BLOCK", 4)
    config = BioSConfig(content="multi5", people=PEOPLE, seed=SEED, name="several_shards")
    folder = prepared("people").data_dir_root
    builder = tfds.builder("bio_s", config=config, data_dir=folder)
    builder.download_and_prepare(file_format="array_record")
    assert builder.info.splits["train"].num_shards == 7
    assert column(read(builder), "text").tolist() == column(one_shard, "text").tolist()


def test_grain_reads_the_data_set(prepared):
    builder = prepared("single")
    source = builder.as_data_source(split="train")
    dataset = grain.MapDataset.source(source).shuffle(seed=0).map(lambda example: example["person"])
    assert sorted(dataset) == list(range(PEOPLE))


def test_the_configurations_are_the_variants_with_an_end():
    expected = {v.replace("+", "_") for v in FIG3_VARIANTS + OTHER_VARIANTS} - {
        "fresh",
        "fresh_fullname",
    }
    assert set(BioS.builder_configs) == {*expected, "people", "questions"}
    assert {(c.people, c.seed) for c in BioS.BUILDER_CONFIGS} == {(100_000, 0)}


def test_a_data_set_records_its_configuration(prepared):
    builder = prepared("single")
    assert builder.info.metadata == {"content": "single", "people": PEOPLE, "seed": SEED}
    assert "2309.14316" in builder.info.citation
    again = tfds.builder_from_directory(builder.data_dir)
    assert again.info.metadata == {"content": "single", "people": PEOPLE, "seed": SEED}


def test_no_two_worlds_share_a_folder():
    worlds = [(40, 0), (40, 1), (41, 0), (100_000, 0), (100_000, 1)]
    names = {BioSConfig(content="single", people=p, seed=s).name for p, s in worlds}
    assert len(names) == len(worlds)
    assert BioSConfig(content="single", name="mine").name == "mine"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": "multi5+permut"}, r"^bio_s\.content: .*did you mean 'multi5\+permute'"),
        ({"content": "fresh"}, r"^bio_s\.content: fresh has no end"),
        ({"content": "single", "people": 1}, r"^bio_s\.people: expected at least 2, got 1$"),
        ({"content": "single", "people": 10**12}, "full names"),
    ],
)
def test_an_impossible_configuration_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        BioSConfig(**fields)


def test_the_data_of_a_version_do_not_change(prepared):
    """Raise BioS.VERSION where these numbers change: they are published data."""
    digest = hashlib.sha256()
    for example in read(prepared("multi2+permute")):
        digest.update(example["text"])
        digest.update(example["tokens"].tobytes())
    assert (str(BioS.VERSION), digest.hexdigest()[:16]) == ("1.0.0", "c5d0891392551173")


def test_tensorflow_is_not_imported(tmp_path):
    program = f"""
import sys
import tensorflow_datasets as tfds
from kstore_jax.corpus.bio_s import BioSConfig
config = BioSConfig(content="single", people=2)
builder = tfds.builder("bio_s", config=config, data_dir={str(tmp_path)!r})
builder.download_and_prepare(file_format="array_record")
assert len(builder.as_data_source(split="train")) == 2
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
