"""The size of each row of a sweep: steps, exposures and parameters."""

from collections.abc import Sequence
from typing import NamedTuple

from kstore_jax.bench import roofline
from kstore_jax.pipeline.context import build_context, vocabulary_needs_corpora
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import windows_per_exposure


class RowSize(NamedTuple):
    """The size of a row of a sweep.

    Attributes:
      steps: of pretraining.
      exposures: how often it reads the facts of each person.
      parameters: of the model; None where its vocabulary depends on datasets not written yet.
    """

    steps: int
    exposures: float
    parameters: int | None

    @staticmethod
    def format(sizes: Sequence["RowSize"]) -> str:
        """A line with the least and the most of these rows."""
        steps = [f"{size.steps:,}" for size in sorted(sizes)]
        exposures = [f"{number:.4g}" for number in sorted(size.exposures for size in sizes)]
        parameters = [f"{n:,}" for n in sorted(size.parameters or 0 for size in sizes) if n]
        return (
            f"pretraining: {_range(steps)} steps, {_range(exposures)} exposures, "
            f"{_range(parameters) or '?'} parameters"
        )


def _range(ascending: Sequence[str]) -> str:
    """The first and the last text, once where they are equal."""
    return " to ".join(dict.fromkeys([*ascending[:1], *ascending[-1:]]))


def row_size(graph: ExperimentGraph) -> RowSize:
    """The steps, exposures and parameters of an experiment. Writes its biographies, to count their
    tokens.

    Raises:
      UserError: a share of the windows is too small.
    """
    training = graph.experiment.pretrain
    windows = training.steps * training.batch_size
    exposures = windows / windows_per_exposure(graph.data, training.seq_len)
    return RowSize(training.steps, round(exposures, 2), num_parameters(graph))


def num_parameters(graph: ExperimentGraph) -> int | None:
    """The parameters of the model; None where its vocabulary depends on datasets that are not
    written yet."""
    written = [graph.cache.result(stage) is not None for stage in graph.datasets.values()]
    if vocabulary_needs_corpora(graph) and not all(written):
        return None
    return roofline.num_parameters(build_context(graph).shape)
