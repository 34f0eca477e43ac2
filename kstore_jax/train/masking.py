"""Whole-word masking for bidirectional models (Part 3.1, section 7).

The masked words of a row are a function of the row's key, computed on the device.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

CHOSEN_FRACTION = 0.15  # of the words are chosen
MASKED_FRACTION, UNCHANGED_FRACTION = 0.8, 0.1  # of the chosen words; the rest become random tokens


@dataclasses.dataclass(frozen=True, eq=False)
class WordMasking:
    """Word boundaries in a vocabulary of V tokens, and its special tokens.

    Attributes:
      begins: (V,) bool: whether a token always begins a word.
      joins: (V,) bool: whether the next token continues its word, unless that one begins a word.
      end_of_text: a token that is never masked.
      mask: the token that replaces a masked one.
    """

    starts_word: np.ndarray
    joins_next: np.ndarray
    end_of_text: int
    mask: int


def word_starts(words: WordMasking, tokens_BxL: jax.Array) -> jax.Array:
    """Tokens that begin a word, (B, L) bool; the first token of a row always does."""
    joined = jnp.asarray(words.joins_next)[tokens_BxL[:, :-1]]
    joined = jnp.pad(joined, ((0, 0), (1, 0)))
    return jnp.asarray(words.starts_word)[tokens_BxL] | ~joined


def mask_words(
    words: WordMasking, keys_B: jax.Array, tokens_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Chooses 15 % of the words: 80 % of these are masked, 10 % stay, 10 % become random tokens.

    Returns: the resulting tokens (B, L) int32, and which tokens were chosen (B, L) bool.
    """
    length = tokens_BxL.shape[1]
    positions = jnp.arange(length)
    first = jax.lax.cummax(jnp.where(word_starts(words, tokens_BxL), positions, 0), axis=1)
    drawn_Bx2xL = jax.vmap(lambda key: jax.random.uniform(key, (2, length)))(keys_B)
    chosen, fate = jnp.take_along_axis(drawn_Bx2xL, first[:, None], axis=2).swapaxes(0, 1)
    chosen = (chosen < CHOSEN_FRACTION) & (tokens_BxL != words.end_of_text)
    random = jax.vmap(
        lambda key: jax.random.randint(
            jax.random.fold_in(key, 1), (length,), 0, len(words.starts_word)
        )
    )(keys_B)
    hidden = jnp.where(fate < MASKED_FRACTION, words.mask, tokens_BxL)
    hidden = jnp.where(fate >= MASKED_FRACTION + UNCHANGED_FRACTION, random, hidden)
    return jnp.where(chosen, hidden, tokens_BxL), chosen


def max_predictions(length: int) -> int:
    """The largest number of predicted tokens a row; more are hardly ever masked."""
    return min(length, length // 4 + 8)
