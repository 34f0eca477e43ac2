"""Finds a person's name and facts in a text that a language model wrote.

Part 3.1, section 2.2 requires all attributes and does not say how to check for them. The rules
here:

* A fact is stated at its first mention in any accepted spelling: whoever reads "Baltimore,
  Maryland" knows the fact, also where "Baltimore, MD" follows.
* Text and values are compared word by word. A word is a run of letters and digits, or `&`, which
  equals `and`. Case, Unicode form (NFKC), white space and punctuation (any apostrophe, any hyphen)
  do not count, but at most three characters may separate two words of one value.
* Initials are one word or several: `U.S.`, `US`; `W. L. Gore`, `W.L. Gore`; `H-E-B`, `HEB`.
  `Saint` equals `St.`, `Fort` equals `Ft.`, `Mount` equals `Mt.`.
* A state is abbreviated or spelled out: `Baltimore, MD`, `Baltimore, Maryland`; `Washington, D.C.`.
  A city without its state does not count.
* A date has day, month and year: `October 2, 1996`, `October 2nd, 1996`, `October the 2nd, 1996`,
  `2 October 1996`, `the 2nd of October, 1996`, `the 2nd day of October, 1996`, `Oct. 2, 1996`,
  `10/2/1996`, `1996-10-02`.
* A number is written as digits, `28748`, in groups, `28,748`, or, up to twelve, as a word; it does
  not count inside a longer number. A value that is a date, `1996-10-02` or `2 October 1996`, has
  the spellings of dates.
* Several values of one fact are written in their order, with commas or `and` between them.
* Words of scripts without spaces, and emoji, are single characters.
* A value of one word in lower case counts only after `in`, `of`, `studied` or `studying`: "a degree
  in education" states the major Education, "his education" does not.
* Words of the person's own name count as a value only after a preposition or "studied": for
  somebody named Campbell, "Campbell's work" does not state the company Campbell's, "work at
  Campbell's" does.
* Part of the name, of a longer value of the same pool, or of any mention of another fact does not
  count: "Early Childhood Education" does not state Education, and the city "Oshkosh, WI" does not
  state the company Oshkosh.
* If two attributes have one value, as birth city and work city, one mention states both.
* A name counts only complete (first, middle and last), and not inside a value or a longer name of
  the table: "Mexico City" does not name Mexico, "Equatorial Guinea" not Guinea. Short names and
  pronouns are not mentions of it.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kstore_jax.world.pools import MONTHS, Pools
from kstore_jax.world.schema import Attribute, Schema
from kstore_jax.writers.words import Span, WordIndex, Words, index_words, normalized_words

STATES = {
    "al": "Alabama", "ak": "Alaska", "az": "Arizona", "ar": "Arkansas", "ca": "California",
    "co": "Colorado", "ct": "Connecticut", "de": "Delaware", "dc": "District of Columbia",
    "fl": "Florida", "ga": "Georgia", "hi": "Hawaii", "id": "Idaho", "il": "Illinois",
    "in": "Indiana", "ia": "Iowa", "ks": "Kansas", "ky": "Kentucky", "la": "Louisiana",
    "me": "Maine", "md": "Maryland", "ma": "Massachusetts", "mi": "Michigan", "mn": "Minnesota",
    "ms": "Mississippi", "mo": "Missouri", "mt": "Montana", "ne": "Nebraska", "nv": "Nevada",
    "nh": "New Hampshire", "nj": "New Jersey", "nm": "New Mexico", "ny": "New York",
    "nc": "North Carolina", "nd": "North Dakota", "oh": "Ohio", "ok": "Oklahoma", "or": "Oregon",
    "pa": "Pennsylvania", "ri": "Rhode Island", "sc": "South Carolina", "sd": "South Dakota",
    "tn": "Tennessee", "tx": "Texas", "ut": "Utah", "vt": "Vermont", "va": "Virginia",
    "wa": "Washington", "wv": "West Virginia", "wi": "Wisconsin", "wy": "Wyoming",
}  # fmt: skip
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)
_DATE = re.compile(
    r"(?P<year>\d{4})-(?P<number>\d\d)-(?P<day>\d\d)"
    r"|(?P<day_>\d{1,2}) (?P<month>[A-Z][a-z]+) (?P<year_>\d{4})"
    r"|(?P<month_>[A-Z][a-z]+) (?P<day__>\d{1,2}), (?P<year__>\d{4})"
)
_MAX_GAP = 3  # characters between two words of a value
_BEFORE_LOWER_CASE = {"in", "of", "studied", "studying"}
_BEFORE_OWN_NAME = {*_BEFORE_LOWER_CASE, "at", "by", "for", "from", "to", "with"}
_WITH_STATE = re.compile(r", [A-Z]{2}\Z")


@functools.lru_cache(maxsize=1 << 14)
def spellings(value: str) -> tuple[Words, ...]:
    """The ways to write a value other than a date, those with more words first."""
    spaced = value.replace(".", ". ")  # U.S. as U. S.
    read_spellings = [*_with_full_state(value), *_with_full_state(spaced), *_numbers(value)]
    distinct = dict.fromkeys(s for each in read_spellings for s in (each, _join_initials(each)))
    return tuple(sorted(distinct, key=len, reverse=True))


def _numbers(value: str) -> Iterator[Words]:
    """Other ways to write a whole number."""
    digits = value.replace(",", "")
    if not re.fullmatch(r"[1-9]\d*|0", digits) or value not in (digits, f"{int(digits):,}"):
        return
    yield (digits,)
    yield tuple(f"{int(digits):,}".split(","))
    if int(digits) < len(_SMALL):
        yield (_SMALL[int(digits)],)


@functools.lru_cache(maxsize=1 << 14)
def as_date(value: str) -> str:
    """A value that is a date as `October 2, 1996`; empty for other values."""
    if not (match := _DATE.fullmatch(value)):
        return ""
    parts = {name.strip("_"): text for name, text in match.groupdict().items() if text}
    if "number" in parts:
        number = int(parts["number"])
        parts["month"] = MONTHS[number - 1] if 1 <= number <= len(MONTHS) else ""
    if parts["month"] not in MONTHS:
        return ""
    return f"{parts['month']} {int(parts['day'])}, {parts['year']}"


@functools.lru_cache(maxsize=1 << 9)
def _month_and_day_patterns(month: str, day: str) -> tuple[tuple[frozenset[str], ...], ...]:
    """The ways to write a month and a day, each as the set of words allowed at every position."""
    number = [name.casefold() for name in MONTHS].index(month) + 1
    last = "" if day in ("11", "12", "13") else day[-1]
    ordinal = day + {"1": "st", "2": "nd", "3": "rd"}.get(last, "th")
    names = frozenset({month, month[:3], "sept" if month == "september" else month})
    plain = frozenset({day, f"{int(day):02}"})
    days = plain | {ordinal}
    the, of = frozenset({"the"}), frozenset({"of"})
    numbers = frozenset({str(number), f"{number:02}"})
    day_of = days, frozenset({"day"}), of, names
    written = (names, the, days), day_of, (days, of, names), (names, days), (days, names)
    return *written, (numbers, plain)


def _date_mentions(index: WordIndex, value: str) -> Iterator[Span]:
    """Where a text has a date, in word positions; finds it by its year."""
    month, day, year = normalized_words(value)
    for position in index.positions.get(year, ()):
        before = position - (position > 0 and index.words[position - 1] == "of")
        patterns = _month_and_day_patterns(month, day)
        for pattern in patterns:
            start = before - len(pattern)
            if start >= 0 and _match(index.words[start:before], pattern):
                yield start, position + 1
                break
        else:
            if _match(index.words[position + 1 : position + 3], patterns[-1]):  # 1996-10-02
                yield position, position + 3


def _match(words: Words, pattern: tuple[frozenset[str], ...]) -> bool:
    return len(words) == len(pattern) and all(
        word in allowed for word, allowed in zip(words, pattern, strict=True)
    )


def _with_full_state(value: str) -> list[Words]:
    words = normalized_words(value)
    state = STATES.get(words[-1]) if _WITH_STATE.search(value) else None
    return [words, (*words[:-1], *normalized_words(state))] if state else [words]


def _join_initials(words: Words) -> Words:
    """The same words, neighbouring single letters joined into one."""
    joined: list[str] = []
    after_initial = False
    for word in words:
        is_initial = len(word) == 1 and word.isalpha()
        if is_initial and after_initial:
            joined[-1] += word
        else:
            joined.append(word)
        after_initial = is_initial
    return tuple(joined)


@functools.lru_cache(maxsize=1 << 12)
def _longer_values(pools: Pools, attribute: str, value: str) -> tuple[Words, ...]:
    """The spellings of the pool's other values that contain the words of this one."""
    inside = _spaced(value)
    others = [
        other
        for other, words in _spaced_pool(pools, attribute)
        if inside in words and other != value
    ]
    return tuple(s for other in others for s in spellings(other) if len(s) > 1)


