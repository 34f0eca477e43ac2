"""A run: its rows, its results and its models."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kstore_jax.api.model import Model
from kstore_jax.api.records import Records
from kstore_jax.api.world import World
from kstore_jax.errors import UserError, user_path
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import (
    labels,
    read_cases,
    read_graphs,
    result_row,
    row_number,
    varied_fields,
)
from kstore_jax.pipeline.row import Row
from kstore_jax.readouts.base import READOUTS

MODELS = ("pretrained", "finetuned")


def load(folder: str | pathlib.Path) -> "Run":
    """Returns the run in a folder that `kstore run` or `kstore sweep` wrote. Nothing is trained.

    Raises:
      UserError: it is not the folder of a run.
    """
    return Run(user_path(str(folder)))


@dataclasses.dataclass(frozen=True)
class RunRow:
    """A row of a run.

    Attributes:
      name: its label, such as `multi5+permute, seed 0`.
      seed: of the experiment.
      varied: the fields in which the rows of the run differ, except the seed, with its values.
      done: whether every stage of it is finished.
    """

    name: str
    seed: int
    varied: dict[str, Any]
    done: bool


class Run:
    """A run. Each method takes a row by its number, its name or the beginning of its name.

    Attributes:
      folder: its folder.
      names: the label of each row, such as `multi5+permute, seed 0`.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._graphs = read_graphs(folder)
        experiments = [graph.experiment for graph in self._graphs]
        self.names: Sequence[str] = labels(experiments)
        self._varied = [
            {field: value for field, value in own.items() if field != "seed"}
            for own in varied_fields(experiments)
        ]
        self._results: dict[int, Row] = {}

    @property
    def rows(self) -> list[RunRow]:
        """The rows of the run, in order; a run in progress finishes some while this is open."""
        each = zip(self.names, self._graphs, self._varied, strict=True)
        return [RunRow(name, g.experiment.seed, own, g.done) for name, g, own in each]

    def table(self) -> Records:
        """Returns the results of the finished rows in long form, as they are on the page: a line
        for each share of every readout.

        Columns: `row`, its name; `seed`; each varied field; `metric`, the key in
        `docs/results-format.md`; `attribute`, or `mean`; `position` in a list, from 0 (the number
        of facts stated before), the number of a wording that was not trained, or the step of an
        `evaluation` of pretraining; `value`, a share; `low` and `high`, its 95 % interval; and `n`,
        the number of people in it.

        Raises:
          DamagedFileError: the results of a stage are not as it wrote them.
        """
        lines = [
            own | line for number, own in self._finished() for line in self._result(number).lines()
        ]
        names = [*self._own_columns(0), "metric", "attribute", "position", "value"]
        names += ["low", "high", "n"]
        return Records({name: [line[name] for line in lines] for name in names})

    def cases(self) -> Records:
        """Returns the single measurements of the finished rows: a line for each reading of a text
        and each answer to a question.

        Columns: those of `table` up to `position`; `person`, the id; `item`, the number of the
        text or question; `right`. The mean of `right` over the lines with one `row`, `metric`,
        `attribute` and `position` is the value of that line of `table`.

        Raises:
          DamagedFileError: the cases of a stage are not as it wrote them.
        """
        parts = [part for number, own in self._finished() for part in self._cases(number, own)]
        names = [*self._own_columns(0), "metric", "attribute", "position", "person", "item"]
        columns: dict[str, Any] = {name: [] for name in [*names, "right"]}
        for part in parts:
            for name, column in part.items():
                columns[name].append(column)
        return Records({name: np.concatenate(x) if x else [] for name, x in columns.items()})

    def _own_columns(self, number: int) -> dict[str, Any]:
        """The first columns of a row's lines."""
        seed = self._graphs[number].experiment.seed
        return {"row": self.names[number], "seed": seed, **self._varied[number]}

    def _finished(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the first columns of each finished row."""
        for number, graph in enumerate(self._graphs):
            if graph.done:
                yield number, self._own_columns(number)

    def _result(self, number: int) -> Row:
        if number not in self._results:
            self._results[number] = result_row(self._graphs[number])
        return self._results[number]

    def _cases(self, number: int, own: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        """The columns of a row's single measurements, one part for each share."""
        graph = self._graphs[number]
        for name in graph.readouts:
            if not (cases := read_cases(graph, name)):
                continue
            for metric, attribute, position, *columns in READOUTS[name].measurements(cases):
                same = {"metric": f"{name}.{metric}", "attribute": attribute, "position": position}
                size = len(columns[0])
                repeated = {key: _repeated(x, size) for key, x in {**own, **same}.items()}
                yield repeated | dict(zip(("person", "item", "right"), columns, strict=True))

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


def _repeated(value: Any, size: int) -> np.ndarray:
    """A column of one value."""
    column = np.empty(size, object)
    column.fill(value)
    return column
