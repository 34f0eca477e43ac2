"""Question answering: exact match on trained and held-out people (Part 3.1, section 2.3)."""

import numpy as np

from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model.forward import Params
from kstore_jax.readouts import decode, spans
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.extraction import accuracy_by_attribute, majority_baseline
from kstore_jax.world.people import ATTRIBUTES
from kstore_jax.world.questions import TRAINED_WORDING

VERSION = 1


def evaluate_questions(context: Context, params: Params, beam_size: int) -> dict:
    """Scores a model's answers to the questions about everyone, in every wording.

    Args:
      beam_size: more than 1: the answers of a beam search are scored, too.

    Returns: shares from 0 to 1, by attribute. `train` and `test` people each have `exact` match,
      `first` tokens and, with a beam search, `beam` in the trained wording; `wordings` has their
      exact match in each other wording; `baseline` is the majority guess.
    """
    questions = context.questions()
    exact, first = _answer_hits(context, params, questions)
    wordings = range(TRAINED_WORDING + 1, context.table.language.questions.shape[1])
    reworded = [_answer_hits(context, params, context.questions(w))[0] for w in wordings]
    hits = {"exact": exact, "first": first}
    if beam_size > 1:
        generated = generate_answers(context, params, questions, beam_size)
        hits["beam"] = decode.exact_match(generated, questions).reshape(exact.shape)
    groups = {"train": context.qa_train_mask, "test": ~context.qa_train_mask}
    scores: dict = {
        group: {name: accuracy_by_attribute(x[members]) for name, x in hits.items()}
        for group, members in groups.items()
    }
    scores["wordings"] = {
        group: [accuracy_by_attribute(x[members]) for x in reworded]
        for group, members in groups.items()
    }
    baseline = majority_baseline(context.everyone.values, context.qa_train_mask)
    return {**scores, "baseline": baseline}


def generate_answers(
    context: Context, params: Params, examples: SpanExamples, beam_size: int
) -> np.ndarray:
    """The answers a model gives, (N, K) int32, padded with the end of text.

    A causal model searches with `beam_size` beams; a bidirectional one fills in the masks.
    """
    end = context.vocabulary.end_of_text
    if context.mask_token is not None:
        tokens = spans.predict(context.shape, params, examples)[:, 0]
        return np.where(examples.weights[:, 0] > 0, tokens, end)
    vocab_size = context.vocabulary.size
    return decode.generate(context.shape, params, examples, end, vocab_size, beam_size)


def _answer_hits(
    context: Context, params: Params, questions: SpanExamples
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer is right, and whether its first token is: (everyone, 6) bool both."""
    exact, first = spans.span_hits(context.shape, params, questions)
    return exact.reshape(-1, len(ATTRIBUTES)), first.reshape(-1, len(ATTRIBUTES))
