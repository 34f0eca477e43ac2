"""The network computes what its styles are known to compute, and looks where its direction says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kstore_jax.errors import UserError
from kstore_jax.model.config import SIZES, STYLES, style_fields
from kstore_jax.model.forward import forward, init, unembed
from kstore_jax.model.transformer import Shape, gelu
from kstore_jax.train.objectives import next_token, total_loss
from tests.model import reference

SHAPE = Shape(vocabulary=37, layers=2, heads=2, width=32)
SMALL = dataclasses.replace(SHAPE, layers=1, heads=4)
HEADS = {"mistral": 2}  # key and value heads, where there are fewer than heads
STYLED = {
    style: dataclasses.replace(
        SMALL, **{**style_fields(style, SMALL.heads), "num_kv_heads": HEADS.get(style, 0)}
    )
    for style in STYLES
}
TOKENS = np.random.default_rng(0).integers(0, 37, (3, 11)).astype(np.int32)


SHAPES = {
    "two layers": SHAPE,
    "no rotary": dataclasses.replace(SMALL, rotary_pct=0.0),
    "one head, all rotary": dataclasses.replace(SMALL, heads=1, rotary_pct=1.0),
    "no bias": dataclasses.replace(SMALL, bias=False, rotary_base=50.0, norm_epsilon=0.1),
    "no MLP": dataclasses.replace(SMALL, layers=2, mlp_width=-1),
    "one key for all heads": dataclasses.replace(SMALL, num_kv_heads=1, mlp_width=20),
    "bidirectional": dataclasses.replace(SMALL, direction="bidirectional"),
    "wide heads": dataclasses.replace(SMALL, head_width=12, num_kv_heads=2, rotary_pct=0.5),
    "parallel residual": dataclasses.replace(
        SHAPE, parallel_residual=True, activation="gelu_exact", tie_embeddings=False
    ),
    "stretched wavelengths": dataclasses.replace(
        SMALL, rotary_pct=1.0, rotary_base=100.0, rotary_factor=8.0, rotary_original_positions=64
    ),
    "bias of queries, keys and values": dataclasses.replace(SMALL, bias=False, qkv_bias=True),
    "norms of queries and keys": dataclasses.replace(SMALL, qk_norm=True, norm="rms"),
    "layer norms of queries and keys": dataclasses.replace(SMALL, qk_norm=True, num_kv_heads=2),
    "bidirectional mistral": dataclasses.replace(STYLED["mistral"], direction="bidirectional"),
    **STYLED,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_forward_equals_plain_numpy(shape):
    params = reference.parameters(shape)
    hidden = forward(shape, params, TOKENS)
    exact = reference.as_float64(params)
    expected = reference.outputs(np, exact, TOKENS, shape)
    assert hidden.dtype == jnp.float32
    np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)
    logits = unembed(shape, params, hidden)
    head = exact["embedding" if shape.tie_embeddings else "unembedding"]
    np.testing.assert_allclose(logits, expected @ head.T, rtol=1e-5, atol=1e-5)


def loss_of_ours(shape, params):
    logits = unembed(shape, params, forward(shape, params, TOKENS))
    return (jax.nn.log_softmax(logits)[..., 0] * jnp.sin(jnp.arange(11.0))[None]).sum()


def loss_of_reference(params):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        hidden = reference.outputs(jnp, params, TOKENS, SHAPE)
        logits = hidden @ params["embedding"].T
        return (jax.nn.log_softmax(logits)[..., 0] * jnp.sin(jnp.arange(11.0))).sum()


def relative_errors(ours, exact) -> list[float]:
    pairs = zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (ours, exact)), strict=True)
    return [norm(a - b) / norm(b) for a, b in pairs]


def norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.ravel()))


@pytest.fixture(scope="module")
def plain_gradient():
    return jax.jit(jax.grad(loss_of_reference))(reference.parameters(SHAPE))


def test_gradients_equal_those_of_plain_operations(plain_gradient):
    params = reference.parameters(SHAPE)
    ours = jax.jit(jax.grad(lambda p: loss_of_ours(SHAPE, p)))(params)
    errors = relative_errors(ours, plain_gradient)
    assert max(errors) < 1e-5


def test_bfloat16_products_stay_near_float32(plain_gradient):
    params, half = reference.parameters(SHAPE), dataclasses.replace(SHAPE, dtype="bfloat16")
    rough, exact = forward(half, params, TOKENS), forward(SHAPE, params, TOKENS)
    assert rough.dtype == jnp.float32
    # Eight bits of mantissa: 0.4 % a rounding, and some ten roundings in a row.
    assert 1e-4 < relative_errors(rough, exact)[0] < 0.04
    gradients = jax.jit(jax.grad(lambda p: loss_of_ours(half, p)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    errors = relative_errors(gradients, plain_gradient)
    assert max(errors) < 0.15


@pytest.mark.parametrize("name", ["two layers", "bidirectional mistral", "gpt2"])
def test_with_bfloat16_activations_loss_and_gradients_stay_near_float32(name):
    """The policy of accelerators, on a CPU: one product for queries, keys and values, and a loss
    without float32 logits. The tolerances are five roundings of 0.4 %, and three times what was
    found."""
    shape = dataclasses.replace(SHAPES[name], rotary_pct=0.5)
    half = dataclasses.replace(shape, dtype="bfloat16", activation_dtype="bfloat16")
    params = reference.parameters(shape)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, *(init(s, jax.random.key(0)) for s in (shape, half)))
    )
    assert forward(half, params, TOKENS).dtype == jnp.bfloat16

    def with_gradient(shape):
        def loss(params):
            return total_loss(*next_token(shape)(params, {"tokens": TOKENS}))

        return jax.jit(jax.value_and_grad(loss))(params)

    (exact, gradient), (loss, half_gradient) = map(with_gradient, (shape, half))
    assert 0 < abs(float(loss - exact)) < 0.02
    assert {leaf.dtype for leaf in jax.tree.leaves(half_gradient)} == {jnp.dtype("float32")}
    difference = optax.tree.norm(jax.tree.map(jnp.subtract, half_gradient, gradient))
    assert difference < 0.04 * optax.tree.norm(gradient)


@pytest.mark.parametrize("style", STYLED)
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_each_output_depends_on_what_its_direction_shows_and_on_nothing_else(style, direction):
    length = 6
    shape = dataclasses.replace(STYLED[style], vocabulary=length, direction=direction)
    params, tokens = reference.parameters(shape), jnp.arange(length, dtype=jnp.int32)[None]

    def outputs(embedding):
        return forward(shape, {**params, "embedding": embedding}, tokens)[0]

    jacobian = jax.jit(jax.jacrev(outputs))(params["embedding"])  # (L, D, L, D): token s is row s
    reached = np.abs(jacobian).max((1, 3))
    shown = np.ones((length, length), bool)
    shown = np.tril(shown) if direction == "causal" else shown
    assert (reached[~shown] == 0).all()
    assert (reached[shown] > 1e-4).all()


@pytest.mark.parametrize("style", STYLED)
def test_what_fills_a_bidirectional_text_up_changes_nothing_of_it(style):
    shape = dataclasses.replace(STYLED[style], direction="bidirectional")
    params = reference.parameters(shape)
    lengths = np.array([3, TOKENS.shape[1]], np.int32)
    filled = forward(shape, params, TOKENS[:2], lengths)
    alone = forward(shape, params, TOKENS[:1, :3])
    np.testing.assert_allclose(filled[0, :3], alone[0], atol=1e-5)
    np.testing.assert_allclose(filled[1], forward(shape, params, TOKENS[1:2])[0], atol=1e-5)
    assert float(jnp.abs(forward(shape, params, TOKENS[:1])[0, :3] - alone[0]).max()) > 1e-3


def test_positions_matter():
    params = reference.parameters(SHAPE)
    swapped = TOKENS[:, [1, 0, *range(2, 11)]]
    last = [forward(SHAPE, params, tokens)[:, -1] for tokens in (TOKENS, swapped)]
    assert norm(np.asarray(last[0] - last[1])) > 1e-3


def test_initial_parameters():
    params = init(SHAPE, jax.random.key(0))
    leaves = dict(jax.tree_util.tree_leaves_with_path(params))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves.items()
    }
    expected = {
        "embedding": 0.02, "block_1/query/kernel": 0.02, "block_0/up/kernel": 0.02,
        "block_0/out/kernel": 0.01, "block_1/down/kernel": 0.01,
    }  # fmt: skip
    for name, deviation in expected.items():
        # A sample's deviation has itself one of sigma / sqrt(2 n); five of these, n >= 1024.
        assert abs(float(names[name].std()) / deviation - 1) < 5 / (2 * 1024) ** 0.5
    assert all((x == 0).all() for name, x in names.items() if name.endswith("bias"))
    assert all((x == 1).all() for name, x in names.items() if name.endswith("scale"))


def test_an_untied_head_starts_as_the_embedding_does_and_is_another():
    params = init(STYLED["llama"], jax.random.key(0))
    assert params["unembedding"].shape == params["embedding"].shape
    assert abs(float(params["unembedding"].std()) / 0.02 - 1) < 5 / (2 * 1024) ** 0.5
    assert norm(np.asarray(params["unembedding"] - params["embedding"])) > 0.1


@pytest.mark.parametrize(("size", "millions"), [("124M", 123.5), ("302M", 300.3), ("682M", 706.9)])
def test_the_papers_sizes_have_the_papers_numbers_of_parameters(size, millions):
    """In its matrices; "682M" is the paper's label of 12 layers, 32 heads, 2048 dimensions."""
    shape = Shape(vocabulary=50_257, **SIZES[size])
    params = jax.eval_shape(lambda key: init(shape, key), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    assert round(count / 1e6, 1) == millions
    assert shape.width // shape.heads == 64


@pytest.mark.parametrize("size", SIZES)
def test_a_llama_block_is_as_large_as_a_gpt2_block(size):
    def count(style):
        shape = Shape(vocabulary=1, **SIZES[size], **STYLES[style])
        params = jax.eval_shape(lambda key: init(shape, key), jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params["block_0"]))

    assert abs(count("llama") / count("gpt2-rotary") - 1) < 0.01


