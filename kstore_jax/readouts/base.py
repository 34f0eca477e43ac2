"""The contract of a readout, and `Context`, what it reads of an experiment.

A readout is one file: its configuration, its computation, and how its results are shown. Registered
here, it has a stage of its own, a section in every configuration (`readouts.NAME`), its result in
`results.json`, and tables and charts on the page.
"""

import dataclasses
import functools
import io
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kstore_jax.charts.drawing import Chart
from kstore_jax.charts.markup import Html
from kstore_jax.charts.tables import Table
from kstore_jax.config.fields import flag, identity
from kstore_jax.config.registry import Registry
from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, compact_vocabulary
from kstore_jax.corpus.examples import SpanExamples, span_examples, word_examples
from kstore_jax.corpus.shards import Corpus
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.files import write_bytes
from kstore_jax.model.forward import Params
from kstore_jax.model.transformer import Shape
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.shares import Measurements, Share, measurements_of, shares_of
from kstore_jax.tasks.base import TASKS, Items, concatenate_examples, item_examples
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.distributed import is_first
from kstore_jax.train.masking import WordMasking
from kstore_jax.world.biographies import Variant
from kstore_jax.world.people import People

READ_COST = 1 / 3
"""Cost of a token that is only read; a trained one costs 1, since its backward pass takes twice as
long as the forward pass."""
_STREAMS = {"init": 0, "lora": 1, "p_probe": 2, "q_probe": 2}


