"""What is read in pretraining: whose biographies, and what is mixed in, in exact shares."""

import shutil

import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.corpus.sampler import Mixture
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import write_datasets
from kstore_jax.pipeline.experiment import default, parse_rows
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.language import load_language
from kstore_jax.world.people import ATTRIBUTES, BUNDLED_POOLS, load_pools

PEOPLE, FAMOUS = 30, 20


def experiment(**fields):
    """A small experiment; `__` stands for the dot in a field."""
    config = default()
    config.world.people = PEOPLE
    config.data.variant = "single"
    config.data.vocabulary = "compact"
    config.pretrain.seq_len = 64
    config.pretrain.warmup_steps = 0
    config.sweep = product(**{field: [value] for field, value in fields.items()})
    return parse_rows(config)[0]


@pytest.fixture
def lab(tmp_path):
    """`(**fields) -> Lab` over one cache."""
    return lambda **fields: Lab(experiment(**fields), Cache(tmp_path / "stages"))


def names(lab: Lab) -> list[str]:
    """The full names of everyone."""
    pools = lab.materials.language.pools
    columns = (pools.first_names, pools.middle_names, pools.last_names)
    who = lab.materials.everyone.names
    return [" ".join(c[i] for c, i in zip(columns, row, strict=True)) for row in who]


def one_pass(lab: Lab, windows) -> str:
    return lab.materials.table.tokenizer.decode(windows.stream(0, windows.passes.start(1)))


def test_by_default_each_biography_of_both_groups_is_read_once_a_pass(lab):
    famous = lab(world__celebrities=FAMOUS)
    text = one_pass(famous, famous.windows)
    for person, name in enumerate(names(famous)):
        assert text.count(f" {name}") == (1 if person < PEOPLE else 5)
    assert text.count("<|endoftext|>") == PEOPLE + 5 * FAMOUS
    assert len(set(names(famous))) == PEOPLE + FAMOUS


def test_people_stay_who_they_are_beside_celebrities(lab):
    alone, famous = lab(), lab(world__celebrities=FAMOUS)
    assert names(famous)[:PEOPLE] == names(alone)
    assert famous.corpora["shards"].key == alone.corpora["shards"].key
    assert famous.pretrain.key != alone.pretrain.key


def test_with_celebrities_their_questions_are_trained_and_the_others_held_out(lab):
    taught = lab(world__celebrities=FAMOUS).materials.taught
    assert taught.tolist() == [False] * PEOPLE + [True] * FAMOUS
    assert lab().materials.taught.sum() == PEOPLE / 2


def windows_of(mixed: Lab, count: int) -> tuple[np.ndarray, list[str]]:
    """Where each of the first windows comes from, and their texts."""
    windows = mixed.windows
    assert isinstance(windows, Mixture)
    texts = [mixed.materials.table.tokenizer.decode(row) for row in windows.windows(0, count)]
    return windows.source(0, count), texts


def test_a_share_of_celebrities_is_that_of_their_windows(lab):
    mixed = lab(world__celebrities=FAMOUS, data__celebrity_share=0.25)
    source, texts = windows_of(mixed, 40)
    assert np.bincount(source).tolist() == [30, 10]
    people, celebrities = names(mixed)[:PEOPLE], names(mixed)[PEOPLE:]
    for kind, text in zip(source, texts, strict=True):
        assert not any(name in text for name in (people if kind else celebrities))


def test_a_share_of_questions_asks_those_who_are_taught(lab):
    mixed = lab(data__qa_share=0.8)
    source, texts = windows_of(mixed, 50)
    assert np.bincount(source).tolist() == [10, 40]
    asked = " ".join(text for kind, text in zip(source, texts, strict=True) if kind)
    told = " ".join(text for kind, text in zip(source, texts, strict=True) if not kind)
    assert "Answer:" not in told
    for name, taught in zip(names(mixed), mixed.materials.taught, strict=True):
        assert (name in asked) == taught


def test_every_question_of_the_taught_is_read_once_a_pass(lab):
    mixed = lab(data__qa_share=0.5)
    text = one_pass(mixed, mixed.windows.sources[1])
    assert text.count("? Answer:") == text.count("<|endoftext|>") == 6 * PEOPLE // 2


