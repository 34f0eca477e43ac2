"""Windows of pretraining: whose biographies they hold, and other sources in exact shares."""

import pathlib
import shutil

import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.corpus.config import Data
from kstore_jax.corpus.sampler import Mixture, Windows
from kstore_jax.corpus.shards import read_dataset
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import ExperimentData, write_datasets
from kstore_jax.pipeline.experiment import Experiment, default, parse_rows
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import pretraining_windows
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.config import World
from kstore_jax.world.language import load_language
from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.pipeline.runners import full_names
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import drawn

PEOPLE, FAMOUS = 30, 20


def experiment(**fields):
    """A small experiment; `__` in the name of a field stands for a dot."""
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
    read = runner.context.read_corpus
    return pretraining_windows(
        data, read, experiment.tasks, experiment.pretrain.seq_len, experiment.seed
    )


def write(experiment: Experiment, out: pathlib.Path) -> dict[pathlib.Path, dict]:
    """Writes the datasets of an experiment; returns their manifests by folder."""
    return dict(write_datasets(experiment.world, experiment.data, out, 1))


def names(runner: Runner) -> list[str]:
    """The full names of everyone."""
    return full_names(runner.graph.data.language.pools, runner.graph.data.everyone)


def epoch(runner: Runner, windows: Windows | Mixture, number: int = 0) -> str:
    """The text of one epoch of the only source."""
    assert isinstance(windows, Windows)
    start, end = (windows.epochs.tokens_before(n) for n in (number, number + 1))
    return runner.graph.data.tokenizer.decode(windows.stream(start, end))


def test_by_default_an_epoch_holds_each_biography_of_both_groups_once(runner):
    famous = runner(world__celebrities=FAMOUS)
    text = epoch(famous, windows_of(famous))
    for person, name in enumerate(names(famous)):
        assert text.count(f" {name}") == (1 if person < PEOPLE else 5)
    assert text.count("<|endoftext|>") == PEOPLE + 5 * FAMOUS
    assert len(set(names(famous))) == PEOPLE + FAMOUS


def test_celebrities_do_not_change_the_other_people(runner):
    alone, famous = runner(), runner(world__celebrities=FAMOUS)
    assert names(famous)[:PEOPLE] == names(alone)
    assert famous.graph.datasets["shards"].key == alone.graph.datasets["shards"].key
    assert famous.graph.pretrain.key != alone.graph.pretrain.key


def test_questions_about_celebrities_are_trained_and_all_others_held_out(runner):
    qa_train_mask = runner(world__celebrities=FAMOUS).graph.data.qa_train_mask
    assert qa_train_mask.tolist() == [False] * PEOPLE + [True] * FAMOUS
    assert runner().graph.data.qa_train_mask.sum() == PEOPLE / 2


def mixture_of(mixed: Runner, count: int) -> tuple[np.ndarray, list[str]]:
    """The source of each of the first windows, and their texts."""
    windows = windows_of(mixed)
    assert isinstance(windows, Mixture)
    texts = [mixed.graph.data.tokenizer.decode(row) for row in windows.read(0, count)]
    return windows.source_of(0, count), texts


def test_celebrities_have_their_share_of_the_windows(runner):
    mixed = runner(world__celebrities=FAMOUS, data__celebrity_share=0.25)
    source, texts = mixture_of(mixed, 40)
    assert np.bincount(source).tolist() == [30, 10]
    people, celebrities = names(mixed)[:PEOPLE], names(mixed)[PEOPLE:]
    for kind, text in zip(source, texts, strict=True):
        assert not any(name in text for name in (people if kind else celebrities))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_marker_comes_before_the_texts_of_people_and_of_no_celebrity(runner, share):
    fields = {"world__celebrities": FAMOUS, "data__celebrity_share": share}
    plain, marked = runner(**fields), runner(**fields, data__marker=True)
    windows, vocabulary = windows_of(marked), marked.context.vocabulary
    sources = windows.sources if isinstance(windows, Mixture) else (windows,)
    texts = [source.epochs.read(0) for source in sources]
    marker, end = vocabulary.marker, vocabulary.tokenizer.end_of_text
    rows = [row for text in texts for row in np.split(text.tokens, text.offsets[1:-1])]
    assert [(row == marker).sum() for row in rows] == [1] * PEOPLE + [0] * (5 * FAMOUS)
    assert all(row[0] == marker for row in rows[:PEOPLE])
    assert all(row[-1] == end for row in rows)
    assert vocabulary.size == plain.context.vocabulary.size + 1
    assert vocabulary.decode(vocabulary.encode(rows[0][:3])) == vocabulary.tokenizer.decode(
        rows[0][1:3]
    )
    read = marked.context.corpus.texts
    assert (read.tokens[read.offsets[:-1]] == marker).all()
    assert marked.graph.pretrain.key != plain.graph.pretrain.key


