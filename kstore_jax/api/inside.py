"""The inside of a model that reads one text: hidden states, attention patterns, patches."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError, shown
from kstore_jax.model.forward import Params, forward, unembed
from kstore_jax.model.taps import Patch, Taps
from kstore_jax.model.transformer import Shape

Positions = int | range | slice | Sequence[int]
Patches = Mapping[tuple[str, Any], Any]
"""(`embedding` or `block_0` and so on, `Positions`) -> values."""

_ROUND = 16
"""Lengths of texts are rounded up to this, so that few shapes are compiled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    """What a model computes for the L tokens of a text.

    Attributes:
      tokens: (L,) int32; the first one is the end of text, which begins each text.
      logits: (L, V) float32: of the token after each position, or of the token there in a
        bidirectional model.
      hidden: (layers + 1, L, D) float32: the residual stream. Entry 0 is the embedding's output,
        entry i + 1 follows block i; the last one is before the final norm.
      attention: (layers, H, L, L) float32: the weights of each query position, which sum to 1.
      vocabulary: the tokens of the model.

    `hidden` and `attention` have no layers where they were not asked for.
    """

    tokens: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray
    attention: np.ndarray
    vocabulary: Vocabulary = dataclasses.field(repr=False)

    @functools.cached_property
    def _ends(self) -> list[int]:
        """The end of each token in the text, in characters."""
        return [len(self.vocabulary.decode(self.tokens[: i + 1])) for i in range(len(self.tokens))]

    @functools.cached_property
    def token_texts(self) -> list[str]:
        """The text of each token."""
        text, starts = self.vocabulary.decode(self.tokens), [0, *self._ends]
        return [text[start:end] for start, end in zip(starts, self._ends, strict=False)]

    def find(self, text: str) -> range:
        """Returns the positions of the tokens that the first occurrence of a text has a part of.

        Raises:
          UserError: it does not occur.
        """
        start = self.vocabulary.decode(self.tokens).find(text)
        if start < 0 or not text:
            raise UserError(f"find: {shown(text)} is not in the text that the model read")
        ends = np.array(self._ends)
        first, last = (np.searchsorted(ends, at, "right") for at in (start, start + len(text) - 1))
        return range(int(first), int(last) + 1)


def run_inside(
    shape: Shape,
    params: Params,
    vocabulary: Vocabulary,
    tokens: np.ndarray,
    hidden: bool,
    attention: bool,
    patch: Patches,
) -> Inside:
    """Runs a model on the tokens (L,) of one text; the other arguments are those of `Model.run`.

    The patches of all points are inputs of the compiled program, so that another patch compiles
    nothing, and a patch with what is there already changes nothing.
    """
    length = len(tokens)
    longest = shape.longest_text[1] if shape.longest_text else length + _ROUND
    padded = np.full((1, max(length, min(longest, -(-length // _ROUND) * _ROUND))), tokens[0])
    padded[0, :length] = tokens
    taps = Taps(
        tuple(range(shape.layers + 1)),
        tuple(range(shape.layers)) if attention else (),
        _patches(shape, patch, length, padded.shape[1]),
    )
    lengths = jnp.full(1, length, jnp.int32)
    last, tapped = forward(shape, params, jnp.asarray(padded, jnp.int32), lengths, taps=taps)
    residual = np.asarray(tapped.residual[:, 0, :length].astype(jnp.float32))
    return Inside(
        tokens,
        np.asarray(unembed(shape, params, last)[0, :length, : vocabulary.size]),
        residual if hidden else residual[:0],
        np.asarray(tapped.attention[:, 0, :, :length, :length]),
        vocabulary,
    )


def _patches(shape: Shape, patch: Patches, length: int, padded: int) -> dict[int, Patch]:
    """A patch for each point of the residual stream of a text, padded to `padded` positions."""
    names = ["embedding", *(f"block_{i}" for i in range(shape.layers))]  # by point
    values = np.zeros((len(names), 1, padded, shape.width), np.float32)
    mask = np.zeros((len(names), 1, padded), bool)
    for key, given in patch.items():
        if not isinstance(key, tuple) or len(key) != 2:
            raise UserError(f"patch: expected keys (block, positions), got {shown(key)}")
        name, positions = key
        if name not in names:
            expected = f"expected embedding or block_0 to {names[-1]}"
            raise UserError(f"patch: {expected}, got {shown(name)}")
        point, field = names.index(name), f"patch: {name}"
        where = _positions(positions, length, field)
        values[point, 0, where] = _values(given, (*where.shape, shape.width), field)
        mask[point, 0, where] = True
    return {i: Patch(jnp.asarray(values[i]), jnp.asarray(mask[i])) for i in range(len(names))}


def _positions(positions: Positions, length: int, field: str) -> np.ndarray:
    """Positions of a text as an array of ints: () for one, else (P,)."""
    if isinstance(positions, slice):
        ends = [end for end in (positions.start, positions.stop) if end is not None]
        if all(isinstance(end, int) and -length <= end <= length for end in ends):
            return np.arange(length)[positions]
    else:
        where = np.asarray(positions, np.intp if positions == () else None)
        whole = np.issubdtype(where.dtype, np.integer) and where.ndim < 2
        if whole and (where >= -length).all() and (where < length).all():
            return where
    raise UserError(f"{field}: expected positions below {length}, got {shown(positions)}")


def _values(given: Any, expected: tuple[int, ...], field: str) -> np.ndarray:
    try:
        values = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise UserError(f"{field}: expected numbers {expected}, got {shown(given)}") from None
    if values.shape != expected:
        raise UserError(f"{field}: expected values {expected}, got {values.shape}")
    return values
