"""Rows of a sweep that fail, and rows that are dropped."""

import pathlib

import pytest

from kstore_jax.cli import main as cli
from kstore_jax.errors import UserError
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import RESULT
from kstore_jax.report.results import read_results
from kstore_jax.sweep import run as sweep
from kstore_jax.sweep.plan import Plan
from tests.sweep.sweeps import contents, rows

ROWS = 'product(data__variant=["single", "multi2+permute"])'
BAD = 'row("bad", data__variant="single", pretrain__learning_rate=1e30)'


@pytest.fixture
def with_bad_row(config_file, tmp_path) -> pathlib.Path:
    """The configuration of the sweep with a row before the others that diverges."""
    text = config_file.read_text()
    assert ROWS in text
    path = tmp_path / "bad.py"
    text = text.replace(ROWS, f"chain({BAD}, {ROWS})")
    path.write_text(text.replace("import product", "import chain, product, row"))
    return path


def run_sweep(config: pathlib.Path, workdir: pathlib.Path, *flags: str) -> int:
    flags = flags or ("--workers=1",)
    return cli.main(["sweep", f"--config={config}", f"--workdir={workdir}", *flags])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_diverging_row_stops_no_other_and_can_be_dropped(
    copied, finished, config_file, with_bad_row, capfd, workers
):
    for path in copied.glob(f"stages/qa-*/{RESULT}"):
        path.unlink()
    assert run_sweep(with_bad_row, copied, f"--workers={workers}") == 2
    captured = capfd.readouterr()
    row, last = [line for line in captured.err.splitlines() if line.startswith("kstore:")]
    assert row.startswith("kstore: row 0 (bad): pretrain bad: the loss became nan in steps 2 to 2;")
    page = copied / "report.html"
    assert last == f"kstore: 1 of 3 rows failed; the others are in {page}"
    assert captured.out == ""
    assert rows(copied) == rows(finished)
    results = read_results(copied)
    assert results.failed == ("row 0 (bad)",)
    assert [row.dataset for row in results.rows] == ["single", "multi2+permute"]
    assert "Not on this page, because it failed: row 0 (bad)." in page.read_text()

    before = contents(copied)
    assert run_sweep(config_file, copied) == 2
    captured = capfd.readouterr().err
    assert (
        "rows.0.pretrain.learning_rate: 1e+30 in the workdir, 0.003 in the configuration"
        in captured
    )
    assert "kstore sweep --drop" in captured
    assert contents(copied) == before
    assert run_sweep(config_file, copied, "--drop", "--dry-run") == 0
    assert "note: --drop removes row 0 (bad)\n" in capfd.readouterr().err
    assert contents(copied) == before
    assert run_sweep(config_file, copied, "--drop", "--workers=1") == 0
    assert "note: --drop removes row 0 (bad)\n" in capfd.readouterr().err
    assert rows(copied) == rows(finished)
    assert read_results(copied).failed == ()
    assert "bad" not in {name for name, _ in Plan.read(copied).rows}
    assert "because it failed" not in page.read_text()


def test_results_of_dropped_rows_are_removed(
    copied, config_file, with_bad_row, monkeypatch, capsys
):
    def run(_):
        raise RuntimeError("no room for a batch\nof many\nlines")

    monkeypatch.setattr(Runner, "run", run)
    flags = "--drop", "--workers=1", "--config.data.variant=multi5"
    assert run_sweep(config_file, copied, *flags) == 1
    assert not (copied / "results.json").exists()
    assert not (copied / "report.html").exists()
    output = capsys.readouterr().err
    assert "of many" not in output.splitlines()[-1]


def test_errors_of_rows_are_printed_though_the_page_cannot_be_written(
    copied, with_bad_row, monkeypatch, capsys
):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep, "_write_report", write)
    assert run_sweep(with_bad_row, copied) == 2
    output = capsys.readouterr().err
    assert "kstore: row 0 (bad): pretrain bad: the loss became nan" in output
    assert output.splitlines()[-1] == "kstore: No space left on device"


def test_an_unexpected_error_of_a_row_is_printed_with_its_traceback(
    copied, with_bad_row, capsys, monkeypatch
):
    def run(_):
        raise RuntimeError("no room for a batch")

    monkeypatch.setattr(Runner, "run", run)
    assert run_sweep(with_bad_row, copied) == 1
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert output.splitlines()[-2] == "kstore: row 0 (bad): RuntimeError: no room for a batch"


def test_a_row_that_cannot_start_is_named_before_anything_is_written(
    config_file, tmp_path, capsys, monkeypatch
):
    def check(graph, _):
        if graph.experiment.data.variant != "single":
            raise UserError("mesh.data: expected less")

    monkeypatch.setattr(sweep, "check", check)
    assert run_sweep(config_file, tmp_path / "run") == 2
    expected = "kstore: row 1 (multi2+permute, seed 0): mesh.data: expected less\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "run").exists()
    assert run_sweep(config_file, tmp_path / "run", "--config.data.variant=multi5") == 2
    assert capsys.readouterr().err == "kstore: mesh.data: expected less\n"


def test_the_page_waits_for_other_tasks_though_a_row_fails(
    copied, with_bad_row, capsys, monkeypatch
):
    def run(_):
        raise UserError("wrong")

    next(copied.glob(f"stages/qa-*/{RESULT}")).unlink()
    before = (copied / "results.json").read_bytes()
    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(sweep, "_write_report", None)
    assert run_sweep(with_bad_row, copied, "--workers=1", "--shard=0/3") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "kstore: 1 of 3 rows failed"
    assert (copied / "results.json").read_bytes() == before
