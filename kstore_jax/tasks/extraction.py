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
    """The questions about people with their answers; row 6 i + a asks for attribute a of person
    i."""
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
    """The questions as examples with one span to predict each, the answer.

    Args:
      mask_token: None: each token of the answer, and the end of text after it, is predicted from
        the text before it. A token: it replaces the answer, and each token of the answer is
        predicted at its own position.
    """
    rows = question_rows(table, people, wording)
    spans = rows.value_spans.copy()
    if mask_token is None:
        spans[..., 1] += 1
    closed = with_end_of_text(rows, table.tokenizer.end_of_text)
    return span_examples(closed, spans, vocabulary, mask_token)


def accuracy_by_attribute(hits: np.ndarray) -> dict[str, float]:
    """The share of `hits` (N, 6) bool that is true for each attribute, and `mean`, their mean."""
    return _with_mean({name: float(hits[:, a].mean()) for a, name in enumerate(ATTRIBUTES)})


def majority_baseline(values: np.ndarray, qa_train_mask: np.ndarray) -> dict[str, float]:
    """The accuracy of guessing the most frequent value: the share of held-out people who have the
    most frequent value of the others, for each attribute, and `mean`, their mean.

    Args:
      values: (people, 6) int: values of the attributes.
      qa_train_mask: (people,) bool: people who are not held out.
    """
    trained, held_out = values[qa_train_mask], values[~qa_train_mask]
    return _with_mean(
        {name: majority_share(trained[:, a], held_out[:, a]) for a, name in enumerate(ATTRIBUTES)}
    )


def majority_share(trained: np.ndarray, held_out: np.ndarray) -> float:
    """The share of `held_out` (N,) that equals the most frequent element of `trained` (M,)."""
    values, counts = np.unique(trained, return_counts=True)
    return float(np.mean(held_out == values[counts.argmax()]))


def _with_mean(shares: dict[str, float]) -> dict[str, float]:
    return {"mean": float(np.mean(list(shares.values()))), **shares}
