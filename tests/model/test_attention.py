"""Every implementation computes a plain softmax over what a position sees, and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from kstore_jax.errors import UserError
from kstore_jax.model import attention
from kstore_jax.model.attention import (
    choose_implementation,
    dot_product_attention,
    explain_auto,
    heads_last_attention,
)
from kstore_jax.model.dropout import keep_mask, keep_prob


def plain(q, k, v, causal=True):
    k, v = (jnp.repeat(x, q.shape[0] // k.shape[0], axis=0) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        seen = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))[None]
        scores = jnp.where(seen, scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1) @ v


def inputs(rows: int, length: int, width: int, scale: float = 1.0) -> tuple[jax.Array, ...]:
    draw = np.random.default_rng(rows + length + width)
    return tuple(
        jnp.asarray(draw.normal(0, scale, (rows, length, width)), jnp.float32) for _ in range(4)
    )


@functools.partial(jax.jit, static_argnums=(0, 2))
def with_gradients(attention, given, *how):
    """The output, and the gradients of its sum weighted by the last of `given`."""
    *qkv, weight = given
    out, pull = jax.vjp(lambda *x: attention(*x, *how), *qkv)
    return out, pull(weight)


@pytest.mark.parametrize(
    ("sizes", "scale"), [((1, 1, 1), 1), ((3, 7, 1), 1), ((6, 16, 8), 1), ((2, 5, 3), 6)]
)
def test_attend_is_a_causal_softmax(sizes, scale):
    given = inputs(*sizes, scale)
    out, ours = with_gradients(dot_product_attention, given, "float32")
    expected, theirs = with_gradients(plain, given)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        # A gradient is a difference of products of three arrays of this scale.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale**3)


def test_the_gradients_of_attend_are_the_limits_of_differences():
    *qkv, _ = inputs(2, 5, 3)
    with jax.numpy_dtype_promotion("standard"):
        check_grads(lambda *x: dot_product_attention(*x, "float32"), qkv, order=1, modes=["rev"])


def test_attend_in_bfloat16_stays_near_float32():
    given = inputs(4, 32, 16)
    out, ours = with_gradients(dot_product_attention, given, "bfloat16")
    expected, theirs = with_gradients(plain, given)
    assert float(jnp.abs(out - expected).max()) < 0.05
    for a, b in zip((out, *ours), (expected, *theirs), strict=True):
        assert a.dtype == jnp.float32
        assert float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) < 0.02


def grouped(batch: int, heads: int, group: int, length: int, width: int) -> list[jax.Array]:
    draw = np.random.default_rng(heads + length)
    rows = batch * heads
    sizes = (rows, rows // group, rows // group, rows)
    return [jnp.asarray(draw.normal(size=(n, length, width)), jnp.float32) for n in sizes]


def close(ours, theirs):
    out, gradients = ours
    expected, exact = theirs
    for a, b in zip((out, *gradients), (expected, *exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


IMPLEMENTATIONS = [
    "dense",
    "xla",
]  # `cudnn` needs a GPU, below; `splash` a TPU or to be interpreted


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_program_is_the_plain_softmax(implementation, group, causal):
    given = grouped(2, 4, group, 7, 8)
    how = functools.partial(
        dot_product_attention,
        dtype="float32",
        batch=2,
        causal=causal,
        implementation=implementation,
    )
    close(
        with_gradients(how, given), with_gradients(functools.partial(plain, causal=causal), given)
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_heads_after_positions_are_the_same_attention(implementation):
    given = grouped(2, 4, 2, 7, 8)
    how = {"lengths": jnp.array([4, 7]), "causal": False, "implementation": implementation}

    def heads_last(*qkv):
        q_k_v = (x.reshape(2, -1, *x.shape[1:]).swapaxes(1, 2) for x in qkv)
        return heads_last_attention(*q_k_v, "float32", **how).swapaxes(1, 2).reshape(qkv[0].shape)

    plain_order = functools.partial(dot_product_attention, dtype="float32", batch=2, **how)
    close(with_gradients(heads_last, given), with_gradients(plain_order, given))
    half = (jnp.zeros((2, 7, heads, 8), jnp.bfloat16) for heads in (4, 2, 2))
    with jax.numpy_dtype_promotion("standard"):  # within JAX's `xla`
        assert heads_last_attention(*half, "bfloat16", **how).dtype == jnp.bfloat16


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "length", [257, 390, 513]
)  # two, three and four blocks, none divided evenly
def test_blocks_of_queries_are_the_plain_softmax(length, group):
    given = grouped(1, 2, group, length, 4)
    close(
        with_gradients(functools.partial(dot_product_attention, dtype="float32"), given),
        with_gradients(plain, given),
    )


def test_causal_attention_leaves_out_what_no_query_sees():
    given = grouped(1, 2, 1, 512, 8)

    def flops(causal):
        how = functools.partial(dot_product_attention, dtype="float32", causal=causal)
        return with_gradients.lower(how, given).compile().cost_analysis()["flops"]

    assert flops(True) < 0.7 * flops(False)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_fills_a_text_up_is_not_seen(implementation, group):
    """The texts before what fills them up come out as they do alone, gradients included."""
    q, k, v, weight = grouped(2, 4, group, 7, 8)
    lengths = jnp.array([4, 7])
    inside = jnp.arange(7)[None] < lengths[:, None]
    weight = jnp.where(inside.repeat(4, 0)[:, :, None], weight, 0.0)
    how = functools.partial(
        dot_product_attention,
        dtype="float32",
        batch=2,
        lengths=lengths,
        causal=False,
        implementation=implementation,
    )
    out, gradients = with_gradients(how, [q, k, v, weight])
    for b, length in enumerate(lengths.tolist()):
        of_text = [x.reshape(2, -1, *x.shape[1:])[b] for x in (q, k, v, weight, out, *gradients)]
        *given, own, dq, dk, dv = (x[:, :length] for x in of_text)
        close((own, (dq, dk, dv)), with_gradients(functools.partial(plain, causal=False), given))
        assert all((x[:, length:] == 0).all() for x in of_text[-2:])


@pytest.mark.parametrize(("group", "causal"), [(1, True), (2, True), (2, False)])
def test_splash_interpreted_is_the_plain_softmax(group, causal):
    given = grouped(1, 2, group, 130, 128)  # a length that has to be filled up

    def splash(*qkv):
        return attention._splash(*(x[None] for x in qkv), None, causal, interpret=True)[0]

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        ours = with_gradients(splash, given)
    close(ours, with_gradients(functools.partial(plain, causal=causal), given))


def test_splash_interpreted_sees_no_further_than_a_text_is_long():
    q, k, v, _ = grouped(1, 2, 1, 130, 128)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        given = (x[None] for x in (q, k, v))
        out = attention._splash(*given, jnp.array([90]), False, interpret=True)[0]
    expected = plain(q[:, :90], k[:, :90], v[:, :90], causal=False)
    np.testing.assert_allclose(out[:, :90], expected, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("group", [1, 4])
def test_cudnn_stays_near_the_plain_softmax(group, causal):
    given = grouped(2, 4, group, 33, 64)
    how = functools.partial(
        dot_product_attention, dtype="bfloat16", batch=2, causal=causal, implementation="cudnn"
    )
    out, ours = with_gradients(how, given)
    expected, theirs = with_gradients(functools.partial(plain, causal=causal), given)
    for a, b in zip((out, *ours), (expected, *theirs), strict=True):
        assert float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) < 0.02


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what a CPU has")
def test_a_program_that_is_not_here_is_refused_and_auto_is_one_that_is():
    assert choose_implementation("auto", "bfloat16", 64) == "dense"
    with pytest.raises(UserError, match="cudnn needs an NVIDIA GPU; auto is dense"):
        choose_implementation("cudnn", "bfloat16", 64)
    with pytest.raises(UserError, match="splash needs a TPU"):
        dot_product_attention(*inputs(1, 2, 4)[:3], "float32", implementation="splash")
    with pytest.raises(UserError, match=r"xla needs model\.attention_dropout = 0"):
        choose_implementation("xla", "float32", 64, dropout=0.1)


def test_auto_says_which_it_is_and_why(monkeypatch):
    monkeypatch.setattr(attention, "has_cuda", lambda: False)
    assert explain_auto("bfloat16", 64, 0) == "auto is dense, since cudnn needs an NVIDIA GPU"
    monkeypatch.setattr(attention, "has_cuda", lambda: True)
    assert choose_implementation("auto", "bfloat16", 64) == "cudnn"
    assert "auto is cudnn" in explain_auto("bfloat16", 64, 0)
    assert choose_implementation("auto", "bfloat16", 64, 0.1) == "dense"
    assert "needs model.attention_dropout = 0" in explain_auto("bfloat16", 64, 0.1)
    assert "needs model.dtype = bfloat16" in explain_auto("float32", 64, 0)


def test_splash_is_chosen_on_one_tpu_device_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert choose_implementation("splash", "bfloat16", 64) == "splash"
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match=r"splash needs a single TPU device, not 4; auto is dense"):
        choose_implementation("splash", "bfloat16", 64)


def test_dropout_drops_its_share_of_the_weights_and_keeps_their_mean():
    length, rate = 40, 0.3
    q = jnp.zeros((50, length, length))  # each weight is 1 / length
    given = q, q, jnp.broadcast_to(jnp.eye(length), (50, length, length))
    how = {"causal": False, "dropout": rate, "key": jax.random.key(0)}
    weights = dot_product_attention(*given, "float32", **how) * length
    stays = weights > 0
    share = keep_prob(rate)
    assert abs(float(stays.mean()) - share) < 5 * (share * (1 - share) / stays.size) ** 0.5
    np.testing.assert_allclose(weights[stays], 1 / share, rtol=1e-5)


@given(rate=st.floats(0.001, 0.99), last=st.integers(1, 9))
def test_what_is_dropped_is_the_rate_to_a_256th_and_never_nothing_or_all(rate, last):
    share = keep_prob(rate)
    assert 0 < share < 1
    assert abs(share - (1 - rate)) <= 1 / 256
    stays = np.asarray(keep_mask(jax.random.key(0), rate, (30_000, last)))
    spread = (share * (1 - share) / 30_000) ** 0.5
    assert stays.shape == (30_000, last)
    assert np.all(abs(stays.mean(0) - share) < 6 * spread)
    assert last == 1 or abs(np.corrcoef(stays[:, :2].T)[0, 1]) < 6 / 30_000**0.5


def test_the_gradients_of_attend_with_dropout_are_the_limits_of_differences():
    q, k, v, _ = grouped(1, 2, 2, 5, 3)
    how = {"dropout": 0.4, "key": jax.random.key(1)}
    with jax.numpy_dtype_promotion("standard"):
        check_grads(
            lambda *x: dot_product_attention(*x, "float32", **how),
            (q, k, v),
            order=1,
            modes=["rev"],
        )
