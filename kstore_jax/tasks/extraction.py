"""Knowledge extraction: the six questions about a person (Part 3.1, section 2.3)."""

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, encode_questions
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.world.people import ATTRIBUTES, People
from kstore_jax.world.questions import TRAINED_WORDING, write_questions


def question_rows(
    table: TokenTable, people: People, wording: int = TRAINED_WORDING
) -> TokenizedTexts:
    """The answered questions about people; row 6 i + a asks for attribute a of person i."""
    who = np.repeat(np.arange(len(people)), len(ATTRIBUTES))
    attributes = np.tile(np.arange(len(ATTRIBUTES)), len(people))
    return encode_questions(
        table, write_questions(table.language, people.take(who), attributes, wording)
    )


def question_examples(
    table: TokenTable,
    people: People,
    vocabulary: Vocabulary,
    wording: int = TRAINED_WORDING,
    mask_token: int | None = None,
) -> SpanExamples:
    """The questions as examples whose answer tokens are predicted.

    A causal model predicts the answer and the end of text after it. With a `mask_token` each answer
    token is hidden and predicted at its own position.
    """
    rows = question_rows(table, people, wording)
    spans = rows.value_spans.copy()
    if mask_token is None:
        spans[..., 1] += 1
    closed = with_end_of_text(rows, table.tokenizer.end_of_text)
    return span_examples(closed, spans, vocabulary, mask_token)


def accuracy_by_attribute(right: np.ndarray) -> dict[str, float]:
    """The share of `right` (N, 6) bool for each attribute, and their mean."""
    shares = {name: float(right[:, a].mean()) for a, name in enumerate(ATTRIBUTES)}
    return {"mean": float(np.mean(list(shares.values()))), **shares}


def majority_baseline(values: np.ndarray, qa_train_mask: np.ndarray) -> dict[str, float]:
    """The share of held-out `values` (people, 6) that equal the trained half's commonest, for each
    attribute, and their mean."""
    baseline = {
        name: majority_share(values[qa_train_mask, a], values[~qa_train_mask, a])
        for a, name in enumerate(ATTRIBUTES)
    }
    return {"mean": float(np.mean(list(baseline.values()))), **baseline}


def majority_share(trained: np.ndarray, held_out: np.ndarray) -> float:
    """The share of `held_out` (N,) that equals the most frequent element of `trained` (M,)."""
    values, counts = np.unique(trained, return_counts=True)
    return float(np.mean(held_out == values[counts.argmax()]))
