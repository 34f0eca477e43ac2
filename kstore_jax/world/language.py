"""Templates and questions, compiled to rows of pieces.

A *piece* is an index into one table of short texts: the literal parts of templates and questions,
the names, the values. Each piece is a whole number of words with the space in front of them. So a
text is the concatenation of its pieces, its tokens are the concatenation of their tokens, and the
positions of names and values are known without a search.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world.people import People
from kstore_jax.world.pools import Pools, StringValues, load_pools, read_lines
from kstore_jax.world.schema import PRONOUNS, Attribute, Schema

ANSWER_MARK = " Answer:"
T = TypeVar("T")

EMPTY = 0
"""The piece without text."""
PRONOUN, NAME, PERSON = range(3)
"""How a sentence refers to its person: by a pronoun, by the full name, as "the person"."""
_CASES = {"{name}": 0, "{name's}": 1, "{name:them}": 2, "{their}": 1, "{them}": 2}
"""The case of a pronoun by placeholder, as in PRONOUNS."""
_REFERENCES = ("{name}", "{name's}", "{name:them}")
_LATER_PRONOUN = re.compile(r"\{(?:their|them)\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def _stray_brace(line: str) -> bool:
    return re.search(r"[{}]", _PLACEHOLDER.sub("", line)) is not None


def read_template(template: str, where: str) -> list[str]:
    """Splits a template at its placeholders and checks the rules of `bios/README.md`.

    Args:
      where: the file and line, for error messages.

    Returns: the parts in order, placeholders and texts alternating, e.g.
    `["{name}", " ", "{was|were}", " born on ", "{value}", "."]`.

    Raises:
      UserError: the template breaks a rule.
    """
    marks = _PLACEHOLDER.findall(template)
    references = [mark for mark in marks if mark in _REFERENCES]
    if marks.count("{value}") != 1 or len(references) != 1:
        raise UserError(
            f"{where}: expected {{value}} once and one of {{name}}, {{name's}}, {{name:them}} "
            f"once, got {template!r}"
        )
    if marks.index("{value}") < marks.index(references[0]):
        raise UserError(f"{where}: expected the person before the value, got {template!r}")
    for mark in marks:
        if mark != "{value}" and mark not in _CASES and mark.count("|") != 1:
            hint = nearest(mark, ["{value}", *_CASES])
            raise UserError(f"{where}: unknown placeholder {mark}{hint}")
    if re.search(r"[^ ]\{(?:name|value)", template):
        raise UserError(f"{where}: expected a space before a name or value, got {template!r}")
    if re.search(r"\{(?:name(?:'s|:them)?|value)\}(?!$)(?![ .,]|'s)", template):
        raise UserError(
            f"{where}: expected a space, '.', ',' or \"'s\" after a name or value, got {template!r}"
        )
    if template[0] == " " or template[-1] != "." or "  " in template or _stray_brace(template):
        raise UserError(f"{where}: expected one sentence that ends with '.', got {template!r}")
    return [part for part in re.split(r"(\{[^{}]*\})", template) if part]


def _compile(parts: list[str], pronoun: str, reference: int, noun: str) -> tuple[str, str, str]:
    """The texts of a sentence before the name, before the value and after it.

    Every text begins with the space that precedes it, or with punctuation. Without a name in the
    sentence the first text is empty.
    """
    plural = pronoun == "they" and reference == PRONOUN and "{name}" in parts
    texts = [" "] if reference == NAME else ["", " "]
    for part in parts:
        if part in _REFERENCES and reference == NAME:
            texts.append("'s" if part == "{name's}" else "")
        elif part == "{value}":
            texts.append("")
        elif part in _CASES:
            if reference == PERSON and part in _REFERENCES:
                word = f"the {noun}'s" if part == "{name's}" else f"the {noun}"
            else:
                word = PRONOUNS[pronoun][_CASES[part]]
            opens = texts[-1] == " " and len(texts) < 3
            texts[-1] += word[0].upper() + word[1:] if opens else word
        elif "|" in part:
            texts[-1] += part[1:-1].split("|")[plural]
        else:
            texts[-1] += part
    before_name, before_value, after = (text.rstrip(" ") for text in texts)
    return before_name, before_value, after


def read_question(line: str, where: str) -> tuple[str, str, str]:
    """Returns the texts of a question before the name and before the answer, and an empty one.

    Args:
      where: the file and line, for error messages.

    Raises:
      UserError: the question breaks a rule of `bios/README.md`.
    """
    if _PLACEHOLDER.findall(line) != ["{name}"] or not line.endswith("?") or _stray_brace(line):
        raise UserError(f"{where}: expected {{name}} once and '?' at the end, got {line!r}")
    before, after = line.split("{name}")
    if before and not before.endswith(" "):
        raise UserError(f"{where}: expected {{name}} at the start or after a space, got {line!r}")
    if after[:1] not in (" ", "?", ",", "'"):
        raise UserError(f"{where}: expected ' ', '?', ',' or \"'s\" after {{name}}, got {line!r}")
    return before.rstrip(" "), after + ANSWER_MARK, ""


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """The pools, templates and questions, compiled to one table of pieces.

    The *form* of a sentence is three pieces: the texts before the name, before the value and after.

    Attributes:
      pieces: the text of every piece; piece 0 is empty.
      forms: (A, templates, 3, pronouns, 3) int32: the forms of sentences by attribute, template,
        reference to the person (PRONOUN, NAME or PERSON) and pronoun.
      questions: (A, wordings, 3) int32: the forms of questions with their answers, by attribute and
        wording; wording 0 is the trained one.
      closing: (2,) int32: the pieces around the name in the closing sentence, which states the name
        where no other sentence does.
      name_offsets: (P,) the piece of value number 0 of each part of a name.
      value_offsets: (A,) the piece of value, or string, number 0 of each attribute.
      template_counts: (A,) the number of templates of each attribute.
    """

    pools: Pools
    pieces: tuple[str, ...]
    forms: np.ndarray
    questions: np.ndarray
    closing: np.ndarray
    name_offsets: np.ndarray
    value_offsets: np.ndarray
    template_counts: np.ndarray

    @property
    def schema(self) -> Schema:
        """The schema of the world."""
        return self.pools.schema

    def sentence_forms(
        self,
        attribute: np.ndarray,
        template: np.ndarray,
        reference: np.ndarray,
        pronoun: np.ndarray,
    ) -> np.ndarray:
        """Returns the forms (..., 3) of sentences; the indices are broadcast against each other."""
        _, templates, references, pronouns, _ = self.forms.shape
        index = ((attribute * templates + template) * references + reference) * pronouns + pronoun
        return self.forms.reshape(-1, 3).take(index, axis=0)

    def value_pieces(self, values: np.ndarray) -> np.ndarray:
        """Returns the pieces of the values (N, A) of people: (N, A, chunks)."""
        pools = self.pools.values.values()
        digits = [
            pool.digits(column) if isinstance(pool, StringValues) else column[:, None]
            for pool, column in zip(pools, values.T, strict=True)
        ]
        return np.stack(digits, axis=1) + self.value_offsets[:, None]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that texts are made from."""
        pools, schema = self.pools, self.schema
        rules = schema.names, schema.groups, list(pools.functions), list(pools.columns)
        rules += (schema.chunks,) * (schema.chunks > 1)
        digest = hashlib.sha256("\n".join([repr(rules), *self.pieces]).encode())
        for part in (
            *(self.forms, self.questions, *pools.functions.values(), *pools.columns.values()),
            *(self.name_offsets, self.value_offsets, self.template_counts, self.closing),
            *(() if pools.name_rows is None else (pools.name_rows,)),
            *itertools.chain.from_iterable(pools.accepted.values()),
        ):
            digest.update(np.array(part.shape).tobytes())
            digest.update(np.ascontiguousarray(part, np.int64).tobytes())
        return digest.hexdigest()


