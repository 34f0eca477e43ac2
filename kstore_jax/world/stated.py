"""The facts that a text states in the words of the templates, such as a model's own biography."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kstore_jax.world.language import Language


class Statement(NamedTuple):
    """A value in a text.

    Attributes:
      attributes: those that the words before the value state; several where templates agree.
      start, end: of the value in the text, in characters.
    """

    attributes: tuple[str, ...]
    start: int
    end: int


class Fact(NamedTuple):
    """A value that a text states, compared with the right one.

    Attributes:
      attribute: the fact; of a wrong value, the first that it may be.
      start, end: its place in the text, in characters.
      truth: the right value.
      right: whether the text has it.
    """

    attribute: str
    start: int
    end: int
    truth: str
    right: bool


def facts_of(language: Language, text: str, truth: Mapping[str, str]) -> list[Fact]:
    """Returns the values that a text states, compared with the facts of a person.

    Args:
      truth: attribute -> value.
    """
    facts = []
    for attributes, begin, end in statements(language, text):
        right = [name for name in attributes if truth[name] == text[begin:end]]
        name = (right or attributes)[0]
        facts.append(Fact(name, begin, end, truth[name], bool(right)))
    return facts


def score(facts: Sequence[Fact], of: int, given: int) -> str:
    """Returns how many of the facts of a person are right in a text, in words.

    Args:
      of: how many facts the person has.
      given: how many of them the prompt states.
    """
    if given >= of:
        return "all facts are in the prompt"
    right = len({fact.attribute for fact in facts if fact.right})
    return f"{right} of {of - given} facts right"


def marked(text: str, facts: Sequence[Fact], right: str = "{}", wrong: str = "[{} ≠ {}]") -> str:
    """Returns a text with each value in a format: `right` takes the value, `wrong` the value and
    the truth."""
    parts, end = [], 0
    for fact in facts:
        value = text[fact.start : fact.end]
        parts += [text[end : fact.start]]
        parts += [right.format(value) if fact.right else wrong.format(value, fact.truth)]
        end = fact.end
    return "".join([*parts, text[end:]])


@functools.lru_cache(maxsize=4)
def _words_before_values(language: Language) -> dict[str, tuple[str, ...]]:
    """The words that templates put between the person and the value -> their attributes."""
    by_words: dict[str, list[str]] = {}
    for attribute, forms in zip(language.schema.names, language.forms, strict=True):
        for piece in np.unique(forms[..., 1]):
            if words := language.pieces[piece]:
                by_words.setdefault(words, []).append(attribute)
    return {words: tuple(names) for words, names in by_words.items()}


@functools.lru_cache(maxsize=4)
def _values(language: Language) -> dict[str, tuple[frozenset[str], int]]:
    """The values of each attribute, and the length of the longest."""
    pools = language.pools.values
    return {name: (frozenset(of_name), max(map(len, of_name))) for name, of_name in pools.items()}


def statements(language: Language, text: str) -> list[Statement]:
    """Returns the values that a text states, in the order of the text.

    A value is what follows the words of a template: the longest value of the attribute's pool, or,
    where none follows, the words up to the end of the sentence. Where two overlap, a value of a
    pool counts, and then the one after more words.
    """
    lead = text[:1] != " "  # a biography begins with a space
    text = " " * lead + text
    candidates = []
    for words, attributes in _words_before_values(language).items():
        for match in re.finditer(re.escape(words) + " ", text):
            start = match.end()
            end = max(_value_end(*_values(language)[name], text, start) for name in attributes)
            in_pool = end > 0
            statement = Statement(attributes, start, end or _sentence_end(text, start))
            candidates.append((not in_pool, -len(words), statement))
    stated: list[Statement] = []
    for _, _, (attributes, start, end) in sorted(candidates):
        if all(end <= other.start or other.end <= start for other in stated):
            stated.append(Statement(attributes, start, end))
    stated.sort(key=lambda statement: statement.start)
    return [Statement(names, start - lead, end - lead) for names, start, end in stated]


def _value_end(values: frozenset[str], longest: int, text: str, start: int) -> int:
    """The end of the longest of the values that begins at `start`; 0: none does."""
    ends = range(min(len(text), start + longest), start, -1)
    whole = (end for end in ends if not text[end : end + 1].isalnum())
    return next((end for end in whole if text[start:end] in values), 0)


def _sentence_end(text: str, start: int) -> int:
    stop = text.find(".", start)
    return len(text) if stop < 0 else stop
