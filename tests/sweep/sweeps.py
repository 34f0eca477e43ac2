"""Reads and compares the workdirs of sweeps."""

import hashlib
import json
import pathlib
import subprocess
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.stages import RESULT, Stage

PATIENCE = 300  # seconds; a machine may be busy


def rows(workdir: pathlib.Path) -> list[dict]:
    """The rows of the results, without times and commits."""
    not_compared = ("code", "goodput", "seconds", "seconds_by_stage")
    results = json.loads((workdir / "results.json").read_text())["rows"]
    return [{k: value for k, value in row.items() if k not in not_compared} for row in results]


def states(workdir: pathlib.Path) -> dict[str, bytes]:
    """Every array of the last checkpoint of every stage, bit for bit."""
    arrays = {}
    for folder in sorted((workdir / "stages").glob("*/checkpoints")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that arrays come back as they were saved
            with ocp.training.Checkpointer(folder.absolute()) as checkpointer:
                tree = checkpointer.load_checkpointables(newest(folder))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = f"{folder.parent.name}/{newest(folder)}{jax.tree_util.keystr(path)}"
            arrays[name] = np.asarray(leaf).tobytes()
    return arrays


def losses(workdir: pathlib.Path) -> dict[str, list]:
    """Step and loss of every line of the metrics of every stage."""
    losses = {}
    for path in sorted((workdir / "stages").glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        losses[path.parent.name] = [(line["step"], line["loss"]) for line in lines]
    return losses


def assert_alike(one: pathlib.Path, other: pathlib.Path) -> None:
    """Two sweeps have equal results, arrays (bit for bit) and losses."""
    assert rows(one) == rows(other)
    ours, theirs = states(one), states(other)
    assert len(ours) > 100
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert losses(one) == losses(other)


def newest(folder: pathlib.Path) -> int:
    """The step of the newest complete checkpoint, 0 where there is none."""
    paths = folder.iterdir() if folder.exists() else ()
    return max((int(path.name) for path in paths if path.name.isdigit()), default=0)


def contents(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
    """The modification time and the digest of every file."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened in {seconds} s"
        time.sleep(0.002)


def complete(process: subprocess.Popen) -> None:
    """Waits for the end of a sweep, which has to succeed."""
    output = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output


def mark_unfinished(workdir: pathlib.Path, *kinds: str) -> None:
    """Makes stages look as if they had been killed at their end."""
    (workdir / "results.json").unlink(missing_ok=True)
    for kind in kinds:
        for path in (workdir / "stages").glob(f"{kind}-*/{RESULT}"):
            path.unlink()


def sweep_again(config_file, workdir: pathlib.Path, *overrides: str) -> int:
    """Runs the sweep once more in this process; the exit status."""
    config = f"--config={config_file}"
    return cli.main(["sweep", config, f"--workdir={workdir}", "--workers=2", *overrides])


def make_stage(kind: str, *parents: Stage, **config) -> Stage:
    return Stage(kind, 1, config, parents)


def empty_result(folder: pathlib.Path) -> dict:
    """Computes a stage without a result of its own."""
    return {}
