"""A finished run: its rows and its models."""

import pathlib
from collections.abc import Sequence

from kstore_jax.api.model import Model
from kstore_jax.api.world import World
from kstore_jax.errors import UserError, nearest
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import read_graphs

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
        self._graphs = read_graphs(folder)

    @property
    def names(self) -> Sequence[str]:
        """The name of each row, in order: `NAME, seed N`, where NAME is the variant unless the row
        has a name of its own."""
        return [_name(graph) for graph in self._graphs]

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
        graph = self._graph(row)
        context = build_context(graph)
        params = context.finetuned if stage == "finetuned" else context.pretrained
        return Model(_name(graph), context.shape, params, context.vocabulary)

    def _graph(self, row: int | str) -> ExperimentGraph:
        """The row with a number, a name, or the only one whose name begins so."""
        if str(row).isdigit():
            if int(row) >= len(self._graphs):
                raise UserError(f"row: expected less than {len(self._graphs)}, got {row}")
            return self._graphs[int(row)]
        names = self.names
        for fits in (str.__eq__, lambda name, row: name.startswith(f"{row},"), str.startswith):
            numbers = [i for i, name in enumerate(names) if fits(name, str(row))]
            if len(numbers) == 1:
                return self._graphs[numbers[0]]
            if numbers:
                several = ", ".join(names[i] for i in numbers)
                raise UserError(f"row: {row!r} is the start of several names: {several}")
        raise UserError(f"row: no row {row!r}{nearest(str(row), names)}")


def _name(graph: ExperimentGraph) -> str:
    experiment = graph.experiment
    return f"{experiment.name or experiment.data.variant}, seed {experiment.seed}"
