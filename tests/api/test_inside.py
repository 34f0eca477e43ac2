"""What a notebook reads inside a model: hidden states, attention patterns, and patches."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import kstore_jax
from kstore_jax.corpus.tokenizer import Vocabulary, gpt2
from kstore_jax.errors import UserError
from kstore_jax.model.forward import forward, unembed
from kstore_jax.model.transformer import Shape
from tests.model import reference

WORLD = kstore_jax.World(people=20)
TEXT, OTHER = WORLD[3].text(), WORLD[5].text()
QUESTION = f"{WORLD[3].question('university')} Answer:"
SHAPE = Shape(vocabulary=0, layers=3, heads=4, width=16, num_kv_heads=2, rotary_pct=0.5)
SHAPES = {
    "causal": SHAPE,
    "bidirectional": dataclasses.replace(SHAPE, direction="bidirectional"),
    "learned positions": dataclasses.replace(SHAPE, positions="learned", max_positions=75),
    "untied": dataclasses.replace(SHAPE, tie_embeddings=False),
    "bfloat16": dataclasses.replace(SHAPE, dtype="bfloat16", activation_dtype="bfloat16"),
}


def make_model(shape: Shape) -> kstore_jax.Model:
    """A model with random weights that knows the tokens of all people's first biographies."""
    texts = [f" {person.text()}" for person in WORLD] + [QUESTION]
    ids = np.unique([i for text in gpt2().encode(texts) for i in text] + [gpt2().end_of_text])
    vocabulary = Vocabulary(gpt2(), ids)
    shape = dataclasses.replace(shape, vocabulary=vocabulary.size + 1)  # one row for a mask
    return kstore_jax.Model("tiny", shape, reference.parameters(shape), vocabulary)


@pytest.fixture(scope="module", params=SHAPES)
def model(request) -> kstore_jax.Model:
    return make_model(SHAPES[request.param])


@pytest.fixture(scope="module")
def causal() -> kstore_jax.Model:
    return make_model(SHAPE)


def read(model, text=TEXT, **options) -> kstore_jax.Inside:
    return model.run(text, hidden=True, attention=True, **options)


def same(ours: kstore_jax.Inside, theirs: kstore_jax.Inside, layers=slice(None)) -> bool:
    pairs = (
        (ours.logits, theirs.logits),
        (ours.hidden[layers], theirs.hidden[layers]),
        (ours.attention[layers], theirs.attention[layers]),
    )
    return all(np.array_equal(*pair) for pair in pairs)


def test_shapes_and_types(model):
    out, (length, shape) = read(model), (len(model.tokens(f" {TEXT}")), model.shape)
    assert out.tokens.tolist() == model.tokens(f" {TEXT}").tolist()
    assert out.logits.shape == (length, model.vocabulary.size)
    assert out.hidden.shape == (shape.layers + 1, length, shape.width)
    assert out.attention.shape == (shape.layers, shape.heads, length, length)
    assert {x.dtype for x in (out.logits, out.hidden, out.attention)} == {np.dtype("float32")}
    bare = model.run(TEXT)
    assert len(bare.hidden) == len(bare.attention) == 0
    np.testing.assert_allclose(bare.logits, out.logits, atol=0.03)


def test_logits_are_those_of_the_plain_forward_and_of_the_last_hidden_state(model):
    out, shape, params = read(model), model.shape, model.params
    plain = forward(shape, params, jnp.asarray(out.tokens)[None])
    size = model.vocabulary.size
    # bfloat16 has eight bits of mantissa, and two programs round at different places
    tolerance = 0.03 if shape.activation_dtype == "bfloat16" else 1e-4
    expected = np.asarray(unembed(shape, params, plain)[0, :, :size])
    np.testing.assert_allclose(out.logits, expected, atol=tolerance)
    assert np.abs(expected).max() > 0.5
    exact = reference.as_float64(params)
    last, ln_f = out.hidden[-1].astype(np.float64), exact["ln_f"]
    normed = (last - last.mean(-1, keepdims=True)) / last.std(-1, keepdims=True)
    head = exact["embedding" if shape.tie_embeddings else "unembedding"][:size]
    by_hand = (normed * ln_f["scale"] + ln_f["bias"]) @ head.T
    np.testing.assert_allclose(out.logits, by_hand, atol=tolerance)


