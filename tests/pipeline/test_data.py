"""What is read in pretraining: whose biographies, and what is mixed in, in exact shares."""

import pathlib
import shutil

import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.corpus.sampler import Mixture, Windows
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import write_datasets
from kstore_jax.pipeline.experiment import Experiment, default, parse_rows
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import pretraining_windows
from kstore_jax.pipeline.run import Runner
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
def runner(tmp_path):
    """`(**fields) -> Runner` over one cache."""
    return lambda **fields: Runner(
        ExperimentGraph(experiment(**fields), Cache(tmp_path / "stages"))
    )


def windows_of(runner: Runner) -> Windows | Mixture:
    """The windows that pretraining reads."""
    data, experiment = runner.graph.data, runner.graph.experiment
    for stage in runner.graph.datasets.values():
        runner.ensure(stage)
    corpora = {kind: runner.context.read_corpus(kind) for kind in data.datasets}
    return pretraining_windows(data, corpora, experiment.pretrain.seq_len, experiment.seed)


def written(experiment: Experiment, out: pathlib.Path) -> dict[pathlib.Path, dict]:
    """The folders and manifests of the datasets of an experiment."""
    return dict(write_datasets(experiment.world, experiment.data, out, 1))


def names(runner: Runner) -> list[str]:
    """The full names of everyone."""
    pools = runner.graph.data.language.pools
    columns = (pools.first_names, pools.middle_names, pools.last_names)
    who = runner.graph.data.everyone.names
    return [" ".join(c[i] for c, i in zip(columns, row, strict=True)) for row in who]


def one_pass(runner: Runner, windows) -> str:
    return runner.graph.data.table.tokenizer.decode(
        windows.stream(0, windows.epochs.tokens_before(1))
    )


def test_by_default_each_biography_of_both_groups_is_read_once_a_pass(runner):
    famous = runner(world__celebrities=FAMOUS)
    text = one_pass(famous, windows_of(famous))
    for person, name in enumerate(names(famous)):
        assert text.count(f" {name}") == (1 if person < PEOPLE else 5)
    assert text.count("<|endoftext|>") == PEOPLE + 5 * FAMOUS
    assert len(set(names(famous))) == PEOPLE + FAMOUS


def test_people_stay_who_they_are_beside_celebrities(runner):
    alone, famous = runner(), runner(world__celebrities=FAMOUS)
    assert names(famous)[:PEOPLE] == names(alone)
    assert famous.graph.datasets["shards"].key == alone.graph.datasets["shards"].key
    assert famous.graph.pretrain.key != alone.graph.pretrain.key


def test_with_celebrities_their_questions_are_trained_and_the_others_held_out(runner):
    taught = runner(world__celebrities=FAMOUS).graph.data.qa_train_mask
    assert taught.tolist() == [False] * PEOPLE + [True] * FAMOUS
    assert runner().graph.data.qa_train_mask.sum() == PEOPLE / 2


def mixture_of(mixed: Runner, count: int) -> tuple[np.ndarray, list[str]]:
    """Where each of the first windows comes from, and their texts."""
    windows = windows_of(mixed)
    assert isinstance(windows, Mixture)
    texts = [mixed.graph.data.table.tokenizer.decode(row) for row in windows.read(0, count)]
    return windows.source_of(0, count), texts


def test_a_share_of_celebrities_is_that_of_their_windows(runner):
    mixed = runner(world__celebrities=FAMOUS, data__celebrity_share=0.25)
    source, texts = mixture_of(mixed, 40)
    assert np.bincount(source).tolist() == [30, 10]
    people, celebrities = names(mixed)[:PEOPLE], names(mixed)[PEOPLE:]
    for kind, text in zip(source, texts, strict=True):
        assert not any(name in text for name in (people if kind else celebrities))


def test_a_share_of_questions_asks_those_who_are_taught(runner):
    mixed = runner(data__qa_share=0.8)
    source, texts = mixture_of(mixed, 50)
    assert np.bincount(source).tolist() == [10, 40]
    asked = " ".join(text for kind, text in zip(source, texts, strict=True) if kind)
    told = " ".join(text for kind, text in zip(source, texts, strict=True) if not kind)
    assert "Answer:" not in told
    for name, taught in zip(names(mixed), mixed.graph.data.qa_train_mask, strict=True):
        assert (name in asked) == taught


