"""Biographies by a server's model: bad texts are rejected, and no answer is lost or paid twice."""

import collections
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import write_datasets
from kstore_jax.writers import client, journal, rewriting
from kstore_jax.writers.prompts import REJECTION_REASONS
from tests.world.bundled import ATTRIBUTES
from tests.writers.chat_server import MODEL, running
from tests.writers.rewrites import (
    BAD,
    NO_SERVER,
    TROUBLED,
    copy_journal,
    data_of,
    experiment,
    read,
    rewrite,
)

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = """
from kstore_jax.pipeline.experiment import default


def get_config():
    config = default()
    config.world.people = {people}
    config.data.variant = "multi3"
    return config
"""


def test_a_bad_text_is_rejected_with_its_reason_and_requested_again(written):
    folder, job = written
    assert job.accepted == job.needed == 40 * 3
    accepted = [(r["person"], r["entry"]) for r in read(folder) if not r["refused"]]
    assert sorted(accepted) == [(person, entry) for person in range(40) for entry in range(3)]
    assert set(job.rejections) == {*REJECTION_REASONS, *ATTRIBUTES}
    assert job.rejected == job.answers - job.needed
    assert sum(bool(record["refused"]) for record in read(folder)) == job.rejected
    attempts = collections.defaultdict(list)
    for record in read(folder):
        attempts[record["person"], record["entry"]].append(record["attempt"])
    assert all(numbers == list(range(len(numbers))) for numbers in attempts.values())
    summary = rewriting.summary(job)
    causes = (*REJECTION_REASONS, *ATTRIBUTES, "429", "500", "connection", "malformed")
    assert all(f"  {cause} " in summary for cause in causes)
    most = job.rejections.most_common(1)[0]
    assert f" rejected: {most[0]} {most[1]} " in rewriting._progress(job)


def test_texts_are_written_for_all_rows_of_a_sweep(tmp_path):
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
        job = rewrite(folder, address, rows)
    counts = collections.Counter(record["person"] for record in read(folder))
    assert counts == {**dict.fromkeys(range(7), 3), 7: 2, 8: 2}  # the first row has no `rewritten`
    assert job.accepted == job.needed == 25
    for row in rows[1:]:
        assert data_of(row).datasets


@pytest.mark.parametrize(
    ("field", "value", "values"), [("seed", 1, "0, 1"), ("value_fraction", 0.5, "0.5, 1.0")]
)
def test_rows_about_different_worlds_are_refused(tmp_path, field, value, values):
    rows = [experiment(**{f"world__{field}": value}), experiment()]
    message = rf"^world\.{field}: the rows of the configuration have {values}; "
    with pytest.raises(UserError, match=message):
        rewrite(tmp_path / "out", NO_SERVER, rows)


def test_a_rerun_requests_only_missing_texts(written, tmp_path):
    folder, job = written
    rerun = rewrite(folder, NO_SERVER, [experiment()])
    assert (rerun.accepted, rerun.answers) == (job.accepted, job.answers)
    copy = tmp_path / "out"
    copy_journal(folder, copy)
    with running() as address:
        larger = rewrite(copy, address, [experiment(world__people=45, data__variant="multi4")])
    assert larger.accepted == 45 * 4
    assert len(read(copy)) == len(read(folder)) + 45 * 4 - 40 * 3
    assert (copy / journal.JOURNAL).read_bytes().startswith((folder / journal.JOURNAL).read_bytes())


def test_a_text_is_given_up_after_its_attempts_and_requested_again_later(tmp_path):
    folder = tmp_path / "out"
    with running(wrong=1.0) as address:
        job = rewrite(folder, address, [experiment()], max_attempts=2)
    assert (job.accepted, job.answers) == (0, 2 * job.needed)
    message = r"120 texts were rejected 2 times; repeat with a larger --attempts"
    with pytest.raises(UserError, match=message):
        rewriting.check_complete(job, 2)
    with running(wrong=0.3) as address:
        job = rewrite(folder, address, [experiment()])
    assert job.accepted == job.needed
    assert job.rejections["birth_date"] >= 2 * job.needed


def test_texts_that_the_server_always_declines_are_given_up(tmp_path):
    folder = tmp_path / "out"
    with running(declined=0.3) as address:
        job = rewrite(folder, address, [experiment()], max_attempts=1)
    missing = job.needed - job.accepted
    assert missing == job.rejections["declined"] > 8
    with running(declined=1.0) as address:
        job = rewrite(folder, address, [experiment()], max_attempts=3)
        assert job.needed - job.accepted == missing
        assert job.rejections["declined"] == 3 * missing
        larger = [experiment(world__people=50)]  # none of the new texts is answered
        with pytest.raises(UserError, match=r"^--server: .*status 400: I write nothing"):
            rewrite(folder, address, larger, max_attempts=3)
    with running() as address:
        assert rewrite(folder, address, [experiment()]).accepted == job.needed


def test_the_answers_of_a_server_that_dies_are_saved(tmp_path):
    folder = tmp_path / "out"
    with running(die_after=30) as address, pytest.raises(client.ServerError):
        rewrite(folder, address, [experiment()])
    before = read(folder)
    assert 22 <= len(before) <= 30
    with running() as address:
        rewrite(folder, address, [experiment()])
    assert read(folder)[: len(before)] == before
    assert len(read(folder)) == 120


