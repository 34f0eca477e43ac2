"""The size of each row of a sweep: steps, exposures, parameters, bits to know and memory."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax

from kstore_jax.pipeline.context import build_context, vocabulary_needs_corpora
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.mixture import windows_per_exposure
from kstore_jax.pipeline.train_memory import TrainMemory, train_memory
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.capacity import most_bits_per_parameter
from kstore_jax.train.flops import num_parameters


class RowSize(NamedTuple):
    """The size of a row of a sweep.

    Attributes:
      steps: of pretraining.
      exposures: how often it reads the facts of each person.
      parameters: of the model; None where its vocabulary depends on datasets not written yet.
      most_bits: all there is to know about the people, in bits a parameter (`capacity`); likewise.
      memory: of pretraining, where it is known.
    """

    steps: int
    exposures: float
    parameters: int | None = None
    most_bits: float | None = None
    memory: TrainMemory | None = None

    def as_json(self) -> dict:
        """The size as plain JSON, with the bytes of `memory` by name."""
        return {**self._asdict(), "memory": self.memory._asdict() if self.memory else None}

    @staticmethod
    def format(sizes: Sequence["RowSize"]) -> list[str]:
        """Lines with the least and the most of these rows."""
        steps = [f"{number:,}" for number in sorted(size.steps for size in sizes)]
        exposures = [f"{number:.4g}" for number in sorted(size.exposures for size in sizes)]
        parameters = [f"{n:,}" for n in sorted(size.parameters or 0 for size in sizes) if n]
        most = [f"{bits:.3g}" for bits in sorted(size.most_bits or 0.0 for size in sizes) if bits]
        return [
            f"pretraining: {_range(steps)} steps, {_range(exposures)} exposures, "
            f"{_range(parameters) or '?'} parameters",
            f"facts to know: {_range(most) or '?'} bits a parameter",
        ]


def row_memory(graph: ExperimentGraph, on: str = "") -> TrainMemory | None:
    """The memory of pretraining on each device of this machine, or of several accelerators `on`
    that are not here; None where the vocabulary is not known yet."""
    if (context := known_context(graph)) is None:
        return None
    e, shape = graph.experiment, context.shape
    flash = shape.attention in ("cudnn", "splash")
    mesh = e.mesh
    if on:
        half, flash = "bfloat16", not shape.attention_dropout
        shape = dataclasses.replace(shape, dtype=half, activation_dtype=half)
    elif not mesh.data:
        mesh = dataclasses.replace(mesh, data=jax.device_count() // (mesh.fsdp * mesh.tensor))
    return train_memory(shape, e.pretrain, mesh, flash)


def _range(ascending: Sequence[str]) -> str:
    """The first and the last text, once where they are equal."""
    return " to ".join(dict.fromkeys([*ascending[:1], *ascending[-1:]]))


def row_size(graph: ExperimentGraph) -> RowSize:
    """The size of an experiment. Writes its biographies, to count their
    tokens.

    Raises:
      UserError: a share of the windows is too small.
    """
    training = graph.experiment.pretrain
    windows = training.steps * training.batch_size
    exposures = windows / windows_per_exposure(graph.data, training.seq_len)
    steps, exposures = training.steps, round(exposures, 2)
    if (context := known_context(graph)) is None:
        return RowSize(steps, exposures)
    most_bits = most_bits_per_parameter(context)
    return RowSize(steps, exposures, num_parameters(context.shape), most_bits)


def known_context(graph: ExperimentGraph) -> Context | None:
    """The context of a row; None where its vocabulary depends on datasets that are not written
    yet."""
    written = [graph.cache.result(stage) is not None for stage in graph.datasets.values()]
    if vocabulary_needs_corpora(graph) and not all(written):
        return None
    return build_context(graph, to_read=True)