@functools.cache
def load_language(
    folder: str = "", value_fraction: float = 1.0, name_fraction: float = 1.0
) -> Language:
    """Reads names, values, templates and questions of a world and compiles them.

    Args:
      folder: the folder of the world; empty: the bundled one.
      value_fraction: as for `load_pools`, with `name_fraction`.

    Raises:
      UserError: a file is missing, or a line breaks a rule; names the file and line.
    """
    pools = load_pools(folder, value_fraction, name_fraction)
    schema = pools.schema
    templates = _read_all(schema, "templates", default_templates, read_template)
    questions = _read_all(schema, "questions", default_questions, read_question)
    piece_numbers: dict[str, int] = {"": EMPTY}

    def number(texts: tuple[str, ...]) -> list[int]:
        """The pieces of some texts; a text that is not in the table yet is added."""
        return [piece_numbers.setdefault(text, len(piece_numbers)) for text in texts]

    template_counts = np.array([len(of_attribute) for of_attribute in templates])
    pronouns = schema.pronouns or ("",)
    shape = (len(templates), template_counts.max(), 3, len(pronouns), 3)
    forms = np.full(shape, EMPTY, np.int32)
    for reference, (a, of_attribute) in itertools.product(range(3), enumerate(templates)):
        if reference == PRONOUN and not schema.pronouns:
            continue  # sentences repeat the name
        for (t, parts), (p, pronoun) in itertools.product(
            enumerate(of_attribute), enumerate(pronouns)
        ):
            forms[a, t, reference, p] = number(_compile(parts, pronoun, reference, schema.noun))
    wordings = min(len(of_attribute) for of_attribute in questions)
    question_forms = [[number(texts) for texts in rows[:wordings]] for rows in questions]
    closing = number((f" The {schema.noun}'s name is", "."))

    pieces, offsets = list(piece_numbers), []
    for column in (*pools.names, *pools.values.values()):
        offsets.append(len(pieces))
        strings = column.strings if isinstance(column, StringValues) else column
        pieces.extend(f" {value}" for value in strings)
    return Language(
        pools=pools,
        pieces=tuple(pieces),
        forms=forms,
        questions=np.array(question_forms, np.int32),
        closing=np.array(closing, np.int32),
        name_offsets=np.array(offsets[: len(pools.names)]),
        value_offsets=np.array(offsets[len(pools.names) :]),
        template_counts=template_counts,
    )


