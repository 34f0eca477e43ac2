"""Templates and questions, compiled to rows of pieces.

A *piece* is an index into one table of short texts: the literal parts of templates and questions,
the names, the values. Each is a whole number of words with the space in front, so a text is its
pieces joined, its tokens are the tokens of its pieces joined, and where a name or a value stands
is known and never searched for.
"""

import dataclasses
import functools
import itertools
import pathlib
import re

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world.people import ATTRIBUTES, PRONOUNS, People, Pools, load_pools, read_lines

BUNDLED_TEMPLATES = pathlib.Path(__file__).parent / "templates"
ANSWER_MARK = " Answer:"

# What may stand in a slot of a sentence beside a literal piece.
EMPTY, FIRST, MIDDLE, LAST, VALUE = 0, -1, -2, -3, -4
SLOTS = 7  # literal, name or value, literal, value or name, literal; a name takes three
_CASES = {
    "{name}": ("she", "he", "they"),
    "{name's}": ("her", "his", "their"),
    "{name:them}": ("her", "him", "them"),
    "{their}": ("her", "his", "their"),
    "{them}": ("her", "him", "them"),
}
_REFERENCES = ("{name}", "{name's}", "{name:them}")
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


def _compile(parts: list[str], pronoun: int, named: bool) -> list[str | int]:
    """One way of writing a sentence: literal texts and the codes of what goes between them.

    Every text, and every value, begins with the space that precedes it, or with punctuation.
    """
    plural = PRONOUNS[pronoun] == "they" and not named and "{name}" in parts
    row: list[str | int] = []
    text = " "

    def close():
        nonlocal text
        if text.strip():
            row.append(text.rstrip(" "))
        text = ""

    for part in parts:
        if part == "{value}":
            close()
            row.append(VALUE)
        elif part in _REFERENCES and named:
            close()
            row.extend((FIRST, MIDDLE, LAST))
            text = "'s" if part == "{name's}" else ""
        elif part in _CASES:
            word = _CASES[part][pronoun]
            text += word.capitalize() if text == " " and not row else word
        elif "|" in part:
            text += part[1:-1].split("|")[plural]
        else:
            text += part
    close()
    return row


def read_question(line: str, where: str) -> list[str | int]:
    """A question as the row `[text, name, text]`; its second text ends in the answer mark."""
    if _MARK.findall(line) != ["{name}"] or not line.endswith("?") or _stray_brace(line):
        raise UserError(f"{where}: a question holds {{name}} once and ends with '?': {line!r}")
    before, after = line.split("{name}")
    if before and not before.endswith(" "):
        raise UserError(f"{where}: {{name}} begins the line or follows a space: {line!r}")
    if after[:1] not in (" ", "?", ",", "'"):
        raise UserError(f"{where}: {{name}} is followed by ' ', '?', ',' or \"'s\": {line!r}")
    texts = [before.rstrip(" ")] if before else []
    return [*texts, FIRST, MIDDLE, LAST, after + ANSWER_MARK, VALUE]


@dataclasses.dataclass(frozen=True, eq=False)
class Language:
    """The pools, templates and questions, compiled to one table of pieces.

    Rows of codes hold a piece where positive, EMPTY, or what is to be put there for a person:
    FIRST, MIDDLE, LAST, VALUE.

    Attributes:
      pieces: the text of every piece; piece 0 is empty.
      forms: (6, templates, 2, 3, SLOTS) int32: the sentence about attribute a in template t, with
        the full name or not, for each pronoun.
      questions: (6, wordings, SLOTS) int32: the question about attribute a and its answer; wording
        0 is the trained one.
      names: (3,) the piece of name number 0 of the first, middle and last names.
      values: (6,) the piece of value number 0 of each attribute.
      templates: (6,) how many templates each attribute has.
    """

    pools: Pools
    pieces: tuple[str, ...]
    forms: np.ndarray
    questions: np.ndarray
    names: np.ndarray
    values: np.ndarray
    templates: np.ndarray


@functools.cache
def load_language(pools_folder: str = "", templates_folder: str = "") -> Language:
    """Reads and compiles the pools and templates (the bundled ones where a folder is empty)."""
    pools = load_pools(pools_folder)
    folder = pathlib.Path(templates_folder).expanduser() if templates_folder else BUNDLED_TEMPLATES
    if not folder.is_dir():
        raise UserError(f"world.templates: {folder} is not a folder")
    table: dict[str, int] = {"": EMPTY}

    def in_table(row: list[str | int]) -> list[int]:
        codes = [s if isinstance(s, int) else table.setdefault(s, len(table)) for s in row]
        return codes + [EMPTY] * (SLOTS - len(codes))

    def lines_of(file: pathlib.Path, read):
        return [read(line, f"{file}:{n}") for n, line in enumerate(read_lines(file), 1)]

    parsed = [lines_of(folder / f"{a}.txt", read_template) for a in ATTRIBUTES]
    asked = [lines_of(folder / "questions" / f"{a}.txt", read_question) for a in ATTRIBUTES]
    templates = np.array([len(of_attribute) for of_attribute in parsed])
    forms = np.zeros((len(ATTRIBUTES), templates.max(), 2, len(PRONOUNS), SLOTS), np.int32)
    for a, of_attribute in enumerate(parsed):
        for t, parts in enumerate(of_attribute):
            for named, pronoun in itertools.product((0, 1), range(len(PRONOUNS))):
                forms[a, t, named, pronoun] = in_table(_compile(parts, pronoun, bool(named)))
    wordings = min(len(of_attribute) for of_attribute in asked)
    questions = np.array([[in_table(row) for row in rows[:wordings]] for rows in asked], np.int32)

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
        names=np.array(starts[:3]),
        values=np.array(starts[3:]),
        templates=templates,
    )


def fill(language: Language, codes: np.ndarray, who: People, attributes: np.ndarray) -> np.ndarray:
    """Puts the names and values of B people in the place of their codes.

    Args:
      codes: (B, S, SLOTS) rows of codes.
      attributes: (B, S) the attribute that each row states.

    Returns:
      (B, S, SLOTS) pieces.
    """
    value = np.take_along_axis(who.values, attributes, 1) + language.values[attributes]
    pieces = np.where(codes == VALUE, value[:, :, None], codes)
    for code, name in zip((FIRST, MIDDLE, LAST), (who.names + language.names).T, strict=True):
        pieces = np.where(codes == code, name[:, None, None], pieces)
    return pieces


def text(language: Language, pieces: np.ndarray) -> str:
    """The text of one row of pieces."""
    return "".join(language.pieces[piece] for piece in pieces.ravel())
