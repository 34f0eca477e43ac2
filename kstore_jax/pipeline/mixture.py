"""What pretraining reads: biographies, and windows of other sources mixed in."""

from collections.abc import Mapping

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import concatenate
from kstore_jax.corpus.sampler import (
    Epochs,
    FreshTexts,
    Mixture,
    RepeatedTexts,
    Windows,
    integer_weights,
)
from kstore_jax.corpus.shards import Corpus
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.tasks.extraction import question_rows
from kstore_jax.world.biographies import Variant
from kstore_jax.world.people import ATTRIBUTES


def pretraining_windows(
    experiment: ExperimentData, corpora: Mapping[str, Corpus], seq_len: int, seed: int
) -> Windows | Mixture:
    """The windows of an experiment; the biographies of its people are the first source.

    Args:
      corpora: the datasets of `experiment`, by name.
      seq_len: predicted tokens a window.
    """
    data, world = experiment.data, experiment.world
    share = 1.0 - data.qa_share - (data.text_share if data.text else 0.0)
    own = _epochs(experiment, corpora["shards"], experiment.variant, 0, world.people)
    sources: dict[str, tuple[Epochs, float]] = {"pass": (own, share)}  # names key the draws
    if world.celebrities and data.celebrity_share:
        first, variant = world.people, experiment.celebrity_variant
        theirs = _epochs(experiment, corpora["celebrities"], variant, first, world.celebrities)
        sources["pass"] = own, share * (1.0 - data.celebrity_share)
        sources["celebrities"] = theirs, share * data.celebrity_share
    elif world.celebrities:
        both = [
            experiment.with_end_of_text(corpora[name].texts) for name in ("shards", "celebrities")
        ]
        sources["pass"] = RepeatedTexts(concatenate(both)), share
    if data.qa_share:
        trained = np.flatnonzero(np.repeat(experiment.qa_train_mask, len(ATTRIBUTES)))
        answered = question_rows(experiment.table, experiment.everyone)
        questions = experiment.with_end_of_text(answered).take(trained)
        sources["questions"] = RepeatedTexts(questions), data.qa_share
    if data.text:
        text = experiment.with_end_of_text(corpora["text"].texts)
        sources["text"] = RepeatedTexts(text), data.text_share
    windows = tuple(
        Windows(epochs, seq_len, seed, purpose) for purpose, (epochs, _) in sources.items()
    )
    if len(windows) == 1:
        return windows[0]
    return Mixture(windows, integer_weights([share for _, share in sources.values()]), seed)


def _epochs(
    experiment: ExperimentData, corpus: Corpus, variant: Variant, first: int, size: int
) -> Epochs:
    if not variant.fresh:
        return RepeatedTexts(experiment.with_end_of_text(corpus.texts))
    source = experiment.table, experiment.world.seed, variant, first, size
    return FreshTexts(lambda epoch: experiment.with_end_of_text(shards.fresh_epoch(*source, epoch)))


def exposures(experiment: ExperimentData, windows: Windows | Mixture, count: int) -> float:
    """How often each person is read about in the first `count` windows; of fresh text, by the
    length of its first epoch."""
    share = 1.0
    if isinstance(windows, Mixture):
        share = windows.weights[0] / sum(windows.weights)
        windows = windows.sources[0]
    epochs = count * share * windows.seq_len / windows.epochs.tokens_before(1)
    return epochs * experiment.variant.biographies_per_person
