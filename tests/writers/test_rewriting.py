"""Biographies by a model behind a server: refused where bad, lost never, paid for once."""

import collections
import json
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from kstore_jax.cli.main import main
from kstore_jax.config.rows import product
from kstore_jax.corpus.shards import read_dataset
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import Materials, write_datasets
from kstore_jax.pipeline.experiment import default, parse_rows
from kstore_jax.pipeline.lab import Lab
from kstore_jax.pipeline.stages import Cache
from kstore_jax.report.show import Shown
from kstore_jax.world.people import ATTRIBUTES, people
from kstore_jax.writers import client, journal, rewriting
from kstore_jax.writers.prompts import REFUSALS, facts
from kstore_jax.writers.rewritten import FIELDS, Rewritten
from tests.writers.chat_server import MODEL, TEXTS, running

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
PATIENT = client.Patience(timeout=20.0, tries=12, first=0.001, most=0.01)
BAD = dict.fromkeys(TEXTS, 0.06)
TROUBLED = {"busy": 0.03, "fail": 0.03, "cut": 0.03, "garbled": 0.03}
CONFIG = """
from kstore_jax.pipeline.experiment import default


def get_config():
    config = default()
    config.world.people = {people}
    config.data.variant = "multi3"
    return config
"""


def experiment(**fields):
    config = default()
    config.world.people = 40
    config.data.update(variant="multi3", vocabulary="compact")
    config.model.update(layers=1, heads=2, width=16, dtype="float32")
    config.finetune.embedding_rank = 4
    config.pretrain.update(steps=4, batch_size=4, seq_len=32, warmup_steps=0)
    config.sweep = product(**{field: [value] for field, value in fields.items()})
    return parse_rows(config)[0]


def rewritten(folder, address, attempts=20, model=MODEL, **fields):
    return rewriting.rewrite([experiment(**fields)], address, model, folder, 8, attempts, PATIENT)


