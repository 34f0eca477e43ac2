"""An architecture in a file of its own, the recipe of `docs/extending.md`: Canon layers."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.config.fields import identity
from kstore_jax.config.parse import parse
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint, lora
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.config import Model
from kstore_jax.model.forward import forward, forward_cached, init, init_cache, unembed
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.decode import beam_search
from kstore_jax.train.flops import flops_per_token
from tests import recipes
from tests.model import reference

PLAIN = Shape(vocabulary=24, layers=2, heads=2, width=16)
TOKENS = np.random.default_rng(0).integers(0, 24, (3, 9)).astype(np.int32)


@pytest.fixture(scope="module")
def canon():
    with recipes.plugin("An architecture", ARCHITECTURES) as module:
        yield module


@pytest.fixture(scope="module")
def shape(canon) -> Shape:
    return dataclasses.replace(PLAIN, architecture=canon.CanonConfig())


@pytest.fixture(scope="module")
def both_ways(shape) -> Shape:
    return dataclasses.replace(shape, direction="bidirectional")


@pytest.fixture(scope="module")
def params(shape) -> dict:
    return reference.parameters(shape)


def taps_of(params: dict) -> list[jax.Array]:
    return [
        params[f"block_{layer}"][f"canon_{place}"]["taps"]
        for layer in (0, 1)
        for place in ("attention", "mlp")
    ]


def test_its_parameters_are_added_and_all_others_start_as_without_it(shape):
    plain, with_canon = (init(s, jax.random.key(3)) for s in (PLAIN, shape))
    assert [taps.shape for taps in taps_of(with_canon)] == [(4, 16)] * 4
    for block in ("block_0", "block_1"):
        for name in ("canon_attention", "canon_mlp"):
            del with_canon[block][name]
    assert jax.tree.structure(plain) == jax.tree.structure(with_canon)
    jax.tree.map(np.testing.assert_array_equal, plain, with_canon)


def test_states_at_positions_are_those_of_a_text_whose_neighbours_the_layers_read(shape, params):
    positions = np.array([[8, 3], [0, 0], [5, 7]], np.int32)
    expected = np.take_along_axis(forward(shape, params, TOKENS), positions[:, :, None], axis=1)
    states = forward(shape, params, TOKENS, positions=positions)
    np.testing.assert_allclose(states, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("direction", "before"), [("causal", 3), ("bidirectional", 1)])
def test_the_layer_is_a_sum_over_neighbours(canon, shape, direction, before):
    layer = canon.Convolution(dataclasses.replace(shape, direction=direction))
    draw = np.random.default_rng(1)
    x, taps = draw.normal(size=(2, 7, 16)), draw.normal(size=(4, 16))
    lengths = np.array([7, 5], np.int32) if direction == "bidirectional" else None
    found = layer.apply({"params": {"taps": jnp.float32(taps)}}, jnp.float32(x), lengths, None)
    for b, end in enumerate([7, 7] if lengths is None else lengths):
        for i in range(end):
            near = [(w, i - before + w) for w in range(4)]
            expected = x[b, i] + sum(taps[w] * x[b, j] for w, j in near if 0 <= j < end)
            np.testing.assert_allclose(found[b, i], expected, rtol=1e-5, atol=1e-5)


def test_without_weights_it_is_the_transformer(shape, params):
    zero = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if path[-1].key == "taps" else x, params
    )
    plain = forward(PLAIN, params, TOKENS)
    np.testing.assert_array_equal(forward(shape, zero, TOKENS), plain)
    assert float(jnp.abs(forward(shape, params, TOKENS) - plain).max()) > 0.1


def test_token_by_token_it_computes_the_same(shape, params):
    lengths = np.array([1, 6, 3], np.int32)
    expected = forward(shape, params, TOKENS)
    cache = init_cache(shape, 3, 9)
    prompts = np.where(np.arange(6)[None] < lengths[:, None], TOKENS[:, :6], 7)  # filled up
    starts = np.zeros(3, np.int32)
    hidden, cache = forward_cached(shape, params, prompts.astype(np.int32), starts, cache)
    for b, length in enumerate(lengths):
        np.testing.assert_allclose(hidden[b, :length], expected[b, :length], atol=1e-5)
    for i in range(3):
        positions = lengths + np.int32(i)
        tokens = np.take_along_axis(TOKENS, positions[:, None], 1)
        hidden, cache = forward_cached(shape, params, tokens, positions, cache)
        for b, position in enumerate(positions):
            np.testing.assert_allclose(hidden[b, 0], expected[b, position], atol=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_beam_scores_its_text_as_the_forward_does(shape, params, beam_size):
    prompts, lengths = TOKENS[:, :4], np.array([4, 2, 3], np.int32)
    found, scores = beam_search(shape, params, prompts, lengths, 0, 24, 3, beam_size)
    for prompt, length, answer, score in zip(prompts, lengths, found, scores, strict=True):
        text = np.zeros((1, 9), np.int32)
        text[0, : length + 3] = [*prompt[:length], *answer]
        logits = unembed(shape, params, forward(shape, params, text))[0]
        of_next = np.asarray(jax.nn.log_softmax(logits))[length - 1 :]
        ended = [*answer].index(0) + 1 if 0 in answer else 3
        expected = sum(of_next[i, token] for i, token in enumerate(answer[:ended]))
        np.testing.assert_allclose(score, expected, atol=1e-4)
        if beam_size == 1:
            np.testing.assert_array_equal(answer[:ended], of_next[:ended].argmax(1))


def test_no_later_token_changes_an_earlier_state(shape, params):
    changed = TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 24
    before, after = (forward(shape, params, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(axis=(0, 2)).all()


def test_a_bidirectional_model_sees_both_sides_and_no_padding(both_ways, params):
    lengths = np.array([9, 6, 4], np.int32)
    other = np.where(np.arange(9)[None] < lengths[:, None], TOKENS, 0).astype(np.int32)
    for b, (one, two) in enumerate(
        zip(*(forward(both_ways, params, t, lengths) for t in (TOKENS, other)), strict=True)
    ):
        np.testing.assert_array_equal(one[: lengths[b]], two[: lengths[b]])


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_gradients_reach_every_parameter(shape, params, direction):
    shape = dataclasses.replace(shape, direction=direction)

    def loss(params):
        return jnp.sin(unembed(shape, params, forward(shape, params, TOKENS))).sum()

    for taps in taps_of(jax.grad(loss)(params)):
        assert float(jnp.abs(taps).min()) > 0


def test_lora_updates_the_sites_of_the_architecture(canon, shape, params, monkeypatch):
    def sites() -> set[str]:
        names = ARCHITECTURES.of(shape.architecture).adapter_sites
        updates = lora.init_lora(params, names, jax.random.key(0), 2, 0, 0.02)
        merged = forward(shape, lora.merge(params, updates, 1.0), TOKENS)
        np.testing.assert_array_equal(merged, forward(shape, params, TOKENS))
        return {name.split("/")[1] for name in updates}

    assert sites() == {"query", "value"}
    monkeypatch.setattr(canon.Canon, "adapter_sites", ("up", "down"))
    assert sites() == {"up", "down"}


def test_its_flop_are_counted(canon, shape, monkeypatch):
    def flops(shape):
        params = jax.eval_shape(lambda key: init(shape, key), jax.random.key(0))
        return flops_per_token(sum(x.size for x in jax.tree.leaves(params)), shape, 32)

    weights = 2 * 2 * 4 * 16  # two layers, two places, four positions, 16 dimensions
    assert [a - b for a, b in zip(flops(shape), flops(PLAIN), strict=True)] == [6 * weights] * 2
    monkeypatch.setattr(canon.Canon, "extra_flops", lambda self, shape, seq_len: 100 * seq_len)
    more = [a - b for a, b in zip(flops(shape), flops(PLAIN), strict=True)]
    assert more == [6 * weights + 3200] * 2


def test_hugging_face_has_no_such_network(tmp_path, shape, params):
    refused = r"^model\.architecture: expected transformer .* Hugging Face, got canon$"
    with pytest.raises(UserError, match=refused):
        hf_checkpoint.write(tmp_path / "out", shape, params, {}, {})
    assert not (tmp_path / "out").exists()
    hf_checkpoint.write(tmp_path / "plain", PLAIN, init(PLAIN, jax.random.key(0)), {}, {})
    with pytest.raises(UserError, match=refused):
        hf_checkpoint.init_digest(shape, tmp_path / "plain")


def test_the_configuration_has_the_fields_of_the_chosen_one_alone(canon):
    model = parse(Model, {"architecture": "canon", "canon": {"width": 3}})
    assert model.architecture == canon.CanonConfig(width=3)
    plain = identity(model)
    assert (plain["architecture"], plain["canon"]) == ("canon", {"width": 3})
    assert "canon" not in identity(parse(Model, {}))
    with pytest.raises(UserError, match=r"^architecture: 'canom' is not a choice; did you mean"):
        parse(Model, {"architecture": "canom"})


PROGRAM = """
import dataclasses, json, pathlib, sys
import jax, numpy as np
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.train.config import Mesh
from kstore_jax.train.fit import fit
from kstore_jax.train.mesh import make_mesh, shard_tree
from kstore_jax.train.objectives import next_token
from tests import recipes
from tests.model import reference
from tests.train.training import SHAPE, TRAINING, losses, task

