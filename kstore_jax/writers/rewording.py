"""Sentences of a finished biography in another order, or with the full name for every pronoun.

Part 3.1, section 2.2, footnotes 13 and 14, for texts that somebody else wrote (bioR). Facts are
left as they stand. English is followed where a word alone tells: `her` before a noun is possessive,
and `was`, `is`, `has` agree with `they`; other verbs after `they` keep their form.
"""

import dataclasses
import re
from collections.abc import Sequence

from kstore_jax.errors import UserError
from kstore_jax.world.people import ATTRIBUTES, Pools
from kstore_jax.writers import matching
from kstore_jax.writers.matching import Span
from kstore_jax.writers.prompts import Facts

_SUBJECT, _POSSESSIVE, _OBJECT = range(3)
_PRONOUNS = {  # by case
    "she": ("she", "her", "her"),
    "he": ("he", "his", "him"),
    "they": ("they", "their", "them"),
}
_AFTER_OBJECT = frozenset(
    [
        *("a", "an", "the", "in", "at", "on", "to", "for", "from", "with", "by", "of", "and", "or"),
        *("but", "as", "into", "over", "after", "before", "during", "while", "when", "where"),
        *("who", "that", "through", "until", "since"),
    ]
)
_BEFORE_OBJECT = frozenset(
    ["to", "for", "by", "with", "of", "from", "about", "after", "before", "at", "saw", "gave"]
)
_SINGULAR = {"were": "was", "are": "is", "have": "has"}
_PLURAL = {one: many for many, one in _SINGULAR.items()}
_TITLE = r"(?:(?:Mr|Mrs|Ms|Mx|Dr)\.? |Miss )?"
_END = re.compile(r"[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]?[^\W_a-z])")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Mx|Dr|St|Ft|Mt|Jr|Sr|Inc|Co|Corp|vs|etc)|\b[A-Z])\Z")


@dataclasses.dataclass(frozen=True)
class _Reference:
    """Where a text speaks of its person. `full`: by the full name."""

    start: int
    end: int
    case: int
    full: bool


def reworded(
    pools: Pools, who: Facts, text: str, keys: Sequence[int] | None = None, fullname: bool = False
) -> str:
    """A text with its sentences sorted by `keys`, or with the full name wherever it speaks of its
    person.

    Where sentences move, the first of them that speaks of the person does so by the full name and
    the later ones by pronoun where they had it.

    Args:
      keys: random numbers, sentence s goes by `keys[s % len(keys)]`; None to leave the order.
    """
    found = matching.find(pools, text, who.name, who.values)
    facts = [span for span in found.values if span is not None]
    pronoun = _spoken(text, who.pronoun)
    references = _references(text, who, pronoun, facts, found.names)
    sentences = _sentences(text, [*facts, *found.names])
    if keys is not None:
        sentences.sort(key=lambda both: keys[both[0] % len(keys)])
    named = keys is None  # whether a sentence before has the full name, or none needs to
    written = []
    for _, (start, end) in sentences:
        here = [r for r in references if start <= r.start and r.end <= end]
        sentence = text[start:end].rstrip()
        for i, reference in reversed(list(enumerate(here))):
            to_name = fullname or (not named and i == 0)
            if to_name or (reference.full and keys is not None):
                how = who.name if to_name else pronoun
                sentence = _replaced(sentence, start, reference, how, pronoun)
        named = named or bool(here)
        written.append(sentence if sentence[-1] in ".!?\"'”’)" else f"{sentence}.")
    done = " ".join(written)
    _check(pools, who, done)
    return done


def _check(pools: Pools, who: Facts, text: str) -> None:
    found = matching.find(pools, text, who.name, who.values)
    lost = [a for a, place in zip(ATTRIBUTES, found.values, strict=True) if place is None]
    if lost or not found.names:
        lost = lost or ["name"]
        raise UserError(f"person {who.person}: the reworded text lost {', '.join(lost)}: {text!r}")


def _spoken(text: str, pronoun: str) -> str:
    """The pronoun that a text uses; that of the world where it uses none or several alike."""
    words = matching.normalised(text)
    counts = {p: sum(map(words.count, set(forms))) for p, forms in _PRONOUNS.items()}
    return max(counts, key=lambda p: (counts[p], p == pronoun))


def _sentences(text: str, whole: Sequence[Span]) -> list[tuple[int, Span]]:
    """The sentences of a text, numbered; none ends inside the spans of `whole`."""
    starts = [0]
    for match in _END.finditer(text):
        dot = match.start()
        in_whole = any(start <= dot < end for start, end in whole)
        ends_whole = any(end == dot for _, end in whole)
        if not in_whole and (ends_whole or not _ABBREVIATION.search(text, 0, dot)):
            starts.append(match.end())
    return list(enumerate(zip(starts, [*starts[1:], len(text)], strict=True)))


def _references(
    text: str, who: Facts, pronoun: str, facts: Sequence[Span], names: Sequence[Span]
) -> list[_Reference]:
    """Every place where a text speaks of its person, in order, facts left out."""
    first, *_, last = who.name.split(" ")
    full = rf"{who.name}|{first} {last}|{first}|{last}"
    forms = "|".join(dict.fromkeys(_PRONOUNS[pronoun]))
    pattern = re.compile(
        rf"\b(?:(?P<name>{_TITLE}(?:{full}))(?P<of>['’]s)?|(?P<pronoun>(?i:{forms})))\b(?!-)"
    )
    found = []
    covered = [*facts]
    for start, end in names:  # as the matcher reads them, whatever stands between their words
        of = re.compile("['’]s").match(text, end)
        case = _POSSESSIVE if of else _SUBJECT
        found.append(_Reference(start, of.end() if of else end, case, True))
        covered.append((start, found[-1].end))
    for match in pattern.finditer(text):
        if any(start < match.end() and match.start() < end for start, end in covered):
            continue
        if match["name"]:
            case = _POSSESSIVE if match["of"] else _SUBJECT
        else:
            case = _case(text, match, pronoun)
        found.append(_Reference(*match.span(), case, False))
    return sorted(found, key=lambda reference: reference.start)


def _case(text: str, match: re.Match, pronoun: str) -> int:
    word = match[0].lower()
    cases = [case for case, form in enumerate(_PRONOUNS[pronoun]) if form == word]
    if len(cases) == 1:
        return cases[0]
    after = re.compile(r" ([\w'’-]+)").match(text, match.end())
    return _OBJECT if after is None or after[1].lower() in _AFTER_OBJECT else _POSSESSIVE


def _replaced(sentence: str, offset: int, reference: _Reference, how: str, pronoun: str) -> str:
    """A sentence that speaks of its person otherwise in one place; `how`: a name or a pronoun."""
    start, end = reference.start - offset, reference.end - offset
    before, after = sentence[:start], sentence[end:]
    case = reference.case
    if how in _PRONOUNS:
        previous = before.split()[-1].lower() if before.strip() else ""
        if case == _SUBJECT and previous in _BEFORE_OBJECT:
            case = _OBJECT
        word = _PRONOUNS[how][case]
        word = word if re.search(r"\w", before) else word.capitalize()
        agreeing = _PLURAL if how == "they" and case == _SUBJECT else {}
    else:
        word = f"{how}'s" if case == _POSSESSIVE else how
        from_they = sentence[start:end].lower() == "they" and pronoun == "they"
        agreeing = _SINGULAR if from_they else {}
    verb = re.match(r" (\w+)\b", after)
    if verb and verb[1] in agreeing:
        after = f" {agreeing[verb[1]]}{after[verb.end() :]}"
    return f"{before}{word}{after}"
