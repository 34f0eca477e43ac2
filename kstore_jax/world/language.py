"""Templates and questions, compiled to rows of pieces.

A *piece* is an index into one table of short texts: the literal parts of templates and questions,
the names, the values. Each is a whole number of words with the space in front, so a text is its
pieces joined, its tokens are the tokens of its pieces joined, and where a name or a value stands
is known and never searched for.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
import re

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world.people import ATTRIBUTES, PRONOUNS, People, Pools, load_pools, read_lines

BUNDLED_TEMPLATES = pathlib.Path(__file__).parent / "templates"
ANSWER_MARK = " Answer:"

EMPTY = 0  # the piece without text
PRONOUN, NAME, PERSON = range(3)  # how a sentence refers to its person; PERSON: "the person"
CLOSING = " The person's name is"  # the last sentence where no other carries the name
_CASES = {
    "{name}": ("she", "he", "they"),
    "{name's}": ("her", "his", "their"),
    "{name:them}": ("her", "him", "them"),
    "{their}": ("her", "his", "their"),
    "{them}": ("her", "him", "them"),
}
_REFERENCES = {"{name}": "the person", "{name's}": "the person's", "{name:them}": "the person"}
_MARK = re.compile(r"\{[^{}]*\}")


def _stray_brace(line: str) -> bool:
    return re.search(r"[{}]", _MARK.sub("", line)) is not None


def read_template(template: str, where: str) -> list[str]:
    """Splits a template at its marks and checks the rules of `templates/README.md`.

    Returns the parts in order, marks and text alternating, e.g.
    `["{name}", " ", "{was|were}", " born on ", "{value}", "."]`.
    """
    marks = _MARK.findall(template)
    references = [mark for mark in marks if mark in _REFERENCES]
    if marks.count("{value}") != 1 or len(references) != 1:
        raise UserError(
            f"{where}: a template holds {{value}} once and one of {{name}}, {{name's}}, "
            f"{{name:them}} once: {template!r}"
        )
    if marks.index("{value}") < marks.index(references[0]):
        raise UserError(f"{where}: the person comes before the value: {template!r}")
    for mark in marks:
        if mark != "{value}" and mark not in _CASES and mark.count("|") != 1:
            raise UserError(f"{where}: unknown mark {mark}{nearest(mark, ['{value}', *_CASES])}")
    if re.search(r"[^ ]\{(?:name|value)", template):
        raise UserError(f"{where}: a space goes before a name or value: {template!r}")
    if re.search(r"\{(?:name(?:'s|:them)?|value)\}(?!$)(?![ .,]|'s)", template):
        raise UserError(
            f"{where}: a name or value is followed by a space, '.', ',' or \"'s\": {template!r}"
        )
    if template[0] == " " or template[-1] != "." or "  " in template or _stray_brace(template):
        raise UserError(f"{where}: a template is one sentence that ends with '.': {template!r}")
    return [part for part in re.split(r"(\{[^{}]*\})", template) if part]


def _compile(parts: list[str], pronoun: int, kind: int) -> tuple[str, str, str]:
    """One way of writing a sentence: the texts before the name, before the value, and after it.

    Every text begins with the space that precedes it, or with punctuation. Where the sentence
    does not carry the name, the first text is empty.
    """
    plural = PRONOUNS[pronoun] == "they" and kind == PRONOUN and "{name}" in parts
    texts = [" "] if kind == NAME else ["", " "]
    for part in parts:
        if part in _REFERENCES and kind == NAME:
            texts.append("'s" if part == "{name's}" else "")
        elif part == "{value}":
            texts.append("")
        elif part in _CASES:
            person = kind == PERSON and part in _REFERENCES
            word = _REFERENCES[part] if person else _CASES[part][pronoun]
            texts[-1] += word.capitalize() if texts[-1] == " " and len(texts) < 3 else word
        elif "|" in part:
            texts[-1] += part[1:-1].split("|")[plural]
        else:
            texts[-1] += part
    before_name, before_value, after = (text.rstrip(" ") for text in texts)
    return before_name, before_value, after


def read_question(line: str, where: str) -> tuple[str, str, str]:
    """The texts of a question before the name and before the answer; nothing comes after it."""
    if _MARK.findall(line) != ["{name}"] or not line.endswith("?") or _stray_brace(line):
        raise UserError(f"{where}: a question holds {{name}} once and ends with '?': {line!r}")
    before, after = line.split("{name}")
    if before and not before.endswith(" "):
        raise UserError(f"{where}: {{name}} begins the line or follows a space: {line!r}")
    if after[:1] not in (" ", "?", ",", "'"):
        raise UserError(f"{where}: {{name}} is followed by ' ', '?', ',' or \"'s\": {line!r}")
    return before.rstrip(" "), after + ANSWER_MARK, ""


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """The pools, templates and questions, compiled to one table of pieces.

    A *form* is three pieces: the texts before the name, before the value, and after it.

    Attributes:
      pieces: the text of every piece; piece 0 is empty.
      forms: (6, templates, 3, 3, 3) int32: the form of the sentence about attribute a in template
        t, referring to its person by PRONOUN, NAME or PERSON, for each pronoun.
      questions: (6, wordings, 3) int32: the form of the question about attribute a, answered;
        wording 0 is the trained one.
      closing: (2,) the texts around the name in the sentence that says nothing else.
      names: (3,) the piece of name number 0 of the first, middle and last names.
      values: (6,) the piece of value number 0 of each attribute.
      templates: (6,) how many templates each attribute has.
    """

    pools: Pools
    pieces: tuple[str, ...]
    forms: np.ndarray
    questions: np.ndarray
    closing: np.ndarray
    name_offsets: np.ndarray
    value_offsets: np.ndarray
    template_counts: np.ndarray

    def sentence_forms(self, attribute, template, reference, pronoun) -> np.ndarray:
        """The forms (..., 3) of sentences, the indices being broadcast together."""
        _, templates, kinds, pronouns, _ = self.forms.shape
        place = ((attribute * templates + template) * kinds + reference) * pronouns + pronoun
        return self.forms.reshape(-1, 3).take(place, axis=0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that texts are made of."""
        digest = hashlib.sha256("\n".join(self.pieces).encode())
        places = (self.name_offsets, self.value_offsets, self.template_counts, self.closing)
        for part in (self.forms, self.questions, self.pools.headquarters, *places):
            digest.update(np.array(part.shape))
            digest.update(np.ascontiguousarray(part, np.int64))
        return digest.hexdigest()


