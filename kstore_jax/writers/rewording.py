"""Reorders the sentences of a finished biography, or puts the full name for every pronoun.

Part 3.1, section 2.2, footnotes 13 and 14, for texts of another model (bioR). Facts stay unchanged.
English grammar is followed where a single word decides: `her` before a noun is possessive, and
`was`, `is`, `has` agree with `they`. Other verbs after `they` keep their form.
"""

import dataclasses
import re
from collections.abc import Sequence

from kstore_jax.errors import UserError
from kstore_jax.world.pools import Pools
from kstore_jax.world.schema import PRONOUNS
from kstore_jax.writers import matching
from kstore_jax.writers.prompts import PersonFacts
from kstore_jax.writers.words import Span, normalized_words

_SUBJECT, _POSSESSIVE, _OBJECT = range(3)
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
    """Characters [start, end) that refer to the person; `full`: by the full name."""

    start: int
    end: int
    case: int
    full: bool


def reword(
    pools: Pools,
    facts: PersonFacts,
    text: str,
    keys: Sequence[int] | None = None,
    fullname: bool = False,
) -> str:
    """Returns a text with its sentences sorted by `keys`, or with the full name in every reference
    to its person.

    Where sentences move, the first reference uses the full name and later ones a pronoun where
    they had the full name.

    Args:
      keys: random numbers; the key of sentence s is `keys[s % len(keys)]`. None keeps the order.

    Raises:
      UserError: the reworded text does not state the name or a fact.
    """
    spans = matching.find_facts(pools, text, facts.name, facts.values)
    values = [span for span in spans.values if span is not None]
    pronoun = _pronoun_in_use(text, pools.schema.pronouns, facts.pronoun)
    short_names = _short_names(pools, facts)
    references = _references(text, [facts.name, *short_names], pronoun, values, spans.names)
    sentences = _sentences(text, [*values, *spans.names])
    if keys is not None:
        sentences.sort(key=lambda sentence: keys[sentence[0] % len(keys)])
    introduced = keys is None  # an earlier sentence has the full name, or none needs it
    reworded = []
    for _, (start, end) in sentences:
        inside = [r for r in references if start <= r.start and r.end <= end]
        sentence = text[start:end].rstrip()
        for i, reference in reversed(list(enumerate(inside))):
            by_name = fullname or not pronoun or (not introduced and i == 0)
            if by_name or (reference.full and keys is not None):
                replacement = facts.name if by_name else pronoun
                sentence = _replace(sentence, start, reference, replacement, pronoun)
        introduced = introduced or bool(inside)
        reworded.append(sentence if sentence[-1] in ".!?\"'”’)" else f"{sentence}.")
    result = " ".join(reworded)
    if missing := matching.find_facts(pools, result, facts.name, facts.values).missing:
        raise UserError(
            f"person {facts.person}: the reworded text lost {', '.join(missing)}: {result!r}"
        )
    return result


def _pronoun_in_use(text: str, pronouns: Sequence[str], pronoun: str) -> str:
    """The pronoun that a text uses most, of those of the world; the person's own `pronoun` where it
    uses none, or several equally often."""
    words = normalized_words(text)
    counts = {p: sum(map(words.count, set(PRONOUNS[p]))) for p in pronouns}
    return max(counts, key=lambda p: (counts[p], p == pronoun), default="")


def _short_names(pools: Pools, facts: PersonFacts) -> list[str]:
    """The names that stand for the full one: first and last, first, last. A name of one part, or
    with a part of several words, has none."""
    parts = facts.name.split(" ")
    if len(parts) != len(pools.names) or len(parts) == 1:
        return []
    return [f"{parts[0]} {parts[-1]}", parts[0], parts[-1]]


def _sentences(text: str, unbreakable: Sequence[Span]) -> list[tuple[int, Span]]:
    """The sentences of a text with their numbers; none ends inside an `unbreakable` span."""
    starts = [0]
    for match in _END.finditer(text):
        dot = match.start()
        inside = any(start <= dot < end for start, end in unbreakable)
        after = any(end == dot for _, end in unbreakable)
        if not inside and (after or not _ABBREVIATION.search(text, 0, dot)):
            starts.append(match.end())
    return list(enumerate(zip(starts, [*starts[1:], len(text)], strict=True)))


def _references(
    text: str,
    called: Sequence[str],
    pronoun: str,
    values: Sequence[Span],
    names: Sequence[Span],
) -> list[_Reference]:
    """Every reference of a text to its person outside of `values`, in order: by a pronoun or by a
    name that it is `called`."""
    names_pattern = "|".join(map(re.escape, called))
    forms = "|".join(dict.fromkeys(PRONOUNS[pronoun])) if pronoun else "(?!)"
    pattern = re.compile(
        rf"\b(?:(?P<name>{_TITLE}(?:{names_pattern}))(?P<of>['’]s)?"
        rf"|(?P<pronoun>(?i:{forms})))\b(?!-)"
    )
    references = []
    covered = [*values]
    for start, end in names:  # as `matching` finds them, with any punctuation between their words
        of = re.compile("['’]s").match(text, end)
        case = _POSSESSIVE if of else _SUBJECT
        references.append(_Reference(start, of.end() if of else end, case, True))
        covered.append((start, references[-1].end))
    for match in pattern.finditer(text):
        if any(start < match.end() and match.start() < end for start, end in covered):
            continue
        if match["name"]:
            case = _POSSESSIVE if match["of"] else _SUBJECT
        else:
            case = _case(text, match, pronoun)
        references.append(_Reference(*match.span(), case, False))
    return sorted(references, key=lambda reference: reference.start)


def _case(text: str, match: re.Match, pronoun: str) -> int:
    word = match[0].lower()
    cases = [case for case, form in enumerate(PRONOUNS[pronoun]) if form == word]
    if len(cases) == 1 or cases[0] == _SUBJECT:  # `it` is both subject and object
        return cases[0]
    after = re.compile(r" ([\w'’-]+)").match(text, match.end())
    return _OBJECT if after is None or after[1].lower() in _AFTER_OBJECT else _POSSESSIVE


def _replace(
    sentence: str, offset: int, reference: _Reference, replacement: str, pronoun: str
) -> str:
    """Replaces one reference in a sentence that begins at `offset`.

    Args:
      replacement: the full name, or a pronoun in the subject's case.
      pronoun: the pronoun that the text uses.
    """
    start, end = reference.start - offset, reference.end - offset
    before, after = sentence[:start], sentence[end:]
    case = reference.case
    if replacement in PRONOUNS:
        previous = before.split()[-1].lower() if before.strip() else ""
        if case == _SUBJECT and previous in _BEFORE_OBJECT:
            case = _OBJECT
        word = PRONOUNS[replacement][case]
        word = word if re.search(r"\w", before) else word.capitalize()
        agreement = _PLURAL if replacement == "they" and case == _SUBJECT else {}
    else:
        word = f"{replacement}'s" if case == _POSSESSIVE else replacement
        from_they = sentence[start:end].lower() == "they" and pronoun == "they"
        agreement = _SINGULAR if from_they else {}
    verb = re.match(r" (\w+)\b", after)
    if verb and verb[1] in agreement:
        after = f" {agreement[verb[1]]}{after[verb.end() :]}"
    return f"{before}{word}{after}"