with recipes.plugin("An architecture", ARCHITECTURES) as canon:
    shape = dataclasses.replace(SHAPE, architecture=canon.CanonConfig())
    training = dataclasses.replace(TRAINING, batch_size=8)
    job = task(8, objective=next_token(shape), trainable=reference.parameters(shape))
    found = []
    for axes in json.loads(sys.argv[1]):
        folder = pathlib.Path(sys.argv[2], "-".join(map(str, axes)))
        folder.mkdir()
        mesh = make_mesh(Mesh(*axes))
        taps = shard_tree(mesh, job.trainable)["block_0"]["canon_mlp"]["taps"]
        shard = taps.addressable_shards[0].data.shape
        taps = fit(job, training, folder, mesh)["block_0"]["canon_mlp"]["taps"]
        found.append([losses(folder), shard, np.asarray(taps).tolist()])
print(json.dumps(found))
"""


def test_eight_devices_train_it_alike_however_it_is_sharded(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    splits = [[8, 1, 1], [2, 2, 2]]
    command = [sys.executable, "-c", PROGRAM, json.dumps(splits), str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-3000:]
    runs = json.loads(run.stdout.splitlines()[-1])
    assert [shard for _, shard, _ in runs] == [[4, 16], [4, 8]]
    (losses, _, taps), (expected_losses, _, expected_taps) = runs
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    np.testing.assert_allclose(taps, expected_taps, atol=5e-3)
