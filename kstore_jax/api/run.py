"""A finished run: its rows and its models."""

import pathlib
from collections.abc import Sequence

from kstore_jax.api.model import Model
from kstore_jax.api.world import World
from kstore_jax.errors import UserError, user_path
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import labels, read_graphs, row_number

MODELS = ("pretrained", "finetuned")


def load(folder: str | pathlib.Path) -> "Run":
    """Returns the run in a folder that `kstore run` or `kstore sweep` wrote. Nothing is trained.

    Raises:
      UserError: it is not the folder of a run.
    """
    return Run(user_path(str(folder)))


class Run:
    """A run. Each method takes a row by its number, its name or the beginning of its name.

    Attributes:
      folder: its folder.
      names: the label of each row, such as `multi5+permute, seed 0`.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._graphs = read_graphs(folder)
        self.names: Sequence[str] = labels([graph.experiment for graph in self._graphs])

    def world(self, row: int | str = 0) -> World:
        """Returns the world of a row; celebrities come after the other people."""
        return World.of(self._graph(row).experiment.world)

    def variant(self, row: int | str = 0) -> str:
        """Returns how the biographies of a row are written.

        Raises:
          UserError: another model wrote them (`data.rewritten`), so no variant does.
        """
        data = self._graph(row).experiment.data
        if data.rewritten:
            raise UserError(f"data.rewritten: no template writes the texts of {data.rewritten}")
        return data.variant

    def model(self, row: int | str = 0, stage: str = "finetuned") -> Model:
        """Returns a model of a row, on the devices of this machine.

        Args:
          stage: `pretrained`, or `finetuned`: the one that answers questions.

        Raises:
          NotFinished: the model is not trained yet; names the stage and the command.
          UserError: there is no such row or stage, or the run finetunes no model.
        """
        if stage not in MODELS:
            raise UserError(f"stage: expected pretrained or finetuned, got {stage!r}")
        graph = self._graph(row)
        if stage == "finetuned" and not graph.has_finetuned:
            raise UserError(f"stage: expected pretrained, since {self.folder} finetunes no model")
        context = build_context(graph, to_read=True)
        params = context.finetuned if stage == "finetuned" else context.pretrained
        return Model(
            self.names[self._graphs.index(graph)], context.shape, params, context.vocabulary
        )

    def _graph(self, row: int | str) -> ExperimentGraph:
        return self._graphs[row_number(self._graphs, str(row), "row")]