def read(folder) -> list[dict]:
    return [record for _, record in journal.records(folder / journal.JOURNAL, FIELDS)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a server that misbehaves in every way, and what was found."""
    folder = tmp_path_factory.mktemp("rewriting") / "out"
    with running(**BAD, **TROUBLED) as address:
        return folder, rewritten(folder, address)


def test_every_bad_text_is_refused_by_its_class_and_asked_for_again(written):
    folder, found = written
    assert found.kept == found.needed == 40 * 3
    kept = [(r["person"], r["entry"]) for r in read(folder) if not r["refused"]]
    assert sorted(kept) == [(person, entry) for person in range(40) for entry in range(3)]
    assert set(found.refused) == set(REFUSALS)
    assert found.turned_down == found.answers - found.needed
    assert sum(bool(record["refused"]) for record in read(folder)) == found.turned_down
    attempts = collections.defaultdict(list)
    for record in read(folder):
        attempts[record["person"], record["entry"]].append(record["attempt"])
    assert all(tried == list(range(len(tried))) for tried in attempts.values())
    told = rewriting.summary(found)
    assert all(f"  {reason} " in told for reason in (*REFUSALS, "429", "500", "cut", "garbled"))
    most = found.refused.most_common(1)[0]
    assert f" refused: {most[0]} {most[1]} " in rewriting._progress(found)


def test_all_rows_of_a_sweep_get_their_texts(tmp_path):
    folder = tmp_path / "out"
    rows = [
        experiment(world__people=9, data__variant="single", world__celebrities=3),
        experiment(world__people=7, data__variant="multi3", data__rewritten=str(folder)),
        experiment(
            **{"world__people": 5, "world__celebrities": 4, "data__celebrity_variant": "multi2"},
            **{"data__variant": "single+fullname", "data__rewritten": str(folder)},
        ),
    ]
    with running() as address:
        found = rewriting.rewrite(rows, address, MODEL, folder, 8, 20, PATIENT)
    counts = collections.Counter(record["person"] for record in read(folder))
    assert counts == {**dict.fromkeys(range(7), 3), 7: 2, 8: 2}  # the first row is of templates
    assert found.kept == found.needed == 25
    for row in rows[1:]:
        assert Materials(row).datasets
    rows[0] = experiment(world__seed=1, data__rewritten="elsewhere")
    with pytest.raises(UserError, match=r"^world\.seed: the rows of the configuration have 0, 1; "):
        rewriting.rewrite(rows, "http://127.0.0.1:1", MODEL, folder, 8, 20, PATIENT)


def test_what_is_there_is_not_asked_for_and_more_can_be(written, tmp_path):
    folder, found = written
    again = rewritten(folder, "http://127.0.0.1:1")
    assert (again.kept, again.answers) == (found.kept, found.answers)
    copy = tmp_path / "out"
    copy.mkdir()
    for name in (journal.JOURNAL, journal.CONFIG):
        (copy / name).write_bytes((folder / name).read_bytes())
    with running() as address:
        more = rewritten(copy, address, world__people=45, data__variant="multi4")
    assert more.kept == 45 * 4
    assert len(read(copy)) == len(read(folder)) + 45 * 4 - 40 * 3
    assert (copy / journal.JOURNAL).read_bytes().startswith((folder / journal.JOURNAL).read_bytes())


def test_what_is_always_refused_is_given_up_and_gone_on_with(tmp_path):
    folder = tmp_path / "out"
    with running(wrong=1.0) as address:
        found = rewritten(folder, address, attempts=2)
    assert (found.kept, found.answers) == (0, 2 * found.needed)
    with pytest.raises(UserError, match=r"120 texts were refused 2 times; a larger --attempts"):
        rewriting.check_whole(found, 2)
    with running(wrong=0.3) as address:
        found = rewritten(folder, address)
    assert found.kept == found.needed
    assert found.refused["birth_date"] >= 2 * found.needed


def test_where_only_what_is_always_declined_is_left_it_is_given_up_again(tmp_path):
    folder = tmp_path / "out"
    with running(declined=0.3) as address:
        found = rewritten(folder, address, attempts=1)
    left = found.needed - found.kept
    assert left == found.refused["declined"] > 8
    with running(declined=1.0) as address:
        found = rewritten(folder, address, attempts=3)
        assert found.needed - found.kept == left
        assert found.refused["declined"] == 3 * left
        with pytest.raises(UserError, match=r"^--server: .*status 400: I write nothing"):
            rewritten(folder, address, attempts=3, world__people=50)  # new ones: none is answered
    with running() as address:
        assert rewritten(folder, address).kept == found.needed


def test_a_server_that_goes_away_leaves_what_it_answered(tmp_path):
    folder = tmp_path / "out"
    with running(die_after=30) as address, pytest.raises(client.ServerError):
        rewritten(folder, address)
    before = read(folder)
    assert 22 <= len(before) <= 30
    with running() as address:
        rewritten(folder, address)
    assert read(folder)[: len(before)] == before
    assert len(read(folder)) == 120


def test_another_model_or_world_is_refused(written):
    folder, _ = written
    with pytest.raises(UserError, match="made with another model: 'writer', not 'other'"):
        rewritten(folder, "http://127.0.0.1:1", model="other")
    with pytest.raises(UserError, match="made with another seed: 0, not 5"):
        rewritten(folder, "http://127.0.0.1:1", world__seed=5)
    for field in ("data__variant", "data__celebrity_variant"):
        with pytest.raises(UserError, match=f"^{field.replace('__', '.')}: 'couple2' is of templ"):
            rewritten(folder, "http://127.0.0.1:1", world__celebrities=3, **{field: "couple2"})


VARIANTS = ("single", "single+fullname", "multi3", "multi3+fullname", "single+permute5")


@pytest.mark.parametrize(
    ("variant", "tokenizer"), [*((variant, "gpt2") for variant in VARIANTS), ("multi3", "bpe400")]
)
def test_spans_of_the_data_set_hold_the_facts_and_names(written, tmp_path, variant, tokenizer):
    folder, _ = written
    row = experiment(data__variant=variant, data__rewritten=str(folder), data__tokenizer=tokenizer)
    ((out, manifest),) = write_datasets(row, tmp_path / "data", 1)
    materials, corpus = Materials(row), read_dataset(out)
    assert manifest["entries"] == 40 * materials.variant.entries == len(corpus.rows)
    cut, pools = materials.table.tokenizer, materials.language.pools
    told = facts(pools, people(pools, 0, np.arange(40)))
    texts = {(r["person"], r["entry"]): r["text"] for r in read(folder) if not r["refused"]}
    for row_number in range(len(corpus.rows)):
        begin, end = corpus.rows.offsets[row_number : row_number + 2]
        ids = corpus.rows.tokens[begin:end].tolist()
        person, entry = corpus.people[row_number], corpus.entries[row_number]
        who = told[person]
        if variant in ("single", "multi3"):
            assert cut.decode(ids) == f" {texts[person, entry]}"
        for a, name in enumerate(ATTRIBUTES):
            first, last = corpus.rows.value_spans[row_number, a]
            said = cut.decode(ids[first:last])
            value = who.values[a]
            if name in ("university", "major", "company"):
                assert said == f" {value}"
            elif name == "birth_date":
                assert said.endswith(value[-4:])
            else:
                assert said.startswith(f" {value.split(',')[0]}, ")
        names = [cut.decode(ids[a:b]) for a, b in corpus.rows.name_spans[row_number] if b]
        assert names
        assert set(names) == {f" {who.name}"}
        if variant.endswith("fullname"):
            assert f" {who.pronoun.capitalize()} " not in cut.decode(ids)


def test_permuted_copies_have_the_same_sentences_in_other_orders(written):
    folder, _ = written
    row = experiment(data__variant="single+permute5", data__rewritten=str(folder))
    materials = Materials(row)
    (part,) = materials.rewritten.parts(materials.table, materials.variant, 0, 40)
    (corpus,) = part()
    orders = {tuple(np.argsort(corpus.rows.value_spans[row, :, 0])) for row in range(5)}
    assert len(orders) > 1


def test_an_experiment_trains_on_rewritten_texts_with_a_compact_vocabulary(written, tmp_path):
    folder, _ = written
    lab = Lab(experiment(data__rewritten=str(folder)), Cache(tmp_path / "stages"))
    plain = Lab(experiment(), Cache(tmp_path / "stages"))
    assert lab.corpora["shards"].key != plain.corpora["shards"].key
    lab.vocabulary.encode(lab.windows.windows(0, 50))
    assert len(lab.asked()) == len(plain.asked()) == 6 * 40


def test_show_prints_what_was_written(written):
    folder, _ = written
    shown = Shown(experiment(data__rewritten=str(folder)), 7)
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
        assert rewritten(folder, address, **fields).needed == 10 + 5 * 2
    made = dict(
        write_datasets(experiment(data__rewritten=str(folder), **fields), tmp_path / "d", 1)
    )
    assert [manifest["entries"] for manifest in made.values()] == [10, 10]
    famous = read_dataset(tmp_path / "d" / "celebrities")
    assert famous.people.tolist() == np.repeat(np.arange(10, 15), 2).tolist()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data__rewritten": "nowhere"}, "data.rewritten: nowhere: no journal here"),
        ({"data__variant": "multi5"}, "holds 120 of 200 texts; kstore rewrite goes on"),
        ({"world__people": 41}, "holds 120 of 123 texts"),
        ({"world__seed": 1}, "written for another world (seed differs)"),
        ({"data__variant": "couple2"}, "data.variant: 'couple2' is of templates only"),
        ({"data__tokenizer": "word"}, "data.tokenizer: word knows the words of templates only"),
    ],
)
def test_what_cannot_be_made_of_a_journal_is_refused(written, fields, said):
    folder, _ = written
    with pytest.raises(UserError) as refused:
        Materials(experiment(**{"data__rewritten": str(folder), **fields})).datasets  # noqa: B018
    assert said in str(refused.value)


def test_a_text_that_was_changed_is_another_data_set(written, tmp_path):
    folder, _ = written
    copy = tmp_path / "out"
    copy.mkdir()
    for name in (journal.JOURNAL, journal.CONFIG):
        (copy / name).write_bytes((folder / name).read_bytes())
    pools = Materials(experiment()).language.pools
    variant = Materials(experiment()).variant
    before = Rewritten(copy, pools, 0).fingerprint(variant, 0, 40)
    text = (copy / journal.JOURNAL).read_text()
    (copy / journal.JOURNAL).write_text(text.replace(" lived.", " had a life.", 1))
    assert (Rewritten(copy, pools, 0).fingerprint(variant, 0, 40) != before) == (" lived." in text)


SECRET = "sk-0123456789-very-secret"


@pytest.mark.parametrize("options", [{}, {"fail": 1.0}, {"key": "another"}])
def test_the_key_is_written_nowhere(tmp_path, monkeypatch, capfd, options):
    monkeypatch.setenv(client.KEY, SECRET)
    (tmp_path / "replies").write_text(json.dumps({"biography": f"The key is {SECRET}."}))
    given = {"key": SECRET, "replies": tmp_path / "replies", **options}
    patience = client.Patience(tries=2, first=0.001)
    with running(**given) as address:
        told = ""
        try:
            rewriting.rewrite([experiment()], address, MODEL, tmp_path / "out", 4, 2, patience)
        except UserError as error:
            told = str(error)
    assert SECRET not in told
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert bool(written) == (options == {})
    assert all(SECRET not in path.read_text() for path in written)
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err


def killed(folder, log, kills: int, size: int) -> None:
    """Rewrites, killed at random moments, until all is there."""
    config = folder / "tiny.py"
    config.write_text(CONFIG.format(people=size))
    delay = 0.02 if size < 1000 else 0.002
    with running(**BAD, **TROUBLED, delay=delay, log=log) as address:
        command = [
            *(sys.executable, "-m", "kstore_jax.cli", "rewrite", f"--config={config}"),
            *(f"--server={address}", f"--model={MODEL}", f"--out={folder / 'out'}"),
            "--concurrency=16",
        ]
        path = folder / "out" / journal.JOURNAL
        dice = random.Random()
        for kill in range(kills):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            least = path.stat().st_size if path.exists() else 0
            left = 3 * size * 300 - least  # bytes, somewhat less than there will be
            target = least + dice.random() * 1.5 * left / (kills - kill + 1)
            while not path.exists() or path.stat().st_size <= target:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(dice.random() * 0.05)
            assert process.poll() is None
            process.kill()
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def check_killed(tmp_path, kills: int, size: int) -> None:
    log = tmp_path / "log"
    killed(tmp_path, log, kills, size)
    folder, whole = tmp_path / "out", tmp_path / "whole"
    with running(**BAD) as address:  # the same answers, nothing in the way
        rewritten(whole, address, world__people=size)
    once, again = (
        {(r["person"], r["entry"], r["attempt"]): r for r in read(f)} for f in (whole, folder)
    )
    assert once == again  # nothing is lost, nothing is new
    assert len(read(folder)) == len(again)
    paid = collections.Counter(log.read_text().split())
    assert len(paid) == len(again)
    assert sum(paid.values()) - len(paid) <= kills * 16
    made = []
    for source in (folder, whole):
        row = experiment(world__people=size, data__rewritten=str(source))
        made += [m["parts"] for _, m in write_datasets(row, tmp_path / f"d-{source.name}", 1)]
    assert made[0] == made[1]


def test_killed_at_random_moments_nothing_is_lost_or_paid_for_twice(tmp_path):
    check_killed(tmp_path, 3, 200)


@pytest.mark.slow
def test_killed_twenty_times_during_ten_thousand_rewrites(tmp_path):
    check_killed(tmp_path, 20, 3334)


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "kstore: interrupted; "), (signal.SIGTERM, 75, "kstore: stopped; ")],
)
def test_a_signal_ends_it_with_one_line(tmp_path, number, status, said):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.format(people=200))
    path = tmp_path / "out" / journal.JOURNAL
    with running(delay=0.1) as address:
        command = [
            *(sys.executable, "-m", "kstore_jax.cli", "rewrite", f"--config={config}"),
            *(f"--server={address}", f"--model={MODEL}", f"--out={tmp_path / 'out'}"),
        ]
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # if pytest ignores it
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, before)
        while not path.exists() or not path.stat().st_size:
            time.sleep(0.01)
        process.send_signal(number)
        told = process.communicate()[1].splitlines()
    assert process.returncode == status
    assert told[-1].startswith(said)
    assert not any("Traceback" in line for line in told)
    assert read(tmp_path / "out")


def test_the_command_says_what_there_is_and_what_is_wrong(tmp_path, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.format(people=20))
    command = ["rewrite", f"--config={config}", f"--model={MODEL}", f"--out={tmp_path / 'out'}"]
    assert main([*command, "--server=http://127.0.0.1:1"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("kstore: --server: http://127.0.0.1:1/v1: no server there")
    assert not (tmp_path / "out").exists()
    with running(wrong=0.2) as address:
        assert main([*command, f"--server={address}"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{tmp_path / 'out'}: 60 of 60 texts, ")
        assert "birth_date" in said
        assert main([*command[:2], f"--server={address}", "--model=x", "--out=y"]) == 2
        assert "--model: " in capsys.readouterr().err
        assert main([*command, f"--server={address}", "--config.seed=1"]) == 2
        assert "made with another seed" in capsys.readouterr().err
    assert main(command) == 2
    assert "--server is missing" in capsys.readouterr().err
