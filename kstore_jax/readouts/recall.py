"""What a pretrained model recites of the biographies, and what BERT tells masked words from."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from kstore_jax.corpus.encode import TokenRows
from kstore_jax.corpus.examples import Spans, span_examples
from kstore_jax.pipeline.answering import by_attribute
from kstore_jax.readouts import qa

if TYPE_CHECKING:
    from kstore_jax.pipeline.lab import Lab

_TEXTS = 1000  # of how many it is asked what they are told from


def recall(lab: "Lab") -> dict:
    """The share of values predicted in the biographies, from the text before them, or, of a
    bidirectional model, each word from all else.

    Returns: `whole` and `first` (the first token) by attribute; of a bidirectional model `hidden`,
    `whole` by attribute with more hidden than the word that is to be told: `name`, every full name
    too; `value`, all words of the value; `values`, all words of all values, so that the name is all
    there is to tell them from.
    """
    rows = lab.corpus.rows
    whole, first = _predicted(lab, rows)
    found = {"whole": by_attribute(whole), "first": by_attribute(first)}
    if lab.mask is None:
        return found
    some = rows.rows(np.arange(0, len(rows), -(-len(rows) // _TEXTS)))
    spans = [some.value_spans[:, a : a + 1] for a in range(some.value_spans.shape[1])]
    hidden = {
        "name": _predicted(lab, some, names=False)[0],
        "value": np.concatenate([_told(lab, some, one) for one in spans], axis=1),
        "values": _told(lab, some, some.value_spans),
    }
    return {**found, "hidden": {what: by_attribute(right) for what, right in hidden.items()}}


def _predicted(lab: "Lab", rows: TokenRows, names: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value is predicted whole, and whether its first token is, with or without the
    full names in sight: (N, 6) bool both."""
    whole = np.ones(rows.value_spans.shape[:2], bool)
    first = None
    for which, examples in lab.recited(rows):
        if not names:
            examples = _without(examples, rows.name_spans[which], lab.mask)
        right, first_right = qa.span_accuracy(lab.shape, lab.pretrained, examples)
        whole[which] &= right
        first = first_right if first is None else first
    return whole, first


def _told(lab: "Lab", rows: TokenRows, spans: np.ndarray) -> np.ndarray:
    """Whether each of the spans, all of them hidden, is told whole: (N, S) bool."""
    examples = span_examples(rows, spans, lab.vocabulary, lab.mask)
    return qa.span_accuracy(lab.shape, lab.pretrained, examples)[0]


def _without(examples: Spans, spans: np.ndarray, mask: int) -> Spans:
    """The examples with `spans` (N, M, 2), counted from the start of a row, hidden."""
    places = np.arange(examples.tokens.shape[1]) - 1
    inside = (spans[..., :1] <= places) & (places < spans[..., 1:])
    return dataclasses.replace(
        examples, tokens=np.where(inside.any(1), np.int32(mask), examples.tokens)
    )
