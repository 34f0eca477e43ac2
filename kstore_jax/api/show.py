"""A person as text: facts, biographies and questions; and what the models of a run know."""

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kstore_jax.api.world import World
from kstore_jax.corpus.encode import TokenizedTexts
from kstore_jax.corpus.shards import biography_block
from kstore_jax.corpus.tokenizer import Tokenizer
from kstore_jax.errors import UserError
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import labels, read_graphs, select_graphs
from kstore_jax.readouts.examples import answers_about, recite
from kstore_jax.world.language import ANSWER_MARK
from kstore_jax.world.questions import TRAINED_WORDING
from kstore_jax.world.stated import Fact, marked

_NAME_COLOUR, _VALUE_COLOUR, _PLAIN = "\033[1m", "\033[36m", "\033[0m"


class PersonText:
    """One person of an experiment's world, with biographies and questions.

    Attributes:
      person: the person.
      group: `P_train`, `P_test` or `celebrity`.
      variant: how the person's biographies are written.
      texts: the biographies, as `TokenizedTexts`.

    Raises:
      UserError: there is no such person.
    """

    def __init__(self, experiment: Experiment, number: int):
        world, data = experiment.world, experiment.data
        everyone = World.of(world)
        if number >= len(everyone):
            raise UserError(f"--person: expected less than {len(everyone)}, got {number}")
        self.person, self._data = everyone[number], ExperimentData(world, data)
        famous = number >= world.people
        half = "P_train" if self.person.in_train else "P_test"
        self.group = "celebrity" if famous else half
        self.variant = data.celebrity_variant if famous else data.variant
        self._wordings = everyone.language.questions.shape[1]

    @functools.cached_property
    def texts(self) -> TokenizedTexts:
        data, first = self._data, self.person.id
        variant = data.variant if self.group != "celebrity" else data.celebrity_variant
        if data.data.rewritten:
            return data.rewritten.person_corpus(data.table, variant, first).texts
        entries = np.arange(variant.biographies_per_person)
        return biography_block(data.table, data.world.seed, variant, first, entries).texts

    def lines(self, coloured: bool) -> list[str]:
        """The biographies as text for a terminal: names bold and values cyan where `coloured`."""
        tokenizer = self._data.table.tokenizer
        entries = range(len(self.texts))
        return [f"entry {m}:{_decoded(tokenizer, self.texts, m, coloured)}" for m in entries]

    def text(self, coloured: bool) -> str:
        """The person as text for a terminal: biographies, and questions with their answers."""
        head = f"person {self.person.id} ({self.group}), {self.variant}"
        name = self.person.name
        bold = f"{_NAME_COLOUR}{name}{_PLAIN}" if coloured else name
        lines = []
        for attribute, value in self.person.facts.items():
            asked = self.person.question(attribute).replace(name, bold) + ANSWER_MARK
            lines.append(asked + (f"{_VALUE_COLOUR} {value}{_PLAIN}" if coloured else f" {value}"))
        return "\n\n".join([head, *self.lines(coloured), "\n".join(lines)])

    def json(self) -> str:
        """One object: `person`, `entries` with `text`, `tokens` and `spans`, and `questions`."""
        questions = [
            {
                "attribute": attribute,
                "wording": wording,
                "trained": wording == TRAINED_WORDING,
                "prompt": self.person.question(attribute, wording) + ANSWER_MARK,
                "answer": f" {value}",
            }
            for wording in range(self._wordings)
            for attribute, value in self.person.facts.items()
        ]
        return json.dumps({**self.read, "questions": questions})

    @property
    def read(self) -> dict:
        """`person`, and `entries`, the biographies, each with `text`, `tokens` and `spans`.

        Spans are `[start, end)` in tokens; `name` lists one for each occurrence.
        """
        person, rows, entries = self.person, self.texts, []
        for m in range(len(rows)):
            tokens = rows.tokens[rows.offsets[m] : rows.offsets[m + 1]]
            spans = dict(zip(person.facts, rows.value_spans[m].tolist(), strict=True))
            spans["name"] = [span for span in rows.name_spans[m].tolist() if span[1]]
            text = self._data.table.tokenizer.decode(tokens)
            entries.append({"entry": m, "text": text, "tokens": tokens.tolist(), "spans": spans})
        facts = {
            "id": person.id,
            "name": person.name,
            **({"pronoun": person.pronoun} if person.pronoun else {}),
            "group": self.group,
            "variant": self.variant,
            "attributes": dict(person.facts),
        }
        return {"person": facts, "entries": entries}