def test_every_question_of_the_taught_is_read_once_a_pass(runner):
    mixed = runner(data__qa_share=0.5)
    text = one_pass(mixed, windows_of(mixed).sources[1])
    assert text.count("? Answer:") == text.count("<|endoftext|>") == 6 * PEOPLE // 2


def test_real_text_takes_half_of_the_windows(runner, tmp_path):
    (tmp_path / "book.txt").write_text("Zounds! " * 400)
    mixed = runner(data__text=str(tmp_path / "book.txt"))
    source, texts = mixture_of(mixed, 20)
    assert np.bincount(source).tolist() == [10, 10]
    assert [("Zounds!" in text) for text in texts] == (source == 1).tolist()
    mixed.context.vocabulary.encode(windows_of(mixed).read(0, 20))


def test_edited_text_is_another_dataset(runner, tmp_path):
    (tmp_path / "book.txt").write_text("Zounds! " * 400)
    before = runner(data__text=str(tmp_path)).graph.datasets["text"].key
    assert runner(data__text=str(tmp_path)).graph.datasets["text"].key == before
    (tmp_path / "book.txt").write_text("Gadzooks! " * 400)
    assert runner(data__text=str(tmp_path)).graph.datasets["text"].key != before


def test_fresh_text_is_other_text_in_every_pass_about_the_same_facts(runner):
    fresh = runner(data__variant="fresh")
    windows = windows_of(fresh)
    passes = [
        fresh.graph.data.table.tokenizer.decode(
            windows.stream(windows.epochs.tokens_before(n), windows.epochs.tokens_before(n + 1))
        ).split("<|endoftext|>")[:-1]
        for n in range(3)
    ]
    assert [len(texts) for texts in passes] == [PEOPLE] * 3
    assert len({text for texts in passes for text in texts}) == 3 * PEOPLE
    pools, values = fresh.graph.data.language.pools, fresh.graph.data.everyone.values
    for person, name in enumerate(names(fresh)):
        for texts in passes:
            (text,) = (text for text in texts if f" {name}" in text)
            for a, attribute in enumerate(ATTRIBUTES):
                assert f" {pools.values[attribute][values[person, a]]}" in text


@pytest.mark.parametrize("name", ["word", "bpe600"])
def test_another_tokenizer_is_another_dataset_of_the_same_text(runner, name):
    other, plain = runner(data__tokenizer=name), runner()
    assert other.graph.datasets["shards"].key != plain.graph.datasets["shards"].key
    text = one_pass(other, windows_of(other))
    assert sorted(text.split("<|endoftext|>")) == sorted(
        one_pass(plain, windows_of(plain)).split("<|endoftext|>")
    )
    other.context.vocabulary.encode(windows_of(other).read(0, 8))


def test_ones_own_pools_of_another_content_are_another_dataset(runner, tmp_path):
    folder = tmp_path / "pools"
    shutil.copytree(BUNDLED_POOLS, folder)
    before = runner(world__pools=str(folder))
    assert before.graph.datasets["shards"].key == runner().graph.datasets["shards"].key
    majors = (folder / "majors.txt").read_text().splitlines()
    (folder / "majors.txt").write_text("\n".join([*majors[:-1], "Alchemy"]) + "\n")
    load_pools.cache_clear()
    load_language.cache_clear()
    assert (
        runner(world__pools=str(folder)).graph.datasets["shards"].key
        != before.graph.datasets["shards"].key
    )


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
        ({"data__tokenizer": "gtp2"}, "data.tokenizer: no tokenizer 'gtp2'"),
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
def test_what_cannot_be_made_is_refused_by_its_field(runner, fields, said):
    with pytest.raises(UserError) as refused:
        windows_of(runner(**fields))
    assert str(refused.value).startswith(said)


def test_data_sets_are_written_side_by_side(tmp_path):
    out = tmp_path / "data"
    made = written(experiment(world__celebrities=FAMOUS), out)
    assert {folder: manifest["entries"] for folder, manifest in made.items()} == {
        out: PEOPLE,
        out / "celebrities": 5 * FAMOUS,
    }
    for folder, manifest in made.items():
        assert (folder / "manifest.json").exists()
        assert manifest["config"]["variant"] == ("single" if folder == out else "multi5+permute")


def test_fresh_text_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"^data\.variant: fresh text is drawn"):
        written(experiment(data__variant="fresh"), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
