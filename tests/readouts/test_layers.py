"""Probes of every layer: what each reads, and what the readout shows."""

import dataclasses
import shutil

import numpy as np
import pytest

from kstore_jax.model.forward import forward
from kstore_jax.model.taps import Taps
from kstore_jax.pipeline.results import result_row
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts.layers import LayersConfig
from kstore_jax.readouts.q_probe import QProbe
from tests.model import reference
from tests.pipeline.runners import finished_runner, with_sections
from tests.report.runs import a_run, csv_of, text_of, write_page


@pytest.fixture(scope="module")
def runner(finished, tmp_path_factory) -> Runner:
    """The second row of the finished sweep, with `layers` computed as `p_probe` is."""
    causal = finished_runner(finished, 1)
    root = tmp_path_factory.mktemp("layers") / "stages"
    shutil.copytree(causal.graph.cache.root, root)
    readouts = causal.graph.experiment.readouts
    layers = LayersConfig(**vars(readouts.p_probe))
    runner = with_sections(
        causal, Cache(root), readouts=dataclasses.replace(readouts, layers=layers)
    )
    runner.run()
    return runner


def stage_cases(runner: Runner, kind: str) -> dict[str, np.ndarray]:
    folder = runner.graph.cache.folder(runner.graph.readouts[kind])
    return dict(np.load(folder / "cases.npz"))


def test_only_the_new_stage_is_computed(runner, finished):
    before, after = (
        {path.name for path in each.graph.cache.root.iterdir() if path.name[0] != "."}
        for each in (finished_runner(finished, 1), runner)
    )
    assert [name.partition("-")[0] for name in after - before] == ["layers"]


def test_after_the_last_block_it_is_p_probing_and_q_probing(runner, tmp_path):
    result = runner.graph.cache.require(runner.graph.readouts["layers"])
    p_probe = runner.graph.cache.require(runner.graph.readouts["p_probe"])
    config = runner.graph.experiment.readouts.layers
    q_probe = QProbe().run(runner.context, config, tmp_path)
    for name, expected in (("p_probe", p_probe), ("q_probe", q_probe)):
        assert [*result[name]["first"]] == ["0", "1"]
        for kind in result[name]:
            last = dict(result[name][kind]["1"])
            assert last.pop("mean") == pytest.approx(np.mean([*last.values()]))
            assert last == {a: cells[0] for a, cells in expected[kind].items()}
    layers, cases = stage_cases(runner, "layers"), stage_cases(runner, "p_probe")
    assert np.array_equal(layers["p_probe.1"], cases["hits"][:, 0])
    assert np.array_equal(layers["p_probe.person"], cases["person"])
    assert not np.array_equal(layers["p_probe.0"], layers["p_probe.1"])


def test_a_network_of_fewer_layers_ends_after_that_block(runner):
    """Its hidden states are the residual stream there, after the final norm."""
    shape = dataclasses.replace(runner.context.shape, layers=3)
    params, tokens = reference.parameters(shape), np.arange(12, dtype=np.int32)[None]
    _, tapped = forward(shape, params, tokens, taps=Taps(residual=(0, 1, 2, 3)))
    for blocks, residual in enumerate(tapped.residual):
        below = dataclasses.replace(shape, layers=blocks)
        exact = np.asarray(residual, np.float64)
        normed = exact - exact.mean(-1, keepdims=True)
        normed /= np.sqrt((normed**2).mean(-1, keepdims=True) + shape.norm_epsilon)
        expected = normed * np.asarray(params["ln_f"]["scale"]) + np.asarray(params["ln_f"]["bias"])
        np.testing.assert_allclose(forward(below, params, tokens), expected, atol=1e-4)


def test_its_shares_have_intervals_a_chart_and_tables(runner, tmp_path):
    row = result_row(runner.graph)
    ends = row.intervals["layers"]["q_probe"]["first"]["1"]["mean"]
    share = row.readouts["layers"]["q_probe"]["first"]["1"]["mean"]
    assert ends["low"] <= share <= ends["high"]
    assert ends["people"] == (~runner.context.in_train).sum()
    page = write_page(a_run(tmp_path, [row]))
    head, *lines = csv_of(page, "layers")
    assert head == ["dataset", "probe", "blocks", "mean", "low", "high"]
    assert [line[1:3] for line in lines] == [
        [probe, blocks] for probe in ("P-probing", "Q-probing") for blocks in ("0", "1")
    ]
    assert float(lines[-1][3]) == pytest.approx(100 * share, abs=1e-3)
    assert "Q-probing – after 1 blocks: " in page
    text = text_of(page)
    assert "Q-probing by layer: first token" in text
    assert "Q-probing by layer: whole value" in text
