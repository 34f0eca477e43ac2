"""Benchmark of answering: questions a second."""

import jax
import numpy as np

from kstore_jax.bench.data import median_rates
from kstore_jax.bench.train import temporary_context
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.model import forward
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.readouts.spans import span_hits

_QUESTIONS = 2048


def measure_qa(experiment: Experiment) -> dict[str, float | int | str]:
    """Measures questions answered a second, by an untrained model, which takes as long as a trained
    one."""
    with temporary_context(experiment) as context:
        shape, columns = context.shape, vars(context.questions()[1])
    params = forward.init(shape, jax.random.key(0))
    questions = SpanExamples(**{name: column[:_QUESTIONS] for name, column in columns.items()})

    def answer(_: int) -> np.ndarray:
        return np.array([len(span_hits(shape, params, questions)[0])])

    return {
        "questions_per_s": round(float(median_rates(answer)[0]), 1),
        "questions": len(questions),
        "tokens_each": questions.tokens.shape[1],
        "device": jax.devices()[0].platform,
        "device_kind": jax.devices()[0].device_kind,
        "dtype": shape.dtype,
    }