def test_another_model_or_world_is_refused(written):
    folder, _ = written
    with pytest.raises(UserError, match="made with another model: 'writer', not 'other'"):
        rewrite(folder, NO_SERVER, [experiment()], model="other")
    with pytest.raises(UserError, match="made with another seed: 0, not 5"):
        rewrite(folder, NO_SERVER, [experiment(world__seed=5)])


@pytest.mark.parametrize("field", ["variant", "celebrity_variant"])
def test_a_variant_of_templates_only_is_refused(tmp_path, field):
    row = experiment(**{"world__celebrities": 3, f"data__{field}": "couple2"})
    with pytest.raises(UserError, match=rf"^data\.{field}: 'couple2' exists for templates only"):
        rewrite(tmp_path / "out", NO_SERVER, [row])


SECRET = "sk-0123456789-very-secret"


@pytest.mark.parametrize("options", [{}, {"fail": 1.0}, {"key": "another"}])
def test_the_key_is_in_no_file_and_no_message(tmp_path, monkeypatch, capfd, options):
    monkeypatch.setenv(client.API_KEY_VARIABLE, SECRET)
    (tmp_path / "replies").write_text(json.dumps({"biography": f"The key is {SECRET}."}))
    policy = client.RetryPolicy(max_attempts=2, initial_delay=0.001)
    row = experiment()
    message = ""
    with running(**{"key": SECRET, "replies": tmp_path / "replies", **options}) as address:
        try:
            rows = [(row.world, row.data)]
            rewriting.rewrite(rows, address, MODEL, tmp_path / "out", 4, 2, policy)
        except UserError as error:
            message = str(error)
    assert SECRET not in message
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert bool(files) == (options == {})
    assert all(SECRET not in path.read_text() for path in files)
    output = capfd.readouterr()
    assert SECRET not in output.out + output.err


def rewrite_with_kills(folder, log, kills: int, size: int) -> None:
    """Runs `kstore rewrite`, kills it at random moments, and runs it to its end."""
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
        generator = random.Random()
        for kill in range(kills):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            start = path.stat().st_size if path.exists() else 0
            missing = 3 * size * 300 - start  # bytes; somewhat fewer than the run will write
            target = start + generator.random() * 1.5 * missing / (kills - kill + 1)
            while not path.exists() or path.stat().st_size <= target:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(generator.random() * 0.05)
            assert process.poll() is None
            process.kill()
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def check_kills(tmp_path, kills: int, size: int) -> None:
    """Compares a rewriting that was killed with an undisturbed one."""
    log = tmp_path / "log"
    rewrite_with_kills(tmp_path, log, kills, size)
    folder, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    with running(**BAD) as address:
        rewrite(undisturbed, address, [experiment(world__people=size)])
    expected, records = (
        {(r["person"], r["entry"], r["attempt"]): r for r in read(f)} for f in (undisturbed, folder)
    )
    assert records == expected
    assert len(read(folder)) == len(records)
    paid = collections.Counter(log.read_text().split())
    assert len(paid) == len(records)
    assert sum(paid.values()) - len(paid) <= kills * 16  # requests in flight at the kills
    parts = []
    for source in (folder, undisturbed):
        row = experiment(world__people=size, data__rewritten=str(source))
        out = tmp_path / f"d-{source.name}"
        parts += [m["parts"] for _, m in write_datasets(row.world, row.data, out, 1)]
    assert parts[0] == parts[1]


def test_kills_at_random_moments_lose_no_answer_and_pay_none_twice(tmp_path):
    check_kills(tmp_path, 3, 200)


@pytest.mark.slow
def test_twenty_kills_during_ten_thousand_rewrites(tmp_path):
    check_kills(tmp_path, 20, 3334)


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGINT, 130, "kstore: interrupted; "), (signal.SIGTERM, 75, "kstore: stopped; ")],
)
def test_a_signal_ends_the_command_with_one_line(tmp_path, number, status, message):
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
        lines = process.communicate()[1].splitlines()
    assert process.returncode == status
    assert lines[-1].startswith(message)
    assert not any("Traceback" in line for line in lines)
    assert read(tmp_path / "out")


def test_the_command_prints_counts_and_errors(tmp_path, capsys):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.format(people=20))
    command = ["rewrite", f"--config={config}", f"--model={MODEL}", f"--out={tmp_path / 'out'}"]
    assert main([*command, "--server=http://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("kstore: --server: http://127.0.0.1:1/v1: no server there")
    assert not (tmp_path / "out").exists()
    with running(wrong=0.2) as address:
        assert main([*command, f"--server={address}"]) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"{tmp_path / 'out'}: 60 of 60 texts, ")
        assert "birth_date" in output
        assert main([*command[:2], f"--server={address}", "--model=x", "--out=y"]) == 2
        assert "--model: " in capsys.readouterr().err
        assert main([*command, f"--server={address}", "--config.seed=1"]) == 2
        assert "made with another seed" in capsys.readouterr().err
    assert main(command) == 2
    assert "--server is missing" in capsys.readouterr().err
