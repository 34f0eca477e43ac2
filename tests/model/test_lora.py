"""What an adapter changes, and what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.lora import init_lora, low_rank, merge
from kstore_jax.model.transformer import Shape
from tests.model import reference

SHAPE = Shape(vocabulary=24, layers=2, heads=2, width=16)
TOKENS = np.random.default_rng(1).integers(0, 24, (3, 7)).astype(np.int32)
LORA_SITES = ("query", "value")
SITES = [f"block_{layer}/{name}" for layer in (0, 1) for name in LORA_SITES]


@pytest.fixture(scope="module")
def frozen():
    return reference.parameters(SHAPE)


def filled(trainable, seed: int = 5):
    """The same tree with every array drawn anew, so that no update is zero."""
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), trainable)


def logits(params):
    return unembed(SHAPE, params, forward(SHAPE, params, TOKENS))


@pytest.mark.parametrize("embedding_rank", [0, 3])
def test_a_fresh_lora_leaves_the_logits_unchanged(frozen, embedding_rank):
    lora = init_lora(frozen, LORA_SITES, jax.random.key(0), 2, embedding_rank, 0.02)
    assert set(lora) == {*SITES, *(["embedding"] if embedding_rank else [])}
    assert all((update["a"] == 0).all() and (update["b"] != 0).any() for update in lora.values())
    assert np.array_equal(logits(merge(frozen, lora, 4.0)), logits(frozen))


def test_no_two_sites_start_alike(frozen):
    lora = init_lora(frozen, LORA_SITES, jax.random.key(0), 2, 2, 0.02)
    starts = [update["b"].tobytes() for update in lora.values()]
    assert len(set(starts)) == len(starts)


def test_merged_is_w_plus_alpha_a_b_at_the_sites_and_w_elsewhere(frozen):
    lora = filled(init_lora(frozen, LORA_SITES, jax.random.key(0), 2, 3, 0.02))
    merged = merge(frozen, lora, 0.7)
    expected = reference.as_float64(frozen)
    deltas = {s: 0.7 * np.float64(u["a"][0]) @ np.float64(u["b"][0]) for s, u in lora.items()}
    for site in SITES:
        block, name = site.split("/")
        expected[block][name]["kernel"] += deltas[site]
    expected["unembedding"] = expected["embedding"].copy()
    expected["embedding"] += deltas["embedding"]
    assert jax.tree.structure(merged) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, expected)


def test_a_rank_of_minus_one_trains_the_whole_matrix_and_of_0_none(frozen):
    whole = init_lora(frozen, LORA_SITES, jax.random.key(0), -1, 0, 0.02)
    assert set(whole) == set(SITES)
    assert np.array_equal(logits(merge(frozen, whole, 4.0)), logits(frozen))
    drawn = filled(whole)
    merged = merge(frozen, drawn, 4.0)
    for site in SITES:
        block, name = site.split("/")
        np.testing.assert_array_equal(merged[block][name]["kernel"], drawn[site]["whole"][0])
        assert merged[block][name]["bias"] is frozen[block][name]["bias"]
    assert merged["embedding"] is frozen["embedding"]


def test_an_update_of_the_embedding_reaches_the_tied_head_where_it_should(frozen):
    lora = filled(init_lora(frozen, LORA_SITES, jax.random.key(0), 0, 3, 0.02))
    assert set(lora) == {"embedding"}
    both, one = merge(frozen, lora, 1.0, "both"), merge(frozen, lora, 1.0)
    assert "unembedding" not in both
    np.testing.assert_array_equal(both["embedding"], one["embedding"])
    assert not np.allclose(logits(both), logits(one), atol=1e-2)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_head_changes_in_the_rows_of_new_tokens_alone(frozen, is_tied):
    new = np.zeros(SHAPE.vocabulary, bool)
    new[[3, 20]] = True
    model = dict(frozen) if is_tied else {**frozen, "unembedding": frozen["embedding"][::-1]}
    lora = filled(init_lora(model, LORA_SITES, jax.random.key(0), 2, 3, 0.02))
    merged = merge({**model, "new_tokens": jnp.asarray(new)}, lora, 0.7, "new")
    one = merge(model, lora, 0.7)
    assert merged.keys() == one.keys()
    np.testing.assert_array_equal(merged["embedding"], one["embedding"])
    update = 0.7 * np.float64(lora["embedding"]["a"][0]) @ np.float64(lora["embedding"]["b"][0])
    head = np.float64(one["unembedding"]) + update * new[:, None]
    np.testing.assert_allclose(merged["unembedding"], head, atol=1e-6)
    changed = np.asarray(logits(merged) != logits(one)).any((0, 1))
    assert changed.tolist() == new.tolist()


def test_merge_leaves_the_frozen_model_as_it_was(frozen):
    before = jax.tree.map(np.array, frozen)
    merge(frozen, filled(init_lora(frozen, LORA_SITES, jax.random.key(0), 2, 3, 0.02)), 1.0)
    assert "unembedding" not in frozen
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_gradients_reach_every_part_of_the_adapter(frozen):
    lora = filled(init_lora(frozen, LORA_SITES, jax.random.key(0), 2, 3, 0.02))
    gradient = jax.jit(jax.grad(lambda t: jnp.sin(logits(merge(frozen, t, 1.0))).sum()))(lora)
    assert jax.tree.structure(gradient) == jax.tree.structure(lora)
    assert all(float(jnp.abs(leaf).max()) > 1e-4 for leaf in jax.tree.leaves(gradient))


def test_the_update_of_the_embedding_does_not_reach_the_head(frozen):
    lora = filled(init_lora(frozen, LORA_SITES, jax.random.key(0), 2, 3, 0.02))
    hidden = jax.random.normal(jax.random.key(1), (5, 16))
    gradient = jax.grad(lambda t: jnp.sin(unembed(SHAPE, merge(frozen, t, 1.0), hidden)).sum())(
        lora
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_row_t_v_plus_v_of_stacked_tables_is_token_v_of_task_t(frozen):
    tasks = 3
    updates = filled(low_rank(jax.random.key(0), (tasks, 24, 16), 2, 0.02))
    stacked = merge(frozen, {"embedding": updates}, 1.0)
    assert stacked["embedding"].shape == (tasks * 24, 16)
    found = []
    for t in range(tasks):
        alone = merge(
            frozen, {"embedding": jax.tree.map(lambda x, t=t: x[t : t + 1], updates)}, 1.0
        )
        found.append(forward(SHAPE, alone, TOKENS))
        of_task = forward(SHAPE, stacked, TOKENS + np.int32(24 * t))
        np.testing.assert_allclose(of_task, found[-1], rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(found[0] - found[1]).max()) > 0.1


def test_an_update_starts_with_a_zero_and_b_as_wide_as_asked():
    update = low_rank(jax.random.key(0), (2, 8, 512), 4, 0.05)
    assert update["a"].shape == (2, 8, 4)
    assert update["b"].shape == (2, 4, 512)
    assert (update["a"] == 0).all()
    # The deviation of 4096 draws has itself a relative one of 1 / sqrt(2 n); five of these.
    assert abs(float(jnp.std(update["b"])) / 0.05 - 1) < 5 / (2 * 4096) ** 0.5