def test_hidden_states_and_attention_equal_plain_numpy(causal):
    out, params = read(causal), reference.as_float64(causal.params)
    residual, patterns = reference.inside(np, params, out.tokens[None], causal.shape)
    np.testing.assert_allclose(out.hidden, np.stack(residual)[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.attention, np.stack(patterns)[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.attention.sum(-1), 1, atol=1e-6)
    assert (np.triu(out.attention, 1) == 0).all()


def test_a_patch_with_its_own_activations_changes_nothing(model):
    out, length = read(model), len(model.tokens(f" {TEXT}"))
    patch = {
        ("embedding", range(length)): out.hidden[0],
        ("block_0", (4, 2)): out.hidden[1, [4, 2]],
        ("block_2", 5): out.hidden[3, 5],
        ("block_2", -1): out.hidden[3, -1],
    }
    assert same(read(model, patch=patch), out)


def test_a_patch_with_another_text_s_reproduces_the_other_from_there_on(model):
    length = min(len(model.tokens(f" {text}")) for text in (TEXT, OTHER))
    ours, theirs = (model.tokens(f" {text}")[:length] for text in (TEXT, OTHER))
    other = read(model, theirs)
    for block in range(model.shape.layers):
        patch = {(f"block_{block}", range(length)): other.hidden[block + 1]}
        assert same(read(model, ours, patch=patch), other, slice(block + 1, None))
    assert not same(read(model, ours), other)


def test_a_patch_moves_what_comes_after_it_and_nothing_else(causal):
    out, shape = read(causal), causal.shape
    values = np.ones((3, shape.width), np.float32)
    patched = read(causal, patch={("block_1", range(3, 6)): values})
    assert np.array_equal(patched.hidden[2, 3:6], values)
    assert np.array_equal(patched.hidden[:2], out.hidden[:2])
    assert np.array_equal(patched.hidden[:, :3], out.hidden[:, :3])
    assert np.array_equal(patched.logits[:3], out.logits[:3])
    assert (np.abs(patched.hidden[3, 3:] - out.hidden[3, 3:]).max(-1) > 1e-3).all()


def test_tokens_of_a_name_are_found(causal):
    out, person = causal.run(TEXT), WORLD[3]
    assert "".join(out.token_texts) == f"<|endoftext|> {TEXT}"
    name = out.find(person.name)
    assert name.start == 1
    assert "".join(out.token_texts[name.start : name.stop]) == f" {person.name}"
    middle = out.find(person.name.split()[1])
    assert "".join(out.token_texts[i] for i in middle) == f" {person.name.split()[1]}"
    with pytest.raises(UserError, match=r"^find: 'Nobody' is not in the text"):
        out.find("Nobody")


def test_a_question_is_read_as_ask_reads_it(causal):
    assert "".join(causal.run(QUESTION).token_texts) == f"<|endoftext|>{QUESTION}"
    asked = causal.ask(QUESTION, max_tokens=1)
    first = causal.run(QUESTION).logits[-1].argmax()
    assert causal.vocabulary.decode(np.array([first])).strip() == asked


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (("block_3", 0), (16,), "patch: expected embedding or block_0 to block_2, got 'block_3'"),
        ((2, 0), (16,), "patch: expected embedding or block_0 to block_2, got 2"),
        ("block_1", (16,), "patch: expected keys (block, positions), got 'block_1'"),
        (("block_1", range(3, 6)), (2, 16), "patch: block_1: expected values (3, 16), got (2, 16)"),
        (("block_1", 3), (1, 16), "patch: block_1: expected values (16,), got (1, 16)"),
        (("block_1", 500), (16,), "patch: block_1: expected positions below LENGTH, got 500"),
        (("block_1", (2, -500)), (2, 16), "expected positions below LENGTH, got (2, -500)"),
        (("block_1", 1.5), (16,), "patch: block_1: expected positions below LENGTH, got 1.5"),
        (("block_1", "name"), (16,), "expected positions below LENGTH, got 'name'"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_in_one_line(causal, key, values, message):
    with pytest.raises(UserError) as error:
        causal.run(TEXT, patch={key: np.zeros(values)})
    length = str(len(causal.tokens(f" {TEXT}")))
    assert message.replace("LENGTH", length) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_input_that_does_not_fit_is_refused(causal):
    with pytest.raises(UserError, match=r"^patch: block_0: expected numbers"):
        causal.run(TEXT, patch={("block_0", 1): "one"})
    for tokens in (np.zeros((2, 2), int), np.zeros(0, int), np.zeros(3)):
        with pytest.raises(UserError, match=r"^text: expected a text or tokens \(L,\)"):
            causal.run(tokens)
    with pytest.raises(UserError, match=r"^text: expected tokens from 0 to "):
        causal.run(np.array([0, causal.shape.vocabulary]))
    with pytest.raises(UserError, match="the model has no token"):
        causal.run("Quarks")
    long = make_model(SHAPES["learned positions"])
    with pytest.raises(UserError, match=r"model\.max_positions: expected at least the text's 76"):
        long.run(np.zeros(76, np.int32))


def test_a_slice_is_a_set_of_positions():
    """Python 3.12 has slices as keys of dictionaries; a mapping may have them before."""

    class Pairs(dict):
        def items(self):
            return [(("block_1", slice(3, 6)), np.ones((3, 16)))]

    model = make_model(SHAPE)
    patch = {("block_1", range(3, 6)): np.ones((3, 16))}
    assert same(read(model, patch=Pairs(one=1)), read(model, patch=patch))