def test_a_text_longer_than_the_learned_positions_is_refused():
    shape = dataclasses.replace(STYLED["gpt2"], max_positions=10)
    with pytest.raises(UserError, match="expected at least the text's 11, got 10"):
        forward(shape, reference.parameters(shape), TOKENS)


@pytest.fixture(params=["dropout", "attention_dropout"])
def dropping(request):
    return dataclasses.replace(SMALL, **{request.param: 0.4})


def test_without_a_key_nothing_is_dropped(dropping):
    params = reference.parameters(SMALL)
    assert np.array_equal(forward(dropping, params, TOKENS), forward(SMALL, params, TOKENS))


def test_what_is_dropped_depends_on_the_key_alone(dropping):
    params = reference.parameters(dropping)
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, again, other = (forward(dropping, params, TOKENS, dropout_key=key) for key in keys)
    assert np.array_equal(first, again)
    assert norm(np.asarray(first - other)) > 0.1 * norm(np.asarray(first))


def test_a_key_without_dropout_changes_nothing():
    params = reference.parameters(SMALL)
    dropped = forward(SMALL, params, TOKENS, dropout_key=jax.random.key(0))
    assert np.array_equal(dropped, forward(SMALL, params, TOKENS))


PLACES = np.random.default_rng(1).integers(0, 11, (3, 4)).astype(np.int32)