def test_questions_have_their_share_of_the_windows_and_ask_about_p_train(runner):
    mixed = runner(data__qa_share=0.8)
    source, texts = mixture_of(mixed, 50)
    assert np.bincount(source).tolist() == [10, 40]
    questions = " ".join(text for kind, text in zip(source, texts, strict=True) if kind)
    biographies = " ".join(text for kind, text in zip(source, texts, strict=True) if not kind)
    assert "Answer:" not in biographies
    for name, is_trained in zip(names(mixed), mixed.graph.data.qa_train_mask, strict=True):
        assert (name in questions) == is_trained


def test_an_epoch_of_questions_holds_each_question_about_p_train_once(runner):
    mixed = runner(data__qa_share=0.5)
    windows = windows_of(mixed)
    assert isinstance(windows, Mixture)
    text = epoch(mixed, windows.sources[1])
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


def test_fresh_text_states_the_same_facts_in_other_words_every_epoch(runner):
    fresh = runner(data__variant="fresh")
    windows = windows_of(fresh)
    epochs = [epoch(fresh, windows, n).split("<|endoftext|>")[:-1] for n in range(3)]
    assert [len(texts) for texts in epochs] == [PEOPLE] * 3
    assert len({text for texts in epochs for text in texts}) == 3 * PEOPLE
    pools, values = fresh.graph.data.language.pools, fresh.graph.data.everyone.values
    for person, name in enumerate(names(fresh)):
        for texts in epochs:
            (text,) = (text for text in texts if f" {name}" in text)
            for a, attribute in enumerate(ATTRIBUTES):
                assert f" {pools.values[attribute][values[person, a]]}" in text


@pytest.mark.parametrize("name", ["word", "bpe600"])
def test_another_tokenizer_is_another_dataset_of_the_same_text(runner, name):
    other, plain = runner(data__tokenizer=name), runner()
    assert other.graph.datasets["shards"].key != plain.graph.datasets["shards"].key
    texts, expected = (epoch(r, windows_of(r)).split("<|endoftext|>") for r in (other, plain))
    assert sorted(texts) == sorted(expected)
    other.context.vocabulary.encode(windows_of(other).read(0, 8))


def test_edited_pools_are_another_dataset(runner, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(BUNDLED_WORLD, folder)
    before = runner(world__folder=str(folder)).graph.datasets["shards"].key
    assert before == runner().graph.datasets["shards"].key
    path = folder / "pools" / "majors.txt"
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], "Alchemy"]) + "\n")
    load_pools.cache_clear()
    load_language.cache_clear()
    assert runner(world__folder=str(folder)).graph.datasets["shards"].key != before


@pytest.mark.parametrize(
    ("fields", "message"),
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
def test_an_impossible_dataset_raises_an_error_that_names_the_field(runner, fields, message):
    with pytest.raises(UserError) as error:
        windows_of(runner(**fields))
    assert str(error.value).startswith(message)


def test_each_dataset_is_written_into_its_folder(tmp_path):
    out = tmp_path / "data"
    manifests = write(experiment(world__celebrities=FAMOUS), out)
    assert {folder: manifest["entries"] for folder, manifest in manifests.items()} == {
        out: PEOPLE,
        out / "celebrities": 5 * FAMOUS,
    }
    for folder, manifest in manifests.items():
        assert (folder / "manifest.json").exists()
        assert manifest["config"]["variant"] == ("single" if folder == out else "multi5+permute")


def test_fresh_text_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"^data\.variant: fresh text is drawn"):
        write(experiment(data__variant="fresh"), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_another_world(tmp_path):
    world = World(people=20, folder=str(drawn(tmp_path / "world", 20, 4, ("it",))))
    data = Data(variant="couple2", vocabulary="compact")
    ((folder, manifest),) = write_datasets(world, data, tmp_path / "data", 1)
    assert manifest["entries"] == 40
    corpus, source = read_dataset(folder), ExperimentData(world, data)
    assert corpus.texts.value_spans.shape == (40, 20, 2)
    source.vocabulary.encode(corpus.texts.tokens)
    with pytest.raises(UserError, match=r"^data\.variant: expected reverse1 to reverse20 where "):
        ExperimentData(world, Data(variant="multi5+reverse21"))
