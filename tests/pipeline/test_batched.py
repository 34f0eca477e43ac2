"""Rows pretrained together have the results of rows pretrained one by one."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from kstore_jax.cli import main as cli
from kstore_jax.corpus.config import Data
from kstore_jax.errors import UserError
from kstore_jax.model.config import Model
from kstore_jax.pipeline.experiment import Experiment, Pretrain
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner, pretrain_batched, program_key
from kstore_jax.pipeline.stages import RESULT, Cache
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world.config import World
from tests.sweep.sweeps import assert_alike, complete, contents, newest, rows, wait_until

TOGETHER = "--together=2"

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def together(sweep, tmp_path_factory) -> pathlib.Path:
    """The workdir of a sweep whose two rows were pretrained together; read only."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    complete(sweep(workdir, TOGETHER))
    return workdir


def pretrain_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
    return sorted((workdir / "stages").glob("pretrain-*"))


def numbers(value) -> list[float]:
    """Every number in nested lists and dictionaries, in order."""
    if isinstance(value, dict):
        return [x for name in sorted(value) for x in numbers(value[name])]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def losses(folder: pathlib.Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / METRICS)]


def assert_close(one: pathlib.Path, other: pathlib.Path) -> None:
    """Two runs have the same stages, and losses and results that differ by rounding."""
    ours, theirs = pretrain_folders(one), pretrain_folders(other)
    assert [folder.name for folder in ours] == [folder.name for folder in theirs]
    for folder, other_folder in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(losses(folder), losses(other_folder), rtol=1e-4)
    for row, other_row in zip(rows(one), rows(other), strict=True):
        np.testing.assert_allclose(numbers(row), numbers(other_row), atol=0.05)


def test_results_are_close_to_results_of_rows_one_by_one(together, finished):
    assert_close(together, finished)


def test_a_batch_of_models_that_was_killed_resumes_to_the_same_result(sweep, together, tmp_path):
    workdir = tmp_path / "run"
    process = sweep(workdir, TOGETHER)
    try:
        wait_until(
            lambda: [newest(f / "checkpoints") > 2 for f in pretrain_folders(workdir)] == [1, 1]
        )
    finally:
        process.kill()
        process.communicate()
    assert not any((folder / RESULT).exists() for folder in pretrain_folders(workdir))
    complete(sweep(workdir, TOGETHER))
    assert_alike(workdir, together)


def test_a_finished_row_is_not_pretrained_again(finished, config_file, tmp_path):
    workdir = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    missing, done = pretrain_folders(workdir)
    shutil.rmtree(missing)
    before = contents(done)
    argv = [f"--config={config_file}", f"--workdir={workdir}", "--workers=1", TOGETHER]
    assert cli.main(["sweep", *argv]) == 0
    assert contents(done) == before
    assert (missing / RESULT).exists()
    assert_close(workdir, finished)


def test_models_that_one_program_can_train_are_pretrained_together(tmp_path, monkeypatch, capsys):
    start = Experiment(
        world=World(people=20),
        data=Data(vocabulary="compact"),
        model=Model(dtype="float32", attention="dense"),
        pretrain=Pretrain(steps=8, warmup_steps=2),
    )

    def changed(part: str, **fields):
        return dataclasses.replace(
            start, **{part: dataclasses.replace(getattr(start, part), **fields)}
        )

    alike = [
        start,
        changed(
            "pretrain", learning_rate=0.1, warmup_steps=3, weight_decay=0.0, final_lr_ratio=0.5
        ),
        changed("data", variant="single"),
        dataclasses.replace(start, seed=1),
        dataclasses.replace(start, name="named"),  # has the first one's pretraining
        changed("finetune", steps=1),  # likewise
    ]
    elsewhere = dataclasses.replace(changed("mesh", data=1), seed=2)
    others = [changed("model", width=192), changed("pretrain", steps=9), elsewhere]
    cache, batches = Cache(tmp_path), []
    graphs = {e: ExperimentGraph(e, cache) for e in [others[0], *alike, *others[1:]]}
    monkeypatch.setattr(cache, "ensure_together", lambda stages, _: batches.append(stages))
    pretrain_batched([*graphs.values()], 3)
    folders = [[stage.folder for stage in stages] for stages in batches]
    assert folders == [[graphs[e].pretrain.folder for e in alike[:3]]]
    pretrain_batched([*graphs.values()], 1)
    assert len(batches) == 1

    def diverge(*_):
        raise UserError("pretrain named: the loss became nan")

    monkeypatch.setattr(cache, "ensure_together", diverge)
    pretrain_batched([*graphs.values()], 3)
    assert capsys.readouterr().err == (
        "note: pretrain named: the loss became nan; its batch is pretrained one by one\n"
    )


def test_bidirectional_models_of_different_vocabularies_have_programs_of_their_own(tmp_path):
    def key(world_seed: int, learning_rate: float = 1e-3):
        experiment = Experiment(
            world=World(people=20, seed=world_seed),
            data=Data(vocabulary="compact"),
            model=Model(dtype="float32", attention="dense", direction="bidirectional"),
            pretrain=Pretrain(learning_rate=learning_rate),
        )
        return program_key(Runner(ExperimentGraph(experiment, Cache(tmp_path))))

    assert key(0) == key(0, learning_rate=0.1)
    assert key(0) != key(1)
