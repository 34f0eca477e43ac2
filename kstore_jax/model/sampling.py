"""Text written by a causal model token by token, greedily or sampled.

The letters of dimensions are explained in `transformer.py`; S is the number of tokens written.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.model.forward import Params, forward_cached, prefill, unembed
from kstore_jax.model.transformer import Shape

_ROUND = 16
"""Lengths of prompts and texts are rounded up to this, so that few shapes are compiled."""


def continue_text(
    shape: Shape,
    params: Params,
    prompt: np.ndarray,
    end: int,
    vocab_size: int,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Returns the tokens (`max_tokens`,) int32 that follow one prompt (L,), as `sample` does.

    Args:
      max_tokens: at most `room` after this prompt.
      seed: of the drawn tokens.
    """
    length, steps = (-(-count // _ROUND) * _ROUND for count in (len(prompt), max_tokens))
    if shape.longest_text:  # rounded lengths may have no position
        length, steps = len(prompt), max_tokens
    padded = np.full(length, end, np.int32)
    padded[: len(prompt)] = prompt
    written = sample(
        shape,
        params,
        jnp.asarray(padded)[None],
        jnp.array([len(prompt)], jnp.int32),
        end,
        vocab_size,
        steps,
        jnp.float32(temperature),
        jax.random.key(seed),
    )
    return np.asarray(jax.device_get(written))[0, :max_tokens]


def room(shape: Shape, length: int) -> int | None:
    """Returns how many tokens can follow a prompt of this length; None: any number."""
    return max(0, shape.longest_text[1] - length) if shape.longest_text else None


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def sample(
    shape: Shape,
    params: Params,
    prompts_BxL: jax.Array,
    lengths_B: jax.Array,
    end: int,
    vocab_size: int,
    steps: int,
    temperature: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Returns the tokens (B, S) int32 that follow each prompt, ended and padded by `end`.

    Args:
      prompts_BxL: int32; tokens beyond a prompt's length are ignored.
      lengths_B: int32, at least 1.
      end: the end-of-text token.
      vocab_size: tokens of the vocabulary; rows of the embedding beyond it are never written.
      steps: S.
      temperature: float32 by which logits are divided; 0: the most likely token is taken.
      key: the only randomness.
    """
    last_BxD, cache = prefill(shape, params, prompts_BxL, lengths_B, steps)

    def choose(hidden_BxD, i):
        logits = unembed(shape, params, hidden_BxD)[:, :vocab_size]
        drawn = jax.random.categorical(
            jax.random.fold_in(key, i), logits / jnp.maximum(temperature, 1e-6)
        )
        return jnp.where(temperature > 0, drawn, logits.argmax(-1)).astype(jnp.int32)

    def step(state, i):
        tokens_B, ended_B, cache = state
        hidden, cache = forward_cached(shape, params, tokens_B[:, None], lengths_B + i - 1, cache)
        tokens_B = jnp.where(ended_B, end, choose(hidden[:, 0], i))
        return (tokens_B, ended_B | (tokens_B == end), cache), tokens_B

    first_B = choose(last_BxD, 0)
    state = first_B, first_B == end, cache
    _, rest_SxB = jax.lax.scan(step, state, jnp.arange(1, steps))
    return jnp.concatenate([first_B[None], rest_SxB]).T