@functools.cache
def _spaced_pool(pools: Pools, attribute: str) -> list[tuple[str, str]]:
    """The values of a pool, each with its words between spaces."""
    return [(value, _spaced(value)) for value in pools.values[attribute]]


def _spaced(value: str) -> str:
    return " ".join(("", *normalized_words(value), ""))


def _occurrences(index: WordIndex, words: Words) -> Iterator[Span]:
    """Where a text has these words in a row, in word positions."""
    count = len(words)
    for start in index.positions.get(words[0], ()) if words else ():
        end = start + count
        if index.words[start:end] == words and _is_contiguous(index, start, end):
            yield start, end


def _is_contiguous(index: WordIndex, start: int, end: int) -> bool:
    """Whether at most _MAX_GAP characters separate neighbouring words."""
    return all(index.starts[i + 1] - index.ends[i] <= _MAX_GAP for i in range(start, end - 1))


def _means_value(index: WordIndex, span: Span, value: str, name: Words) -> bool:
    """Whether an occurrence is the value, and not a common word in lower case or the person."""
    start, end = span
    before = index.words[start - 1] if start else ""
    if {*index.words[start:end]} <= {*name, "s"} and before not in _BEFORE_OWN_NAME:
        return False
    first = index.text[index.starts[start]]
    if value[0].isdigit():
        return not _in_longer_number(index, span)
    if end > start + 1 or not first.islower() or first == value[0]:
        return True
    return before in _BEFORE_LOWER_CASE


