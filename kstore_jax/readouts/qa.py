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
    """Scores a model's answers about everyone in every wording.

    Args:
      beam_size: more than 1 adds the answers of a beam search.

    Returns: for `train` and `test` people the shares by attribute of `exact` match, of `first`
      tokens and of `beam` search in the trained wording; `wordings`: exact match in each other
      wording; `baseline`: the majority guess.
    """
    exact, first = _answer_hits(context, params, context.questions())
    trained = context.qa_train_mask
    wordings = range(TRAINED_WORDING + 1, context.table.language.questions.shape[1])
    reworded = [
        _answer_hits(context, params, context.questions(wording))[0] for wording in wordings
    ]
    scores = {"exact": exact, "first": first}
    if beam_size > 1:
        examples = context.questions()
        generated = generate_answers(context, params, examples, beam_size)
        scores["beam"] = decode.exact_match(generated, examples).reshape(exact.shape)
    return {
        "train": {name: accuracy_by_attribute(right[trained]) for name, right in scores.items()},
        "test": {name: accuracy_by_attribute(right[~trained]) for name, right in scores.items()},
        "wordings": {
            "train": [accuracy_by_attribute(right[trained]) for right in reworded],
            "test": [accuracy_by_attribute(right[~trained]) for right in reworded],
        },
        "baseline": majority_baseline(context.everyone.values, trained),
    }


def generate_answers(
    context: Context, params: Params, examples: SpanExamples, beam_size: int
) -> np.ndarray:
    """The model's own answers, (N, K) int32: by beam search or, of a bidirectional model, the
    tokens under the masks."""
    end = context.vocabulary.end_of_text
    if context.mask_token is not None:
        tokens = spans.predict(context.shape, params, examples)[:, 0]
        return np.where(examples.weights[:, 0] > 0, tokens, end)
    vocab_size = context.vocabulary.size
    return decode.generate(context.shape, params, examples, end, vocab_size, beam_size)


def _answer_hits(
    context: Context, params: Params, questions: SpanExamples
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer, and its first token, is right: (everyone, 6) bool both."""
    scores = spans.span_hits(context.shape, params, questions)
    exact, first = (right.reshape(-1, len(ATTRIBUTES)) for right in scores)
    return exact, first