def stream_key(seed: int, stream: str) -> jax.Array:
    """The JAX key of a named random stream of an experiment. Names outside the table are hashed."""
    number = _STREAMS.get(stream, zlib.crc32(stream.encode()) & 0x7FFFFFFF)
    return jax.random.fold_in(jax.random.key(seed), number)


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """Data, split, vocabulary, random streams and parameters of one experiment.

    Nothing is trained here. Corpora and parameters are read when they are first used; where their
    stage is not finished, that raises `NotFinished`, which names the stage and the command.

    Attributes:
      seed: of initial weights, orders and batches.
      world_seed: of people and texts.
      shape: the network.
      vocabulary: the token ids of the model.
      mask_token: the id that hides a token from a bidirectional model; None for a causal model.
      table: tokens of every piece of the language.
      variant: how the biographies of `people` are written.
      tasks: the configuration of each task.
      trained_tasks: the tasks whose questions this run trains, by finetuning or mixed into
        pretraining; empty where it has no model that answers questions.
      everyone: all people, celebrities after the others.
      people: all people except celebrities; recall and probes are about them.
      in_train: (people,) bool: members of P_train, on whom probes are trained.
      qa_train_mask: (everyone,) bool: people whose questions are trained on; the others are held
        out.
      held_back_mask: (everyone,) bool: those of `qa_train_mask` on whom the finetuned model was not
        trained: their questions chose a row of the grid, or `finetune.people_fraction` leaves them
        out.
      mesh: the devices.
      telemetry: where trainings log their metrics.
      read_corpus: kind of a dataset -> its corpus.
      load_untrained, load_pretrained, load_finetuned: this context -> parameters; called once.
      marked: biographies of `people` -> the same as pretraining read them (`data.marker`).
    """

    seed: int
    world_seed: int
    shape: Shape
    vocabulary: Vocabulary
    mask_token: int | None
    table: TokenTable
    variant: Variant
    tasks: Any
    trained_tasks: tuple[str, ...]
    everyone: People
    people: People
    in_train: np.ndarray
    qa_train_mask: np.ndarray
    held_back_mask: np.ndarray
    mesh: jax.sharding.Mesh
    telemetry: TelemetryConfig
    read_corpus: Callable[[str], Corpus]
    load_untrained: Callable[["Context"], Params]
    load_pretrained: Callable[["Context"], Params]
    load_finetuned: Callable[["Context"], Params]
    marked: Callable[[TokenizedTexts], TokenizedTexts]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes of people."""
        return self.table.language.schema.names

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The biographies of `people`, as pretraining read them."""
        corpus = self.read_corpus("shards")
        return dataclasses.replace(corpus, texts=self.marked(corpus.texts))

    @functools.cached_property
    def untrained(self) -> Params:
        """Parameters before pretraining."""
        return self.load_untrained(self)

    @functools.cached_property
    def pretrained(self) -> Params:
        """Parameters of the pretrained model."""
        return self.load_pretrained(self)

    @functools.cached_property
    def finetuned(self) -> Params:
        """Parameters of the model that answers questions: the best of a grid, or the pretrained
        ones where `finetune.steps` is 0."""
        return self.load_finetuned(self)

    @property
    def words(self) -> WordMasking:
        """How a bidirectional model has words masked."""
        assert self.mask_token is not None
        bounds, end = self.vocabulary.word_bounds, self.vocabulary.end_of_text
        return WordMasking(*bounds, end_of_text=end, mask=self.mask_token)

    def new_tokens(self) -> np.ndarray:
        """(V,) bool: the model's tokens that neither biographies of these people have nor the
        questions about their attributes."""
        read = compact_vocabulary(self.table, self.everyone, reverse=True).ids
        new = np.zeros(self.shape.vocabulary, bool)
        new[: self.vocabulary.size] = ~np.isin(self.vocabulary.ids, read)
        return new

    def key(self, stream: str) -> jax.Array:
        """The JAX key of a random stream."""
        return stream_key(self.seed, stream)

    def group_names(self, task: str) -> Sequence[str]:
        """The names of the groups of a task."""
        return TASKS[task].group_names(getattr(self.tasks, task), self.table.language)

    def items(self, task: str, wording: int = 0) -> Items:
        """The questions of a task about everyone in one wording."""
        config = getattr(self.tasks, task)
        return TASKS[task].items(self.table, self.everyone, config, self.world_seed, wording)

    def examples(self, items: Items) -> SpanExamples:
        """Questions as examples, whose one span is the answer, with the hint where it has one."""
        end_of_text = self.table.tokenizer.end_of_text
        return item_examples(items, self.vocabulary, end_of_text, self.mask_token)

    def questions(
        self, tasks: Sequence[str] = ("extraction",), wording: int = 0
    ) -> tuple[list[Items], SpanExamples]:
        """The questions of several tasks about everyone, and their examples, one after another."""
        items = [self.items(task, wording) for task in tasks]
        examples = [self.examples(each) for each in items]
        return items, concatenate_examples(examples, self.vocabulary.end_of_text)

    def recall_examples(self, rows: TokenizedTexts) -> list[tuple[np.ndarray, SpanExamples]]:
        """The values in biographies as spans to predict: by a causal model from the text before
        them, by a bidirectional model word by word from all other text.

        Returns: pairs of row numbers (n,) and their examples; one pair for a causal model, one for
          each place of a word in its value for a bidirectional one.
        """
        if self.mask_token is None:
            examples = span_examples(rows, rows.value_spans, self.vocabulary)
            return [(np.arange(len(examples)), examples)]
        return [*word_examples(rows, rows.value_spans, self.vocabulary, self.mask_token)]


@dataclasses.dataclass(frozen=True)
class ReadoutConfig:
    """The field that every readout has."""

    enabled: bool = flag(True, affects_result=False)
    """Whether it is computed."""