def test_real_text_takes_half_of_the_windows(lab, tmp_path):
    (tmp_path / "book.txt").write_text("Zounds! " * 400)
    mixed = lab(data__text=str(tmp_path / "book.txt"))
    source, texts = windows_of(mixed, 20)
    assert np.bincount(source).tolist() == [10, 10]
    assert [("Zounds!" in text) for text in texts] == (source == 1).tolist()
    mixed.vocabulary.encode(mixed.windows.windows(0, 20))


def test_edited_text_is_another_dataset(lab, tmp_path):
    (tmp_path / "book.txt").write_text("Zounds! " * 400)
    before = lab(data__text=str(tmp_path)).corpora["text"].key
    assert lab(data__text=str(tmp_path)).corpora["text"].key == before
    (tmp_path / "book.txt").write_text("Gadzooks! " * 400)
    assert lab(data__text=str(tmp_path)).corpora["text"].key != before


def test_fresh_text_is_other_text_in_every_pass_about_the_same_facts(lab):
    fresh = lab(data__variant="fresh")
    windows = fresh.windows
    passes = [
        fresh.materials.table.tokenizer.decode(
            windows.stream(windows.passes.start(n), windows.passes.start(n + 1))
        ).split("<|endoftext|>")[:-1]
        for n in range(3)
    ]
    assert [len(texts) for texts in passes] == [PEOPLE] * 3
    assert len({text for texts in passes for text in texts}) == 3 * PEOPLE
    pools, values = fresh.materials.language.pools, fresh.materials.everyone.values
    for person, name in enumerate(names(fresh)):
        for texts in passes:
            (text,) = (text for text in texts if f" {name}" in text)
            for a, attribute in enumerate(ATTRIBUTES):
                assert f" {pools.values[attribute][values[person, a]]}" in text


@pytest.mark.parametrize("name", ["word", "bpe600"])
def test_another_tokenizer_is_another_dataset_of_the_same_text(lab, name):
    other, plain = lab(data__tokenizer=name), lab()
    assert other.corpora["shards"].key != plain.corpora["shards"].key
    text = one_pass(other, other.windows)
    assert sorted(text.split("<|endoftext|>")) == sorted(
        one_pass(plain, plain.windows).split("<|endoftext|>")
    )
    other.vocabulary.encode(other.windows.windows(0, 8))


def test_ones_own_pools_of_another_content_are_another_dataset(lab, tmp_path):
    folder = tmp_path / "pools"
    shutil.copytree(BUNDLED_POOLS, folder)
    before = lab(world__pools=str(folder))
    assert before.corpora["shards"].key == lab().corpora["shards"].key
    majors = (folder / "majors.txt").read_text().splitlines()
    (folder / "majors.txt").write_text("\n".join([*majors[:-1], "Alchemy"]) + "\n")
    load_pools.cache_clear()
    load_language.cache_clear()
    assert lab(world__pools=str(folder)).corpora["shards"].key != before.corpora["shards"].key


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"data__celebrity_variant": "multi0"},
            "data.celebrity_variant: 'multi0' is not a variant",
        ),
        (
            {"world__celebrities": 5, "data__celebrity_share": 1.0},
            "data.celebrity_share: expected less than 1",
        ),
        ({"data__celebrity_share": 0.5}, "data.celebrity_share: expected world.celebrities"),
        ({"data__tokenizer": "gtp2"}, "data.tokenizer: 'gtp2' is no tokenizer"),
        ({"data__text": "nowhere"}, "data.text: "),
        (
            {"world__celebrities": 5, "data__variant": "fresh"},
            "data.celebrity_share: expected more than 0",
        ),
        (
            {"world__people": 159_999_999, "world__celebrities": 2},
            "world.people: 160000001 people",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_by_its_field(lab, fields, said):
    with pytest.raises(UserError) as refused:
        lab(**fields).windows  # noqa: B018
    assert str(refused.value).startswith(said)


def test_data_sets_are_written_side_by_side(tmp_path):
    out = tmp_path / "data"
    made = dict(write_datasets(experiment(world__celebrities=FAMOUS), out, 1))
    assert {folder: manifest["entries"] for folder, manifest in made.items()} == {
        out: PEOPLE,
        out / "celebrities": 5 * FAMOUS,
    }
    for folder, manifest in made.items():
        assert (folder / "manifest.json").exists()
        assert manifest["config"]["variant"] == ("single" if folder == out else "multi5+permute")


def test_fresh_text_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"^data\.variant: fresh text is drawn"):
        list(write_datasets(experiment(data__variant="fresh"), tmp_path / "data", 1))
    assert list(tmp_path.iterdir()) == []