def _in_longer_number(index: WordIndex, span: Span) -> bool:
    """Whether digits, with a point or comma between, go on before or after a span."""
    start, end = index.characters(span)
    before, after = index.text[max(0, start - 2) : start], index.text[end : end + 2]
    return bool(re.fullmatch(r"\d[.,]", before) or re.fullmatch(r"[.,]\d", after))


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _overlaps_any(span: Span, others: Sequence[Span]) -> bool:
    return any(_overlap(span, other) for other in others)


@dataclasses.dataclass(frozen=True)
class FactSpans:
    """Where a text has a name and facts, in characters.

    Attributes:
      names: every occurrence of the full name.
      values: one span for each attribute; None where the text does not state it.
      attributes: the names of the attributes.
    """

    names: tuple[Span, ...]
    values: tuple[Span | None, ...]
    attributes: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """`name` and the attributes that the text does not state."""
        values = zip(self.attributes, self.values, strict=True)
        return [*([] if self.names else ["name"]), *(a for a, span in values if span is None)]


def find_facts(pools: Pools, text: str, name: str, values: Sequence[str]) -> FactSpans:
    """Finds a full name and values, in the order of the schema, in a text.

    Of several mentions of a value, takes the first.
    """
    index, name_words, schema = index_words(text), normalized_words(name), pools.schema
    pairs = zip(schema.attributes, values, strict=True)
    mentions = [_mentions(index, pools, attribute, value, name_words) for attribute, value in pairs]
    inside = [span for spans in mentions for span in spans if _words(span) > len(name_words)]
    longer_names = _longer_names(pools).get(name_words, ())
    inside += [span for words in longer_names for span in _occurrences(index, words)]
    occurrences = sorted(_occurrences(index, name_words))
    names = [span for span in occurrences if not _overlaps_any(span, inside)]
    taken = list(names)
    chosen: list[Span | None] = [None] * len(mentions)
    for a in sorted(range(len(mentions)), key=lambda a: -max(map(_words, mentions[a]), default=0)):
        free = [span for span in mentions[a] if not _overlaps_any(span, taken)]
        chosen[a] = next(iter(free), None)
        taken += free
    for a, b in itertools.combinations(range(len(mentions)), 2):
        if values[a] == values[b]:
            free = [span for span in mentions[b] if not _overlaps_any(span, names)]
            _share_mentions(schema, chosen, free, a, b)
    return FactSpans(
        tuple(map(index.characters, names)),
        tuple(None if span is None else index.characters(span) for span in chosen),
        schema.names,
    )


