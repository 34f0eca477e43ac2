"""The windows that pretraining reads: biographies, and other texts mixed in by share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import TokenizedTexts, concatenate
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
from kstore_jax.tasks.base import TASKS
from kstore_jax.world.biographies import Variant

Sources = dict[str, tuple[Epochs, float]]
"""Name -> the texts of a source and its share of the windows. Names are purposes of draws."""


def pretraining_windows(
    data: ExperimentData, corpora: Mapping[str, Corpus], tasks: Any, seq_len: int, seed: int
) -> Windows | Mixture:
    """The windows of an experiment; the biographies of its people are the first source.

    Args:
      corpora: kind -> dataset, for each dataset of `data`.
      tasks: the configuration of each task.
      seq_len: predicted tokens a window.
      seed: of the order of texts and sources.
    """
    config = data.data
    sources = _biographies(data, corpora)
    if config.qa_share:
        questions = concatenate([_trained_questions(data, tasks, task) for task in config.tasks])
        sources["questions"] = RepeatedTexts(questions), config.qa_share
    if config.text:
        documents = data.with_end_of_text(corpora["text"].texts)
        sources["text"] = RepeatedTexts(documents), config.text_share
    windows = tuple(
        Windows(epochs, seq_len, seed, purpose) for purpose, (epochs, _) in sources.items()
    )
    if len(windows) == 1:
        return windows[0]
    return Mixture(windows, integer_weights([share for _, share in sources.values()]), seed)


def _trained_questions(data: ExperimentData, tasks: Any, task: str) -> TokenizedTexts:
    """The answered questions of a task about the people whose questions are trained."""
    people, seed = data.everyone, data.world.seed
    items = TASKS[task].items(data.table, people, getattr(tasks, task), seed, wording=0)
    return data.with_end_of_text(items.texts).take(np.flatnonzero(items.about(data.qa_train_mask)))


def _biographies(data: ExperimentData, corpora: Mapping[str, Corpus]) -> Sources:
    """Biographies of the people, and of celebrities: with `data.celebrity_share` as a source of
    their own, or else among the other biographies."""
    config, world = data.data, data.world
    share = 1.0 - config.qa_share - (config.text_share if config.text else 0.0)
    people = _epochs(data, corpora["shards"], data.variant, 0, world.people)
    if not world.celebrities:
        return {"pass": (people, share)}
    if not config.celebrity_share:
        both = [data.with_end_of_text(corpora[name].texts) for name in ("shards", "celebrities")]
        return {"pass": (RepeatedTexts(concatenate(both)), share)}
    first, variant = world.people, data.celebrity_variant
    celebrities = _epochs(data, corpora["celebrities"], variant, first, world.celebrities)
    return {
        "pass": (people, share * (1.0 - config.celebrity_share)),
        "celebrities": (celebrities, share * config.celebrity_share),
    }


def _epochs(
    data: ExperimentData, corpus: Corpus, variant: Variant, first: int, size: int
) -> Epochs:
    """The biographies of people first .. first + size - 1: of the corpus, or drawn anew for every
    epoch where the variant is fresh."""
    if not variant.fresh:
        return RepeatedTexts(data.with_end_of_text(corpus.texts))
    source = data.table, data.world.seed, variant, first, size
    return FreshTexts(lambda epoch: data.with_end_of_text(shards.fresh_epoch(*source, epoch)))


def exposures(data: ExperimentData, windows: Windows | Mixture, count: int) -> float:
    """How often the first `count` windows state the facts of each person; fresh text counts as long
    as its first epoch."""
    share = 1.0
    if isinstance(windows, Mixture):
        share = windows.weights[0] / sum(windows.weights)
        windows = windows.sources[0]
    epochs = count * share * windows.seq_len / windows.epochs.tokens_before(1)
    return epochs * data.variant.biographies_per_person