def _read_all(
    schema: Schema,
    folder: str,
    default: Callable[[Attribute], tuple[str, ...]],
    read: Callable[[str, str], T],
) -> list[list[T]]:
    """Reads every line about each attribute; `read` takes the line and its place in words.

    A world without the folder has the default lines.
    """
    texts = []
    for attribute in schema.attributes:
        path = schema.folder / folder / f"{attribute.name}.txt"
        has_lines = path.parent.is_dir() and not attribute.strings
        lines = read_lines(path) if has_lines else default(attribute)
        for number, line in enumerate(lines, 1):
            if not schema.pronouns and (mark := _LATER_PRONOUN.search(line)):
                raise UserError(f"{path}:{number}: {mark[0]} needs a world with pronouns")
        texts.append([read(line, f"{path}:{number}") for number, line in enumerate(lines, 1)])
    return texts


def default_templates(attribute: Attribute) -> tuple[str, ...]:
    """Plain sentences that state an attribute, for a world without templates: five, or in bioD the
    first of them alone (Part 3.3, section 2)."""
    label = attribute.label
    first = f"{{name's}} {label} is {{value}}."
    if attribute.strings:
        return (first,)
    return (
        first,
        f"{{name}} {{has|have}} the {label} {{value}}.",
        f"The {label} given for {{name:them}} is {{value}}.",
        f"The records list {{name:them}} with the {label} {{value}}.",
        f"{{name's}} entry under {label} reads {{value}}.",
    )


def default_questions(attribute: Attribute) -> tuple[str, ...]:
    """Three wordings of the question about an attribute, for a world without questions."""
    label = attribute.label
    return (
        f"What is the {label} of {{name}}?",
        f"What is {{name}}'s {label}?",
        f"Which {label} does {{name}} have?",
    )


def take_columns(columns: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns `columns[b, order[b, s]]` (B, S) of columns (B, C), five times faster than
    `take_along_axis`."""
    index = np.arange(len(columns))[:, None] * columns.shape[1] + order
    return columns.ravel().take(index)


@dataclasses.dataclass(frozen=True)
class Texts:
    """B texts of one layout, as rows of pieces.

    Attributes:
      pieces: (B, P) int32.
      value_slots: (S,) the column of the first piece of the value of each sentence; a question is
        one sentence.
      name_slots: (M,) the column of the first piece of each occurrence of the name.
    """

    pieces: np.ndarray
    value_slots: np.ndarray
    name_slots: np.ndarray


def assemble_texts(
    language: Language,
    people: People,
    forms: np.ndarray,
    attributes: np.ndarray,
    references: tuple[int, ...],
    closing: bool = False,
) -> Texts:
    """Returns texts of S sentences about each of B people.

    Args:
      forms: (B, S, 3) the form of each sentence.
      attributes: (B, S) the attribute that each sentence states.
      references: (S,) how each sentence refers to its person: by NAME or otherwise.
      closing: whether the closing sentence, which states the name, comes last.
    """
    names, chunks = people.names + language.name_offsets, language.schema.chunks
    parts = names.shape[1]
    sentence = 2 + chunks
    widths = (1 + parts + sentence if reference == NAME else sentence for reference in references)
    name_slots = np.cumsum([0, *widths])
    value_slots = name_slots[1:] - 1 - chunks
    named = np.array([*(reference == NAME for reference in references), closing])
    pieces = np.empty((len(people), name_slots[-1] + (2 + parts) * closing), np.int32)
    pieces[:, value_slots - 1] = forms[:, :, 1]
    for chunk in range(chunks):
        of_chunk = language.value_pieces(people.values)[..., chunk]
        pieces[:, value_slots + chunk] = take_columns(of_chunk, attributes)
    pieces[:, value_slots + chunks] = forms[:, :, 2]
    name_slots = name_slots[named] + 1
    sentences = np.flatnonzero(named[:-1])
    pieces[:, name_slots[: len(sentences)] - 1] = forms[:, sentences, 0]
    for slot in name_slots:
        pieces[:, slot : slot + parts] = names
    if closing:
        pieces[:, -2 - parts], pieces[:, -1] = language.closing
    return Texts(pieces, value_slots, name_slots)


def pieces_to_text(language: Language, pieces: np.ndarray) -> str:
    """Returns the text of one row of pieces."""
    return "".join(language.pieces[piece] for piece in pieces.ravel())