@functools.cache
def load_language(
    pools_folder: str = "",
    templates_folder: str = "",
    value_fraction: float = 1.0,
    name_fraction: float = 1.0,
) -> Language:
    """Reads and compiles the pools and templates (the bundled ones where a folder is empty)."""
    pools = load_pools(pools_folder, value_fraction, name_fraction)
    folder = pathlib.Path(templates_folder).expanduser() if templates_folder else BUNDLED_TEMPLATES
    if not folder.is_dir():
        raise UserError(f"world.templates: {folder} is not a folder")
    table: dict[str, int] = {"": EMPTY}

    def in_table(texts: tuple[str, ...]) -> list[int]:
        return [table.setdefault(text, len(table)) for text in texts]

    def lines_of(file: pathlib.Path, read):
        return [read(line, f"{file}:{n}") for n, line in enumerate(read_lines(file), 1)]

    parsed = [lines_of(folder / f"{a}.txt", read_template) for a in ATTRIBUTES]
    asked = [lines_of(folder / "questions" / f"{a}.txt", read_question) for a in ATTRIBUTES]
    templates = np.array([len(of_attribute) for of_attribute in parsed])
    forms = np.zeros((len(ATTRIBUTES), templates.max(), 3, len(PRONOUNS), 3), np.int32)
    for kind, (a, of_attribute) in itertools.product(range(3), enumerate(parsed)):
        for (t, parts), pronoun in itertools.product(enumerate(of_attribute), range(3)):
            forms[a, t, kind, pronoun] = in_table(_compile(parts, pronoun, kind))
    wordings = min(len(of_attribute) for of_attribute in asked)
    questions = np.array([[in_table(row) for row in rows[:wordings]] for rows in asked], np.int32)
    closing = np.array(in_table((CLOSING, ".")), np.int32)

    texts, starts = list(table), []
    columns = (pools.first_names, pools.middle_names, pools.last_names)
    for column in (*columns, *(pools.values[a] for a in ATTRIBUTES)):
        starts.append(len(texts))
        texts.extend(f" {value}" for value in column)
    return Language(
        pools=pools,
        pieces=tuple(texts),
        forms=forms,
        questions=questions,
        closing=closing,
        name_offsets=np.array(starts[:3]),
        value_offsets=np.array(starts[3:]),
        template_counts=templates,
    )


def take_columns(columns: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`columns[b, order[b, s]]` (B, S) of columns (B, C): a `take_along_axis` five times faster."""
    places = np.arange(len(columns))[:, None] * columns.shape[1] + order
    return columns.ravel().take(places)


@dataclasses.dataclass(frozen=True)
class Texts:
    """Some texts of one layout, as rows of pieces.

    Attributes:
      pieces: (B, P) int32.
      value_slots: (S,) the column of the value of each sentence; a question is one sentence.
      name_slots: (M,) the column of the first of the three pieces of each occurrence of the name.
    """

    pieces: np.ndarray
    value_slots: np.ndarray
    name_slots: np.ndarray


def assemble_texts(
    language: Language,
    who: People,
    forms: np.ndarray,
    attributes: np.ndarray,
    references: tuple[int, ...],
    closing: bool = False,
) -> Texts:
    """Texts of S sentences about each of B people.

    Args:
      forms: (B, S, 3) the form of each sentence.
      attributes: (B, S) the attribute that each sentence states.
      kinds: (S,) whether a sentence refers to its person by NAME or otherwise.
      closing: whether a sentence that only says the name comes last.
    """
    names = who.names + language.name_offsets
    values = take_columns(who.values + language.value_offsets, attributes)
    name_slots = np.cumsum([0, *(7 if kind == NAME else 3 for kind in references)])
    value_slots = name_slots[1:] - 2
    named = np.array([*(kind == NAME for kind in references), closing])
    pieces = np.empty((len(who), name_slots[-1] + 5 * closing), np.int32)
    pieces[:, value_slots - 1] = forms[:, :, 1]
    pieces[:, value_slots] = values
    pieces[:, value_slots + 1] = forms[:, :, 2]
    name_slots = name_slots[named] + 1
    sentences = np.flatnonzero(named[:-1])
    pieces[:, name_slots[: len(sentences)] - 1] = forms[:, sentences, 0]
    for slot in name_slots:
        pieces[:, slot : slot + 3] = names
    if closing:
        pieces[:, -5], pieces[:, -1] = language.closing
    return Texts(pieces, value_slots, name_slots)


def pieces_to_text(language: Language, pieces: np.ndarray) -> str:
    """The text of one row of pieces."""
    return "".join(language.pieces[piece] for piece in pieces.ravel())
