"""A person as text: facts, biographies, questions."""

import functools
import json
from collections.abc import Callable

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, encode_biographies
from kstore_jax.corpus.tokenizer import Tokenizer
from kstore_jax.errors import UserError
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.report import paper
from kstore_jax.world.biographies import write_biographies
from kstore_jax.world.language import Language, Texts, pieces_to_text
from kstore_jax.world.people import draw_people, full_names, in_train_half, value_texts
from kstore_jax.world.questions import TRAINED_WORDING, write_questions

_Line = Callable[[bool], str]
_NAME_COLOUR, _VALUE_COLOUR, _PLAIN = "\033[1m", "\033[36m", "\033[0m"


class PersonText:
    """One person of an experiment's world, with biographies and questions.

    Raises:
      UserError: there is no such person.
    """

    def __init__(self, experiment: Experiment, person: int):
        world, data = experiment.world, experiment.data
        self._data = ExperimentData(world, data)
        if person >= (count := world.people + world.celebrities):
            raise UserError(f"--person: expected less than {count}, got {person}")
        famous = person >= world.people
        self._variant = self._data.celebrity_variant if famous else self._data.variant
        self._variant_name = data.celebrity_variant if famous else data.variant
        half = "P_train" if in_train_half(world.seed, person) else "P_test"
        self._group = "celebrity" if famous else half
        self._who = draw_people(self._data.language.pools, world.seed, np.array([person]))
        self._rows, self._lines = self._rewritten() if data.rewritten else self._of_templates()
        language = self._data.language
        self._attributes = language.schema.names
        numbers = np.arange(len(self._attributes))
        who = self._who.take(np.zeros_like(numbers))
        self._questions = [
            write_questions(language, who, numbers, wording).texts
            for wording in range(language.questions.shape[1])
        ]

    def _of_templates(self) -> tuple[TokenizedTexts, list[_Line]]:
        """The tokens of the entries, and functions that return each as text, coloured or not."""
        data = self._data
        entries = np.arange(self._variant.biographies_per_person)
        who = self._who.take(np.zeros(len(entries), int))
        written = write_biographies(data.language, data.world.seed, self._variant, who, entries)
        lines = [
            functools.partial(_line, data.language, written.texts, m) for m in entries.tolist()
        ]
        return encode_biographies(data.table, written), lines

    def _rewritten(self) -> tuple[TokenizedTexts, list[_Line]]:
        table, person = self._data.table, int(self._who.ids[0])
        rows = self._data.rewritten.person_corpus(table, self._variant, person).texts
        lines = [functools.partial(_decoded, table.tokenizer, rows, m) for m in range(len(rows))]
        return rows, lines

    def text(self, coloured: bool) -> str:
        """The person as text for a terminal: names bold and values cyan where `coloured`."""
        language = self._data.language
        lines = [f"person {self._who.ids[0]} ({self._group}), {self._variant_name}"]
        lines += [f"\nentry {m}:{line(coloured)}" for m, line in enumerate(self._lines)]
        trained = self._questions[TRAINED_WORDING]
        numbers = range(len(self._attributes))
        lines += ["", *(_line(language, trained, a, coloured) for a in numbers)]
        return "\n".join(lines)

    def json(self) -> str:
        """One object: `person`, `entries` with `text`, `tokens` and `spans`, and `questions`.

        Spans are `[start, end)` in tokens; `name` lists one for each occurrence.
        """
        language = self._data.language
        (name,), (values,) = (f(language.pools, self._who) for f in (full_names, value_texts))
        pronouns = language.schema.pronouns
        person = {
            "id": int(self._who.ids[0]),
            "name": name,
            **({"pronoun": pronouns[self._who.pronouns[0]]} if pronouns else {}),
            "group": self._group,
            "variant": self._variant_name,
            "attributes": dict(zip(self._attributes, values, strict=True)),
        }
        shown = {"person": person, "entries": self._json_entries(), "questions": []}
        for wording, texts in enumerate(self._questions):
            for a, attribute in enumerate(self._attributes):
                slot = texts.value_slots[0]
                asked, answer = texts.pieces[a, :slot], texts.pieces[a, slot:]
                shown["questions"].append(
                    {
                        "attribute": attribute,
                        "wording": wording,
                        "trained": wording == TRAINED_WORDING,
                        "prompt": pieces_to_text(language, asked),
                        "answer": pieces_to_text(language, answer),
                    }
                )
        return json.dumps(shown)

    def _json_entries(self) -> list[dict]:
        rows, entries = self._rows, []
        for m, line in enumerate(self._lines):
            spans = dict(zip(self._attributes, rows.value_spans[m].tolist(), strict=True))
            entries.append(
                {
                    "entry": m,
                    "text": line(False),
                    "tokens": rows.tokens[rows.offsets[m] : rows.offsets[m + 1]].tolist(),
                    "spans": {**spans, "name": [s for s in rows.name_spans[m].tolist() if s[1]]},
                }
            )
        return entries


def _line(language: Language, texts: Texts, row: int, coloured: bool) -> str:
    if not coloured:
        return pieces_to_text(language, texts.pieces[row])
    parts = [language.pieces[piece] for piece in texts.pieces[row]]
    for slot in texts.value_slots:
        parts[slot] = f"{_VALUE_COLOUR}{parts[slot]}{_PLAIN}"
    for slot in texts.name_slots:
        parts[slot] = _NAME_COLOUR + parts[slot]
        parts[slot + len(language.name_offsets) - 1] += _PLAIN
    return "".join(parts)


def _decoded(tokenizer: Tokenizer, rows: TokenizedTexts, row: int, coloured: bool) -> str:
    ids = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]].tolist()
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


def pools(experiment: Experiment) -> dict[str, dict[str, float | None]]:
    """For each attribute the number of `values`, and the shares of the `commonest` value and the
    commonest `first_word`; `paper_commonest` and `paper_first_word` are the same shares of the
    paper's pools (Part 3.1, Fig. 7, first row), where it has the attribute."""
    drawn_from = ExperimentData(experiment.world, experiment.data).language.pools
    printed = None if experiment.world.folder else paper.baseline()
    sizes = {}
    for attribute, values in drawn_from.values.items():
        drawn = np.array(values)
        for rule in (drawn_from.functions, drawn_from.columns):
            drawn = drawn[rule[attribute]] if attribute in rule else drawn
        words = np.array([value.split(" ")[0].rstrip(",") for value in drawn])
        value, word = (np.unique(x, return_counts=True)[1].max() / len(x) for x in (drawn, words))
        sizes[attribute] = {
            "values": len(values),
            "commonest": float(value),
            "paper_commonest": printed.qa.get(attribute) if printed else None,
            "first_word": float(word),
            "paper_first_word": printed.q_first.get(attribute) if printed else None,
        }
    return sizes


def pools_text(sizes: dict[str, dict[str, float | None]]) -> str:
    """The result of `pools` as text for a terminal; shares in %."""
    heads = {"commonest": "commonest", "paper_commonest": "(paper)"}
    heads |= {"first_word": "first word", "paper_first_word": "(paper)"}
    heads = {c: x for c, x in heads.items() if any(of[c] is not None for of in sizes.values())}
    width = max(13, *map(len, sizes))
    lines = [f"{'attribute':<{width}}  values  {'  '.join(heads.values())}"]
    for attribute, of in sizes.items():
        shares = {column: "" if of[column] is None else f"{of[column]:.1%}" for column in heads}
        cells = (f"{share:>{len(heads[column]) + 2}}" for column, share in shares.items())
        lines.append(f"{attribute:<{width}} {of['values']:>7}{''.join(cells)}")
    return "\n".join(lines)
