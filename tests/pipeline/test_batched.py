"""Rows pretrained together come out as those pretrained one by one."""

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
from kstore_jax.pipeline.run import pretrain_batched
from kstore_jax.pipeline.stages import RESULT, Cache
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world.config import World
from tests.sweep.sweeps import assert_alike, complete, contents, newest, rows, wait_until

TOGETHER = "--together=2"

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def together(sweep, tmp_path_factory) -> pathlib.Path:
    """The workdir of the sweep with its two rows pretrained together. Not to be written to."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    complete(sweep(workdir, TOGETHER))
    return workdir


def pretraining(workdir: pathlib.Path) -> list[pathlib.Path]:
    return sorted((workdir / "stages").glob("pretrain-*"))


def figures(part) -> list[float]:
    """Every number of a nest, in order."""
    if isinstance(part, dict):
        return [x for name in sorted(part) for x in figures(part[name])]
    if isinstance(part, list):
        return [x for item in part for x in figures(item)]
    return [part] if isinstance(part, int | float) else []


def assert_equal_but_for_rounding(one: pathlib.Path, other: pathlib.Path) -> None:
    assert [path.name for path in pretraining(one)] == [path.name for path in pretraining(other)]
    for ours, theirs in zip(pretraining(one), pretraining(other), strict=True):
        lines = (read_metrics(folder / METRICS) for folder in (ours, theirs))
        told = [[(line["step"], line["loss"]) for line in of_one] for of_one in lines]
        np.testing.assert_allclose(*told, rtol=1e-4)
    for ours, theirs in zip(rows(one), rows(other), strict=True):
        np.testing.assert_allclose(figures(ours), figures(theirs), atol=0.05)


def test_the_results_are_those_of_rows_one_by_one(together, finished):
    assert_equal_but_for_rounding(together, finished)


def test_a_population_that_was_killed_ends_as_an_undisturbed_one(sweep, together, tmp_path):
    workdir = tmp_path / "run"
    process = sweep(workdir, TOGETHER)
    try:
        wait_until(lambda: [newest(p / "checkpoints") > 2 for p in pretraining(workdir)] == [1, 1])
    finally:
        process.kill()
        process.communicate()
    assert not any((path / RESULT).exists() for path in pretraining(workdir))
    complete(sweep(workdir, TOGETHER))
    assert_alike(workdir, together)


def test_a_row_that_is_done_is_left_as_it_is(finished, config_file, tmp_path):
    workdir = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    missing, done = pretraining(workdir)
    shutil.rmtree(missing)
    before = contents(done)
    argv = [f"--config={config_file}", f"--workdir={workdir}", "--workers=1", TOGETHER]
    assert cli.main(["sweep", *argv]) == 0
    assert contents(done) == before
    assert (missing / RESULT).exists()
    assert_equal_but_for_rounding(workdir, finished)


def test_what_one_program_can_train_is_together(tmp_path, monkeypatch, capsys):
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
        dataclasses.replace(start, name="named"),  # the first once more
        changed("finetune", steps=1),  # likewise
    ]
    elsewhere = dataclasses.replace(changed("mesh", data=1), seed=2)
    others = [changed("model", width=192), changed("pretrain", steps=9), elsewhere]
    cache, found = Cache(tmp_path), []
    graphs = {e: ExperimentGraph(e, cache) for e in [others[0], *alike, *others[1:]]}
    monkeypatch.setattr(cache, "ensure_together", lambda stages, _: found.append(stages))
    pretrain_batched([*graphs.values()], 3)
    folders = [[stage.folder for stage in stages] for stages in found]
    assert folders == [[graphs[e].pretrain.folder for e in alike[:3]]]
    pretrain_batched([*graphs.values()], 1)
    assert len(found) == 1

    def diverge(*_):
        raise UserError("pretrain named: the loss became nan")

    monkeypatch.setattr(cache, "ensure_together", diverge)
    pretrain_batched([*graphs.values()], 3)
    assert capsys.readouterr().err == (
        "note: pretrain named: the loss became nan; its batch is pretrained one by one\n"
    )