@functools.lru_cache(maxsize=16)
def _longer_names(pools: Pools) -> dict[Words, list[Words]]:
    """The names of a table that contain the words of another one, by that one."""
    if pools.name_rows is None:
        return {}
    parts = (zip(pools.names, row, strict=True) for row in pools.name_rows.tolist())
    names = {normalized_words(" ".join(part[i] for part, i in name)) for name in parts}
    longer: dict[Words, list[Words]] = {}
    for name in names:
        for start, end in itertools.combinations(range(len(name) + 1), 2):
            if end - start < len(name) and name[start:end] in names:
                longer.setdefault(name[start:end], []).append(name)
    return longer


def _words(span: Span) -> int:
    return span[1] - span[0]


def _mentions(
    index: WordIndex, pools: Pools, attribute: Attribute, value: str, name: Words
) -> list[Span]:
    """Where a text has a value, outside of longer values of its pool; in order, in word
    positions."""
    if date := value if attribute.years else as_date(value):
        return [span for span in _date_mentions(index, date) if _is_contiguous(index, *span)]
    mentions: list[Span] = []
    for spelling in (*spellings(value), *_joined(pools, attribute, value)):
        for span in _occurrences(index, spelling):
            if _means_value(index, span, value, name) and not _overlaps_any(span, mentions):
                mentions.append(span)
    if mentions:
        longer = [
            span
            for spelling in _longer_values(pools, attribute.name, value)
            for span in _occurrences(index, spelling)
        ]
        mentions = [s for s in mentions if not any(a <= s[0] and s[1] <= b for a, b in longer)]
    return sorted(mentions)


def _joined(pools: Pools, attribute: Attribute, value: str) -> Iterator[Words]:
    """The other way to write several values of one fact: with `and` before the last."""
    if attribute.separator and (parts := _single_values(pools, attribute.name).get(value)):
        *before, last = parts
        yield normalized_words(f"{', '.join(before)} and {last}")
        yield normalized_words(f"{', '.join(before)}, and {last}")


@functools.lru_cache(maxsize=16)
def _single_values(pools: Pools, attribute: str) -> dict[str, list[str]]:
    """The single values of each value of an attribute that joins several."""
    values: Any = pools.values[attribute]
    starts, members = pools.accepted[attribute]
    bounds = zip(values, itertools.pairwise(starts.tolist()), strict=True)
    return {v: [values[m] for m in members[a:b]] for v, (a, b) in bounds if b > a}


def _share_mentions(
    schema: Schema, chosen: list[Span | None], free: list[Span], a: int, b: int
) -> None:
    """Chooses the mentions of a value that attributes a and b have.

    The one nearest to the company is the work city, which is a function of the company; another one
    is the birth city. A single mention is both.
    """
    if not free:
        return
    if schema.attributes[a].function_of:
        a, b = b, a
    near = free[-1]
    if of := schema.attributes[b].function_of:
        near = chosen[schema.names.index(of)] or near
    chosen[b] = min(free, key=lambda span: abs(span[0] - near[0]))
    chosen[a] = next((span for span in free if span != chosen[b]), chosen[b])
