"""Several processes at one sweep, each with its shard of the rows."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.errors import UserError
from kstore_jax.pipeline.stages import RESULT
from kstore_jax.sweep.run import RowShard
from tests.sweep.sweeps import mark_unfinished, rows


@given(st.integers(1, 50), st.integers(1, 20))
def test_shards_have_every_row_once(row_count, count):
    shards = [RowShard.parse(f"{i}/{count}") for i in range(count)]
    all_rows = [i for shard in shards for i in range(row_count)[shard.index :: shard.count]]
    assert sorted(all_rows) == list(range(row_count))


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_shard_is_numbered_by_the_environment(name):
    assert RowShard.parse("auto/8", {name: "3"}) == (3, 8)


@pytest.mark.parametrize(
    "text", ["", "1", "2/2", "-1/2", "1/0", "a/b", "auto/2", "auto/4", "1/2/3"]
)
def test_an_impossible_shard_is_refused(text):
    with pytest.raises(UserError, match=r"^--shard: "):
        RowShard.parse(text, {"SLURM_ARRAY_TASK_ID": "x"} if text == "auto/4" else {})


def test_a_dry_run_of_a_shard_has_its_rows_alone(copied, kstore):
    argv = f"--workdir={copied}", "--dry-run", "--json"
    all_rows = json.loads(kstore("sweep", *argv))["rows"]
    shards = [json.loads(kstore("sweep", *argv, f"--shard={i}/3")) for i in range(3)]
    assert [len(shard["rows"]) for shard in shards] == [1, 1, 0]
    assert [row for shard in shards for row in shard["rows"]] == all_rows
    assert [s["folder"] for s in shards[1]["stages"]] == all_rows[1]["stages"]
    assert kstore("sweep", *argv[:2], "--shard=2/3").strip().endswith("0 shared by several rows")


def test_the_last_of_several_tasks_writes_the_results(copied, finished, kstore):
    mark_unfinished(copied, "qa")
    (copied / "report.html").unlink()
    argv = f"--workdir={copied}", "--workers=1"
    output = kstore("sweep", *argv, "--shard=1/2")
    assert "other tasks have rows left" in output
    assert len(list(copied.glob(f"stages/qa-*/{RESULT}"))) == 1
    assert not (copied / "results.json").exists()
    assert kstore("sweep", *argv, "--shard=0/2").strip() == str(copied / "report.html")
    assert rows(copied) == rows(finished)


def test_concurrent_processes_finish_one_sweep(copied, finished, config_file):
    mark_unfinished(copied, "qa")
    argv = [sys.executable, "-m", "kstore_jax.cli", "sweep", f"--config={config_file}"]
    processes = [
        subprocess.Popen(
            [*argv, f"--workdir={copied}", "--workers=1", *shard],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for shard in ([], ["--shard=0/2"], ["--shard=1/2"])
    ]
    output = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert rows(copied) == rows(finished)
    assert len(list(copied.glob("stages/qa-*/provenance-*.json"))) == 4  # one more attempt at each
