"""What is read in pretraining: biographies, and what is mixed in by whole windows."""

import numpy as np

from kstore_jax.corpus import shards
from kstore_jax.corpus.encode import joined
from kstore_jax.corpus.sampler import Fresh, Mixture, Passes, Repeated, Windows, weights_of
from kstore_jax.corpus.shards import Corpus
from kstore_jax.pipeline.data import Materials
from kstore_jax.world.biographies import Variant
from kstore_jax.world.people import ATTRIBUTES


def pretraining_windows(
    materials: Materials, corpora: dict[str, Corpus], length: int, seed: int
) -> Windows | Mixture:
    """The windows of an experiment, those of the people's biographies first.

    Args:
      corpora: the datasets of `materials`, by name.
      length: predicted tokens a window.
    """
    m, data, world = materials, materials.data, materials.world
    share = 1.0 - data.qa_share - (data.text_share if data.text else 0.0)
    own = _passes(m, corpora["shards"], m.variant, 0, world.people)
    sources: dict[str, tuple[Passes, float]] = {"pass": (own, share)}
    if world.celebrities and data.celebrity_share:
        theirs = _passes(
            m, corpora["celebrities"], m.celebrity_variant, world.people, world.celebrities
        )
        sources["pass"] = own, share * (1.0 - data.celebrity_share)
        sources["celebrities"] = theirs, share * data.celebrity_share
    elif world.celebrities:
        both = [m.closed(corpora[name].rows) for name in ("shards", "celebrities")]
        sources["pass"] = Repeated(joined(both)), share
    if data.qa_share:
        taught = np.flatnonzero(np.repeat(m.taught, len(ATTRIBUTES)))
        questions = m.closed(m.question_rows()).rows(taught)
        sources["questions"] = Repeated(questions), data.qa_share
    if data.text:
        sources["text"] = Repeated(m.closed(corpora["text"].rows)), data.text_share
    windows = tuple(
        Windows(passes, length, seed, purpose) for purpose, (passes, _) in sources.items()
    )
    if len(windows) == 1:
        return windows[0]
    return Mixture(windows, weights_of([share for _, share in sources.values()]), seed)


def _passes(
    materials: Materials, corpus: Corpus, variant: Variant, first: int, size: int
) -> Passes:
    if not variant.fresh:
        return Repeated(materials.closed(corpus.rows))
    how = materials.table, materials.world.seed, variant, first, size
    return Fresh(lambda number: materials.closed(shards.fresh(*how, number)))


def exposures(materials: Materials, windows: Windows | Mixture, count: int) -> float:
    """How often each of the people was read about in the first `count` windows; of fresh text, by
    the length of its first pass."""
    share = 1.0
    if isinstance(windows, Mixture):
        share = windows.weights[0] / sum(windows.weights)
        windows = windows.sources[0]
    passes = count * share * windows.length / windows.passes.start(1)
    return passes * materials.variant.entries
