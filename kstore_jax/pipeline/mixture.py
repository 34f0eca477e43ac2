"""The windows that pretraining reads: biographies, and other texts mixed in by share."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, concatenate
from kstore_jax.corpus.fresh import fresh_block
from kstore_jax.corpus.sampler import (
    Epochs,
    FreshTexts,
    Mixture,
    RepeatedTexts,
    Windows,
    integer_weights,
)
from kstore_jax.corpus.shards import Corpus, DatasetSpec
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.tasks.base import TASKS
from kstore_jax.world.biographies import Variant


def pretraining_windows(
    data: ExperimentData, read: Callable[[str], Corpus], tasks: Any, seq_len: int, seed: int
) -> Windows | Mixture:
    """The windows of an experiment; the biographies of its people are the first source.

    Args:
      read: reads the dataset of a kind, one of those of `data`; of fresh text none is read.
      tasks: the configuration of each task.
      seq_len: predicted tokens a window.
      seed: of the order of texts and sources.
    """
    config, shares = data.data, _shares(data)
    epochs = _biographies(data, read)
    if "questions" in shares:
        questions = [_trained_questions(data, tasks, task) for task in config.tasks]
        epochs["questions"] = RepeatedTexts(concatenate(questions))
    if "text" in shares:
        epochs["text"] = RepeatedTexts(data.with_end_of_text(read("text").texts))
    windows = tuple(Windows(epochs[purpose], seq_len, seed, purpose) for purpose in shares)
    if len(windows) == 1:
        return windows[0]
    return Mixture(windows, integer_weights([*shares.values()]), seed)


def _shares(data: ExperimentData) -> dict[str, float]:
    """The share of the windows of each source. Names are purposes of draws. The biographies of the
    people are first: `pass`, with the celebrities' unless those are a source of their own."""
    config = data.data
    text_share = config.text_share if config.text else 0.0
    share, celebrities = 1.0 - config.qa_share - text_share, config.celebrity_share
    shares = {"pass": share * (1.0 - celebrities) if celebrities else share}
    if celebrities:
        shares["celebrities"] = share * celebrities
    if config.qa_share:
        shares["questions"] = config.qa_share
    if config.text:
        shares["text"] = text_share
    return shares


def _trained_questions(data: ExperimentData, tasks: Any, task: str) -> TokenizedTexts:
    """The answered questions of a task about the people whose questions are trained."""
    people, seed = data.everyone, data.world.seed
    items = TASKS[task].items(data.table, people, getattr(tasks, task), seed, wording=0)
    return data.with_end_of_text(items.texts).take(np.flatnonzero(items.about(data.qa_train_mask)))


def _biographies(data: ExperimentData, read: Callable[[str], Corpus]) -> dict[str, Epochs]:
    """Biographies of the people, and of celebrities: with `data.celebrity_share` as a source of
    their own, or else among the other biographies."""
    world = data.world
    if world.celebrities and not data.data.celebrity_share:
        both = data.marked(read("shards").texts), read("celebrities").texts
        return {"pass": RepeatedTexts(concatenate([*map(data.with_end_of_text, both)]))}
    if data.variant.fresh:
        people = _fresh(data, data.variant, 0, world.people, data.marked)
    else:
        people = RepeatedTexts(data.with_end_of_text(data.marked(read("shards").texts)))
    if not world.celebrities:
        return {"pass": people}
    if (variant := data.celebrity_variant).fresh:
        celebrities = _fresh(data, variant, world.people, world.celebrities)
    else:
        celebrities = RepeatedTexts(data.with_end_of_text(read("celebrities").texts))
    return {"pass": people, "celebrities": celebrities}


def _fresh(
    data: ExperimentData,
    variant: Variant,
    first: int,
    size: int,
    changed: Callable[[TokenizedTexts], TokenizedTexts] = lambda texts: texts,
) -> FreshTexts:
    """Biographies of people first .. first + size - 1, drawn anew for every epoch.

    Args:
      changed: what becomes of the texts of a block.
    """
    source = data.table, data.world.seed, variant, first, size
    return FreshTexts(lambda block: data.with_end_of_text(changed(fresh_block(*source, block))))


def exposures(data: ExperimentData, windows: Windows | Mixture, count: int) -> float:
    """How often the first `count` windows state the facts of each person; a text of fresh text
    counts as long as the mean of the first block."""
    share = 1.0
    if isinstance(windows, Mixture):
        share = windows.weights[0] / sum(windows.weights)
        windows = windows.sources[0]
    if data.variant.fresh:
        once = _tokens_of_epoch(windows.epochs, data.world.people)
    else:
        once = windows.epochs.tokens_before(1) / data.variant.biographies_per_person
    return count * share * windows.seq_len / once


def windows_per_exposure(data: ExperimentData, seq_len: int) -> float:
    """The number of windows that state the facts of each person once, as `exposures` counts. Writes
    the biographies, to count their tokens, and reads no dataset."""
    weights = integer_weights([*_shares(data).values()])
    config, world = data.data, data.world
    if data.variant.fresh:
        texts = _fresh(data, data.variant, 0, world.people, data.marked)
        once = _tokens_of_epoch(texts, world.people)
    else:
        together = world.celebrities and not config.celebrity_share
        tokens = sum(map(_num_tokens, _of_people(data, bool(together))))
        once = tokens / data.variant.biographies_per_person + config.marker * world.people
    return once / seq_len * sum(weights) / weights[0]


def _tokens_of_epoch(fresh: Epochs, people: int) -> float:
    """The tokens of an epoch of fresh text, by the mean length of the texts in its first block."""
    first = fresh.read(0)
    return people * int(first.offsets[-1]) / len(first)


def _of_people(data: ExperimentData, with_celebrities: bool) -> list[DatasetSpec]:
    """The datasets that the first source reads."""
    return [data.datasets[name] for name in ("shards", "celebrities")[: 1 + with_celebrities]]


_counted: dict[str, int] = {}  # the tokens of datasets, by their configuration


def _num_tokens(dataset: DatasetSpec) -> int:
    """The number of tokens of a dataset, with an end of text after each text."""
    key = json.dumps(dataset.config, sort_keys=True)
    if key not in _counted:
        blocks = (block.texts for part in dataset.parts() for block in part())
        _counted[key] = sum(int(texts.offsets[-1]) + len(texts) for texts in blocks)
    return _counted[key]
