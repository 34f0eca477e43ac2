"""Whole-word masking (Part 3.1, section 7): which words of a text a bidirectional model is to tell.

What is masked in a row is a function of the key of the row, and made on the device.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

SHARE = 0.15  # of the words
MASKED, KEPT = 0.8, 0.1  # of the chosen words; the rest become random tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """What masking knows of a vocabulary of V tokens.

    Attributes:
      begins: (V,) bool: whether a token begins a word whatever is before it.
      joins: (V,) bool: whether the token after it goes on with its word, unless that one begins.
      end_of_text: the token that is never masked.
      mask: the token that stands for a masked one.
    """

    begins: np.ndarray
    joins: np.ndarray
    end_of_text: int
    mask: int


def word_starts(words: Words, tokens_BxL: jax.Array) -> jax.Array:
    """Where words begin, (B, L) bool; the first token of a row begins what is there of its word."""
    joined = jnp.asarray(words.joins)[tokens_BxL[:, :-1]]
    joined = jnp.pad(joined, ((0, 0), (1, 0)))
    return jnp.asarray(words.begins)[tokens_BxL] | ~joined


def mask_words(
    words: Words, keys_B: jax.Array, tokens_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The text with 15 % of its words hidden, (B, L) int32, and which tokens those are, bool.

    Of the chosen words 80 % are masked, 10 % stay, and 10 % become random tokens.
    """
    length = tokens_BxL.shape[1]
    places = jnp.arange(length)
    first = jax.lax.cummax(jnp.where(word_starts(words, tokens_BxL), places, 0), axis=1)
    drawn_Bx2xL = jax.vmap(lambda key: jax.random.uniform(key, (2, length)))(keys_B)
    chosen, fate = jnp.take_along_axis(drawn_Bx2xL, first[:, None], axis=2).swapaxes(0, 1)
    chosen = (chosen < SHARE) & (tokens_BxL != words.end_of_text)
    random = jax.vmap(
        lambda key: jax.random.randint(jax.random.fold_in(key, 1), (length,), 0, len(words.begins))
    )(keys_B)
    hidden = jnp.where(fate < MASKED, words.mask, tokens_BxL)
    hidden = jnp.where(fate >= MASKED + KEPT, random, hidden)
    return jnp.where(chosen, hidden, tokens_BxL), chosen


def most_masked(length: int) -> int:
    """How many tokens of a row are predicted at most: more are hardly ever masked."""
    return min(length, length // 4 + 8)
