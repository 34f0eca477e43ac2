"""A finished run: its rows and its models."""

import pathlib
from collections.abc import Sequence

from kstore_jax.api.model import Model
from kstore_jax.api.world import World
from kstore_jax.errors import UserError
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import labels, select_graphs

STAGES = ("pretrained", "finetuned")


def load(folder: str | pathlib.Path) -> "Run":
    """Returns the run in a folder that `kstore run` or `kstore sweep` wrote. Nothing is trained.

    Raises:
      UserError: it is not the folder of a run.
    """
    return Run(pathlib.Path(folder).expanduser())


class Run:
    """A run.

    Attributes:
      folder: its folder.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        graphs = select_graphs(folder, None)
        self._names = labels({number: graph.experiment for number, graph in graphs.items()})

    @property
    def names(self) -> Sequence[str]:
        """The label of each row, such as `multi5+permute, seed 0`."""
        return [*self._names.values()]

    def world(self, row: int | str = 0) -> World:
        """Returns the world of a row; celebrities come after the other people."""
        return World.of(self._graph(row).experiment.world)

    def variant(self, row: int | str = 0) -> str:
        """Returns how the biographies of a row are written."""
        return self._graph(row).experiment.data.variant

    def model(self, row: int | str = 0, stage: str = "finetuned") -> Model:
        """Returns a model of a row.

        Args:
          row: its number, or its name or the start of it.
          stage: `pretrained`, or `finetuned`: the one that answers questions.

        Raises:
          NotFinished: the model is not trained yet; names the stage and the command.
          UserError: there is no such row or stage.
        """
        if stage not in STAGES:
            raise UserError(f"stage: expected pretrained or finetuned, got {stage!r}")
        ((number, graph),) = select_graphs(self.folder, str(row)).items()
        context = build_context(graph)
        params = context.finetuned if stage == "finetuned" else context.pretrained
        return Model(self._names[number], context.shape, params, context.vocabulary)

    def _graph(self, row: int | str) -> ExperimentGraph:
        (graph,) = select_graphs(self.folder, str(row)).values()
        return graph
