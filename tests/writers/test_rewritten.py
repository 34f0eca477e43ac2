"""The corpus of rewritten texts: its spans, variants and fingerprint."""

import json
import re

import numpy as np
import pytest

from kstore_jax.api.show import PersonText
from kstore_jax.corpus.encode import token_table
from kstore_jax.corpus.shards import read_dataset
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import write_datasets
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import pretraining_windows
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.language import load_language
from kstore_jax.world.people import draw_people
from kstore_jax.writers import journal
from kstore_jax.writers.prompts import load_prompts, person_facts
from kstore_jax.writers.rewritten import RewrittenTexts, encode_texts
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import films
from tests.writers.chat_server import running
from tests.writers.rewrites import copy_journal, data_of, experiment, read, rewrite

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
VARIANTS = ("single", "single+fullname", "multi3", "multi3+fullname", "single+permute5")


@pytest.mark.parametrize(
    ("variant", "tokenizer"), [*((variant, "gpt2") for variant in VARIANTS), ("multi3", "bpe400")]
)
def test_spans_of_the_dataset_cover_facts_and_names(written, tmp_path, variant, tokenizer):
    folder, _ = written
    row = experiment(data__variant=variant, data__rewritten=str(folder), data__tokenizer=tokenizer)
    ((out, manifest),) = write_datasets(row.world, row.data, tmp_path / "data", 1)
    data, corpus = data_of(row), read_dataset(out)
    assert manifest["entries"] == 40 * data.variant.biographies_per_person == len(corpus.texts)
    decode, pools = data.table.tokenizer.decode, data.language.pools
    facts = person_facts(pools, draw_people(pools, 0, np.arange(40)))
    texts = {(r["person"], r["entry"]): r["text"] for r in read(folder) if not r["refused"]}
    for row_number in range(len(corpus.texts)):
        begin, end = corpus.texts.offsets[row_number : row_number + 2]
        ids = corpus.texts.tokens[begin:end].tolist()
        person, entry = corpus.people[row_number], corpus.entries[row_number]
        if variant in ("single", "multi3"):
            assert decode(ids) == f" {texts[person, entry]}"
        for a, name in enumerate(ATTRIBUTES):
            first, last = corpus.texts.value_spans[row_number, a]
            covered = decode(ids[first:last])
            value = facts[person].values[a]
            if name in ("university", "major", "company"):
                assert covered == f" {value}"
            elif name == "birth_date":
                assert covered.endswith(value[-4:])
            else:
                assert covered.startswith(f" {value.split(',')[0]}, ")
        names = [decode(ids[a:b]) for a, b in corpus.texts.name_spans[row_number] if b]
        assert names
        assert set(names) == {f" {facts[person].name}"}
        if variant.endswith("fullname"):
            assert f" {facts[person].pronoun.capitalize()} " not in decode(ids)


def test_permuted_copies_have_the_same_sentences_in_other_orders(written):
    folder, _ = written
    row = experiment(data__variant="single+permute5", data__rewritten=str(folder))
    data = data_of(row)
    (part,) = data.rewritten.parts(data.table, data.variant, 0, 40)
    (corpus,) = part()
    orders = {tuple(np.argsort(corpus.texts.value_spans[row, :, 0])) for row in range(5)}
    assert len(orders) > 1


def test_an_experiment_trains_on_rewritten_texts_with_a_compact_vocabulary(written, tmp_path):
    folder, _ = written
    cache = Cache(tmp_path / "stages")
    row = experiment(data__rewritten=str(folder))
    runner, templates = (Runner(ExperimentGraph(e, cache)) for e in (row, experiment()))
    dataset = runner.graph.datasets["shards"]
    assert dataset.key != templates.graph.datasets["shards"].key
    runner.ensure(dataset)
    windows = pretraining_windows(
        runner.graph.data, runner.context.read_corpus, row.tasks, row.pretrain.seq_len, row.seed
    )
    runner.context.vocabulary.encode(windows.read(0, 50))
    questions = (each.context.questions()[1] for each in (runner, templates))
    assert [len(each) for each in questions] == [6 * 40] * 2


def test_show_prints_the_rewritten_texts(written):
    folder, _ = written
    shown = PersonText(experiment(data__rewritten=str(folder)), 7)
    texts = [r["text"] for r in read(folder) if r["person"] == 7 and not r["refused"]]
    entries = json.loads(shown.json())["entries"]
    assert sorted(entry["text"] for entry in entries) == sorted(f" {text}" for text in texts)
    plain, coloured = shown.text(False), shown.text(True)
    assert all(text in plain for text in texts)
    assert coloured != plain
    assert re.sub(r"\033\[\d+m", "", coloured) == plain


def test_celebrities_are_rewritten_too(tmp_path):
    folder = tmp_path / "out"
    fields = {
        "world__people": 10,
        "world__celebrities": 5,
        "data__variant": "single",
        "data__celebrity_variant": "multi2",
    }
    with running() as address:
        assert rewrite(folder, address, [experiment(**fields)]).needed == 10 + 5 * 2
    row = experiment(data__rewritten=str(folder), **fields)
    manifests = dict(write_datasets(row.world, row.data, tmp_path / "d", 1)).values()
    assert [manifest["entries"] for manifest in manifests] == [10, 10]
    famous = read_dataset(tmp_path / "d" / "celebrities")
    assert famous.people.tolist() == np.repeat(np.arange(10, 15), 2).tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__rewritten": "nowhere"}, "data.rewritten: nowhere: no journal here"),
        (
            {"data__variant": "multi5"},
            "has 120 of 200 texts; kstore rewrite requests the missing ones",
        ),
        ({"world__people": 41}, "has 120 of 123 texts"),
        ({"world__seed": 1}, "written for another world (seed differs)"),
        ({"data__variant": "couple2"}, "data.variant: 'couple2' exists for templates only"),
        ({"data__tokenizer": "word"}, "data.tokenizer: word has the words of templates only"),
    ],
)
def test_a_journal_that_does_not_fit_the_experiment_is_refused(written, fields, message):
    folder, _ = written
    row = experiment(**{"data__rewritten": str(folder), **fields})
    with pytest.raises(UserError) as error:
        data_of(row).datasets  # noqa: B018
    assert message in str(error.value)


def test_a_changed_text_changes_the_fingerprint(written, tmp_path):
    folder, _ = written
    copy = tmp_path / "out"
    copy_journal(folder, copy)
    data = data_of(experiment())
    source = data.variant, 0, 40
    before = RewrittenTexts(copy, data.language.pools, 0).fingerprint(*source)
    accepted = next(record["text"] for record in read(copy) if not record["refused"])
    content = (copy / journal.JOURNAL).read_text()
    (copy / journal.JOURNAL).write_text(content.replace(accepted, f"{accepted} Indeed."))
    assert RewrittenTexts(copy, data.language.pools, 0).fingerprint(*source) != before


def test_spans_of_texts_about_films(tmp_path):
    language = load_language(str(films(tmp_path)))
    facts = person_facts(language.pools, draw_people(language.pools, 0, np.arange(6)))
    texts = [load_prompts(language.schema).prompt(0, film, 0, 0)[0] for film in facts]
    rows = encode_texts(token_table(language, gpt2()), language.pools, facts, texts)
    for film, first, spans, names in zip(
        facts, rows.offsets[:-1], rows.value_spans, rows.name_spans, strict=True
    ):
        covered = [gpt2().decode(rows.tokens[first + a : first + b]) for a, b in spans]
        assert covered == [f" {value}" for value in film.values]
        a, b = names[0]
        assert gpt2().decode(rows.tokens[first + a : first + b]) == f" {film.name}"