def _decoded(tokenizer: Tokenizer, rows: TokenizedTexts, row: int, coloured: bool) -> str:
    """A text from its tokens, with colours around the spans of names and values."""
    ids = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]]
    if not coloured:
        return tokenizer.decode(ids)
    spans = [(*span, _VALUE_COLOUR) for span in rows.value_spans[row].tolist()]
    spans += [(*span, _NAME_COLOUR) for span in rows.name_spans[row].tolist() if span[1]]
    parts, end = [], 0
    for start, stop, colour in sorted(set(spans)):
        parts += [
            tokenizer.decode(ids[end:start]),
            colour,
            tokenizer.decode(ids[start:stop]),
            _PLAIN,
        ]
        end = stop
    return "".join([*parts, tokenizer.decode(ids[end:])])


def knowledge(run: pathlib.Path, number: int, row: str | None = None) -> Iterator[dict]:
    """What each row of a run read and knows of a person.

    Args:
      number: of the person.
      row: name or number of one row; None: all.

    Yields: for each row its `row` (label), `person` and `entries` as `PersonText.read`, `recited`
      and `answers` as `readouts.examples` has them, and `unfinished`: why a model is missing.
      Without its model, `recited` or `answers` is empty.

    Raises:
      UserError: there is no such run, row or person.
    """
    graphs = select_graphs(run, row)
    names = labels([graph.experiment for graph in read_graphs(run)])
    shown = {i: PersonText(graph.experiment, number) for i, graph in graphs.items()}
    for i, graph in graphs.items():
        yield {"row": names[i], **shown[i].read, **_of_models(graph, shown[i])}


def _of_models(graph: ExperimentGraph, shown: PersonText) -> dict:
    finished = [graph.cache.result(stage) is not None for stage in graph.trainings]
    found = {"recited": {}, "answers": [], "unfinished": ""}
    if not all(finished):
        found["unfinished"] = graph.why_unfinished()
    if finished[0]:
        context, first = build_context(graph, to_read=True), shown.texts.take(np.array([0]))
        found["recited"] = recite(context, first, shown.person.facts)
        found["answers"] = answers_about(context, shown.person.id) if all(finished) else []
    return found


def format_knowledge(rows: Sequence[Mapping]) -> str:
    """What `knowledge` yields, for a terminal: facts, texts, and every answer beside the fact."""
    lines, before = [], None
    for row in rows:
        person = row["person"]
        if (facts := {**person, "variant": ""}) != before:
            lines += ["", f"person {person['id']} ({person['group']}), {person['name']}"]
            width = max(map(len, person["attributes"]))
            lines += [f"  {a:<{width}}  {value}" for a, value in person["attributes"].items()]
            before = facts
        lines += ["", row["row"]]
        lines += [f"  read:{entry['text']}" for entry in row["entries"]]
        if recited := row["recited"]:
            stated = [Fact(**fact) for fact in recited["facts"]]
            lines.append(f"  wrote: {marked(recited['text'], stated)}")
        for answer in row["answers"]:
            verdict = "right" if answer["right"] else f"wrong; the truth: {answer['truth']}"
            lines.append(f"  {answer['question']} {answer['answer']}  ({verdict})")
        lines += [f"  {row['unfinished']}"] if row["unfinished"] else []
    return "\n".join(lines[1:])