class Readout:
    """One measurement of a model.

    Attributes:
      name: of its section, its stage and its result.
      version: of its computation; raised when its numbers change.
      Config: its configuration, a frozen dataclass that inherits `ReadoutConfig`.
      reads: the model it measures, `pretrained` or `finetuned`.
      needs_finetuning: whether a run finetunes for a readout of the finetuned model. False: without
        another readout of that model, it is left out.
      measures_training: whether it has `during`; those numbers are in the metrics of pretraining.
      title: heading of its section on the page.
      paragraph: what the section shows and how to read it.
      in_the_paper: what the paper found; only on pages with people of the bundled world.
    """

    name: str
    version: int = 1
    Config: type = ReadoutConfig
    reads: str = "pretrained"
    needs_finetuning: bool = True
    measures_training: bool = False
    title: str = ""
    paragraph: str = ""
    in_the_paper: str = ""

    @property
    def has_stage(self) -> bool:
        """Whether it has a stage and a result: not where it has `during` alone."""
        return not self.measures_training or type(self).run is not Readout.run

    def check(self, config: Any, experiment: Any) -> None:
        """Raises UserError, which begins with the field, where the configuration does not fit the
        rest of the experiment."""

    def contents(self, config: Any) -> dict[str, str]:
        """Returns a fingerprint of each file it reads, by field; where one changes, it is computed
        again."""
        return {}

    def run(self, context: Context, config: Any, folder: pathlib.Path) -> dict:
        """Measures a model.

        Args:
          folder: the folder of its stage, for checkpoints and metrics; it may hold those of an
            interrupted attempt.

        Returns: plain JSON.
        """
        raise NotImplementedError

    def during(self, context: Context, config: Any) -> Callable[[Params], dict[str, jax.Array]]:
        """Returns `params -> scalars on the device`, which pretraining calls every
        `pretrain.evaluate_every` steps."""
        raise NotImplementedError

    def during_config(self, config: Any) -> dict[str, Any]:
        """The fields that `during` depends on, as plain values: they are in the key of pretraining.
        Unless overridden, all that affect results."""
        return identity(config)

    def work(self, context: Context, texts: TokenizedTexts, config: Any, scale: float) -> float:
        """The tokens it trains plus a third of those it reads, to estimate its time; 0: unknown.

        Args:
          context: of a few of the people.
          texts: their biographies.
          scale: people of the experiment over people of `context`.
        """
        return 0.0

    def departures(self, configs: Sequence[Mapping[str, Any]]) -> list[str]:
        """What differs from the paper where it measures with these configurations, each a sentence
        with what the paper does; the page has them beside the numbers, for the paper's people."""
        return []

    def shares(self, result: dict) -> list[Share]:
        """The shares of a result, a line each in `Run.table` and in the CSV file of all
        rows; unless overridden, every number of the result (`readouts/shares.py`)."""
        return shares_of(result)

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        """The single measurements of the shares, a line each in `Run.cases`; unless overridden, the
        columns with a value for each of its `names`.

        Args:
          cases: the columns that `run` gave to `write_cases`.
        """
        return measurements_of(cases)

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        """The interval of each share that its cases determine (`intervals.py`), at the
        path of the share in the result. `Measured.spread` has them for tables and charts.

        Args:
          cases: the columns that `run` gave to `write_cases`.
        """
        return {}

    def opening(self, groups: Sequence[Measured]) -> list[Html]:
        """Texts and other parts that the page begins with, under the title of the readout."""
        return []

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """Tables of its numbers for the page."""
        return []

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        """Charts for its section of the page. For a readout without a stage, each result is a
        `Measured.training`."""
        return []


def write_cases(folder: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes every single measurement of a readout as `cases.npz` into the folder of its stage.
    Only the first process of a run writes."""
    if is_first():
        content = io.BytesIO()
        arrays: dict[str, Any] = dict(columns)
        np.savez_compressed(content, **arrays)
        write_bytes(folder / "cases.npz", content.getvalue())


STAGES = ("shards", "celebrities", "text", "pretrain", "finetune", "refit")
"""Kinds of the stages that are no readouts."""
SECTIONS = ("glance", "numbers", "agreement", "stored", "lora", "series", "losses", "run", "files")
"""Sections of the page that are of no readout."""
READOUTS: Registry[Readout] = Registry("readout", "kstore_jax.readouts", (*STAGES, *SECTIONS))