@pytest.mark.parametrize("name", ["two layers", "no MLP", "bidirectional", "parallel residual", ""])
def test_states_at_positions_are_those_of_the_whole_text(name):
    shape = SHAPES.get(name, dataclasses.replace(SMALL, layers=0))
    shape = dataclasses.replace(shape, dropout=0.4)
    params = reference.parameters(shape)
    read = functools.partial(forward, shape, params, TOKENS, dropout_key=jax.random.key(2))
    expected = np.take_along_axis(np.asarray(read()), PLACES[:, :, None], axis=1)
    np.testing.assert_allclose(read(positions=PLACES), expected, rtol=2e-5, atol=2e-5)


def test_positions_save_most_of_the_last_block():
    shape = dataclasses.replace(SHAPE, width=64)
    params = reference.parameters(shape)

    def flops(positions):
        lowered = forward.lower(shape, params, TOKENS, positions=positions)
        return lowered.compile().cost_analysis()["flops"]

    assert flops(PLACES) < 0.8 * flops(None)
    assert flops(np.tile(PLACES, (1, 4))) < 1.01 * flops(None)  # more than there are


def test_blocks_that_are_computed_again_give_the_same_gradient():
    shape = dataclasses.replace(SMALL, layers=2, dropout=0.4, qk_norm=True)
    params = reference.parameters(shape)

    def loss(params, shape):
        hidden = forward(shape, params, TOKENS, dropout_key=jax.random.key(0))
        return jnp.sin(hidden).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    again = gradient(params, dataclasses.replace(shape, remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradient(params, shape),
        again,
    )


def test_gelu_and_its_gradient_are_those_of_the_tanh_form():
    x = jnp.linspace(-6, 6, 241)
    exact = functools.partial(jax.nn.gelu, approximate=True)
    for ours, theirs in ((gelu, exact), (jax.vmap(jax.grad(gelu)), jax.vmap(jax.grad(exact)))):
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("x", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_gelu_and_its_gradient_are_finite_far_out(x):
    value, slope = jax.value_and_grad(gelu)(jnp.float32(x))
    assert float(value) == (x if x > 0 else 0)
    assert float(slope) == (1 if x > 0 else 0 if x < 0 else 0.5)
