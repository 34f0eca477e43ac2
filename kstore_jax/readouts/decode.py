"""Text generation by a causal model: beam search over cached keys and values.

A hypothesis is scored by the sum of its log-likelihoods, not divided by its length as in Hugging
Face. A beam of 1 is greedy decoding.

Shapes in names: B prompts, P their length, W width of the beam, V vocabulary, S steps. The cache
has G key heads, T positions and K dimensions of a head.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.forward import Params, forward_cached, prefill, unembed
from kstore_jax.model.transformer import Shape

PROMPTS = 64  # of one search


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def beam_search(
    shape: Shape,
    params: Params,
    prompts_BxP: jax.Array,
    lengths_B: jax.Array,
    end: int,
    vocab_size: int,
    steps: int,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    """The most likely continuation of each prompt that a beam of `width` finds.

    Args:
      prompts_BxP: int32; tokens beyond a prompt's length are ignored.
      lengths_B: int32, at least 1.
      end: the end-of-text token.
      vocab_size: tokens of the vocabulary; rows of the embedding beyond it are never generated.
      steps: the most tokens to generate.
      width: beams.

    Returns: tokens (B, S) int32, ended and padded by the end of text; log-likelihoods (B,).
    """
    batch = len(prompts_BxP)
    last, cache = prefill(shape, params, prompts_BxP, lengths_B, steps)

    def likelihoods(hidden_NxD):
        logits = unembed(shape, params, hidden_NxD)[:, :vocab_size]
        return jax.nn.log_softmax(logits).reshape(batch, -1, vocab_size)

    no_scores = jnp.full((batch, width), -jnp.inf)
    beam = {
        "scores": no_scores.at[:, 0].set(0.0),
        "texts": jnp.full((batch, width, steps), end, jnp.int32),
        "best": jnp.full((batch,), -jnp.inf),
        "best_text": jnp.full((batch, steps), end, jnp.int32),
    }
    cache = jax.tree.map(lambda x: _repeat_for_beam(x, batch, width), cache)
    starts = lengths_B.repeat(width)
    first = jnp.broadcast_to(likelihoods(last), (batch, width, vocab_size))
    beam, parents = _extend(beam, first, 0, end)

    def step(state, i):
        beam, cache, parents = state
        cache = jax.tree.map(lambda x: _select_beams(x, parents), cache)
        tokens = beam["texts"][:, :, i - 1].reshape(-1, 1)
        hidden, cache = forward_cached(shape, params, tokens, starts + i - 1, cache)
        beam, parents = _extend(beam, likelihoods(hidden[:, 0]), i, end)
        return (beam, cache, parents), None

    (beam, *_), _ = jax.lax.scan(step, (beam, cache, parents), jnp.arange(1, steps))
    live, best = beam["scores"][:, 0], beam["best"]
    text = jnp.where((live > best)[:, None], beam["texts"][:, 0], beam["best_text"])
    return text, jnp.maximum(live, best)


def _extend(beam: dict, likelihoods_BxWxV, i, end: int) -> tuple[dict, jax.Array]:
    """Extends every hypothesis by token i.

    Returns: the beam with the best hypothesis that ended and the W best that go on; the parents
      (B, W) of the latter.
    """
    batch, width, vocabulary = likelihoods_BxWxV.shape
    scores = (beam["scores"][:, :, None] + likelihoods_BxWxV).reshape(batch, -1)
    scores, which = jax.lax.top_k(scores, 2 * width)
    parents, tokens = which // vocabulary, (which % vocabulary).astype(jnp.int32)
    ended = tokens == end

    finished = jnp.where(ended & (jnp.arange(2 * width) < width)[None], scores, -jnp.inf)
    ending = finished.argmax(1)[:, None]
    score = jnp.take_along_axis(finished, ending, 1)[:, 0]
    text = _take_texts(beam["texts"], jnp.take_along_axis(parents, ending, 1))[:, 0]
    better = score > beam["best"]

    scores, order = jax.lax.top_k(jnp.where(ended, -jnp.inf, scores), width)
    parents, tokens = (jnp.take_along_axis(x, order, 1) for x in (parents, tokens))
    extended = {
        "scores": scores,
        "texts": _take_texts(beam["texts"], parents).at[:, :, i].set(tokens),
        "best": jnp.where(better, score, beam["best"]),
        "best_text": jnp.where(better[:, None], text, beam["best_text"]),
    }
    return extended, parents


def _take_texts(texts_BxWxS: jax.Array, which_BxN: jax.Array) -> jax.Array:
    return jnp.take_along_axis(texts_BxWxS, which_BxN[:, :, None], axis=1)


def _repeat_for_beam(x: jax.Array, batch: int, width: int) -> jax.Array:
    """Repeats the cache of each prompt W times: (B G, T, K) -> (B W G, T, K)."""
    of_text = x.reshape(batch, 1, -1, *x.shape[1:])
    return of_text.repeat(width, 1).reshape(-1, *x.shape[1:])


def _select_beams(x: jax.Array, parents_BxW: jax.Array) -> jax.Array:
    """The cache rows (B W G, T, K) of the parents."""
    batch, width = parents_BxW.shape
    of_beam = x.reshape(batch, width, -1, *x.shape[1:])
    return jax.vmap(lambda rows, which: rows[which])(of_beam, parents_BxW).reshape(x.shape)


def generate(
    shape: Shape,
    params: Params,
    examples: SpanExamples,
    end: int,
    vocab_size: int,
    width: int,
    batch: int = PROMPTS,
) -> np.ndarray:
    """The model's own text in place of the one span of each example: (N, K) int32, at most K
    tokens, padded with the end of text.

    Args:
      end, vocab_size, width: as in `beam_search`.
      batch: prompts of one call; the last batch is padded.
    """
    lengths = examples.positions[:, 0, 0] + 1
    prompts = examples.tokens[:, : int(lengths.max())]
    beyond = np.arange(prompts.shape[1]) >= lengths[:, None]
    prompts = np.where(beyond, end, prompts).astype(np.int32)
    options = end, vocab_size, examples.positions.shape[2], width
    batch = min(batch, len(examples))
    generated = []
    for start in range(0, len(examples), batch):
        missing = max(0, start + batch - len(examples))
        rows = np.pad(prompts[start : start + batch], [(0, missing), (0, 0)])
        counts = np.pad(lengths[start : start + batch], (0, missing), constant_values=1)
        tokens, _ = beam_search(shape, params, rows, counts, *options)
        generated.append(tokens)  # fetched together: the device does not wait between batches
    return np.concatenate(jax.device_get(generated))[: len(examples)]


def exact_match(tokens_NxK: np.ndarray, examples: SpanExamples) -> np.ndarray:
    """Whether the generated tokens are the whole span: (N, 1) bool."""
    targets, weights = examples.targets[:, 0], examples.weights[:, 0]
    return ((tokens_NxK == targets) | (weights == 0)).all(1, keepdims=True)
