"""Whether a text written by somebody else states a person's name and facts, and where.

What counts as a value being in a text (Part 3.1, section 2.2 asks for all six attributes and does
not say how that is told):

* Text and values are compared word by word. A word is a run of letters and digits, or `&`, which is
  read as `and`; case, the form of a character in Unicode (NFKC), white space and punctuation of any
  kind do not count, but between two words of one value at most three characters may stand.
* Initials are one word or several: `U.S.`, `US`; `W. L. Gore`, `W.L. Gore`; `H-E-B`, `HEB`.
  `Saint` is `St.`, `Fort` is `Ft.`, `Mount` is `Mt.`.
* A state is abbreviated or spelled out: `Baltimore, MD`, `Baltimore, Maryland`; `Washington, D.C.`.
  A city without its state does not count.
* A date has day, month and year: `October 2, 1996`, `October 2nd, 1996`, `October the 2nd, 1996`,
  `2 October 1996`, `the 2nd of October, 1996`, `Oct. 2, 1996`, `10/2/1996`, `1996-10-02`.
* A value of one word that is written in lower case counts only after `in`, `of`, `studied` or
  `studying`: "a degree in education" states the major Education, "his education" does not.
* What is part of a longer value of the same pool, or of another fact of the same text, does not
  count: Education is not stated by "Early Childhood Education", nor the company Oshkosh by the
  city "Oshkosh, WI".
* If birth and work city are the same, one mention states both.
* A name counts whole: first, middle and last.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence

from kstore_jax.world.people import ATTRIBUTES, MONTHS, Pools

Span = tuple[int, int]  # characters [start, end)
Form = tuple[str, ...]  # words

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
_WORD = re.compile(r"[^\W_](?:\.[^\W_](?![^\W_]))+|[^\W_]+|&")  # U.S. is one word
_SAME = {"&": "and", "saint": "st", "fort": "ft", "mount": "mt"}
_GAP = 3
_BEFORE_LOWER_CASE = {"in", "of", "studied", "studying"}
_CITIES = ("birth_city", "company_city")


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a text, normalised, and where each stands in it."""

    text: str
    words: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @functools.cached_property
    def places(self) -> dict[str, list[int]]:
        """Where each word comes."""
        found: dict[str, list[int]] = {}
        for place, word in enumerate(self.words):
            found.setdefault(word, []).append(place)
        return found


def split(text: str) -> Words:
    """The words of a text, normalised."""
    words, starts, ends = [], [], []
    ascii_alone = text.isascii()
    for match in _WORD.finditer(text.lower() if ascii_alone else text):
        word = match[0]
        if not ascii_alone:
            word = unicodedata.normalize("NFKC", word).casefold()
        if "." in word:
            word = word.replace(".", "")
        words.append(_SAME.get(word, word))
        starts.append(match.start())
        ends.append(match.end())
    return Words(text, tuple(words), tuple(starts), tuple(ends))


def normalised(text: str) -> Form:
    """The words of a text alone."""
    return split(text).words


@functools.lru_cache(maxsize=1 << 14)
def forms(attribute: str, value: str) -> tuple[Form, ...]:
    """The ways of writing a value that is no date, as words, those with more words first."""
    apart = value.replace(".", ". ")  # U.S. as U. S.
    read = _with_states if attribute in _CITIES else lambda text: [normalised(text)]
    found = [*read(value), *read(apart)]
    found = dict.fromkeys(form for each in found for form in (each, _initials_joined(each)))
    return tuple(sorted(found, key=len, reverse=True))


@functools.lru_cache(maxsize=1 << 9)
def _of_month_and_day(month: str, day: str) -> tuple[tuple[frozenset[str], ...], ...]:
    """The ways to write a month and a day, word by word: what each may be."""
    number = [name.casefold() for name in MONTHS].index(month) + 1
    last = "" if day in ("11", "12", "13") else day[-1]
    ordinal = day + {"1": "st", "2": "nd", "3": "rd"}.get(last, "th")
    names = frozenset({month, month[:3], "sept" if month == "september" else month})
    plain = frozenset({day, f"{int(day):02}"})
    days = plain | {ordinal}
    the, of = frozenset({"the"}), frozenset({"of"})
    numbers = frozenset({str(number), f"{number:02}"})
    return (names, the, days), (days, of, names), (names, days), (days, names), (numbers, plain)


def _dates(text: Words, value: str) -> Iterator[Span]:
    """Where a date is written, in places of words, found by its year."""
    month, day, year = normalised(value)
    for place in text.places.get(year, ()):
        before = place - (place > 0 and text.words[place - 1] == "of")
        ways = _of_month_and_day(month, day)
        for way in ways:
            start = before - len(way)
            if start >= 0 and _are(text.words[start:before], way):
                yield start, place + 1
                break
        else:
            if _are(text.words[place + 1 : place + 3], ways[-1]):  # year, month, day in numbers
                yield place, place + 3


def _are(words: Form, way: tuple[frozenset[str], ...]) -> bool:
    return len(words) == len(way) and all(w in some for w, some in zip(words, way, strict=True))


def _with_states(value: str) -> list[Form]:
    words = normalised(value)
    state = STATES.get(words[-1])
    return [words, (*words[:-1], *normalised(state))] if state else [words]


def _initials_joined(form: Form) -> Form:
    """The same words with neighbouring single letters as one word."""
    joined: list[str] = []
    run = False
    for word in form:
        single = len(word) == 1 and word.isalpha()
        if single and run:
            joined[-1] += word
        else:
            joined.append(word)
        run = single
    return tuple(joined)


@functools.lru_cache(maxsize=1 << 12)
def _longer(pools: Pools, attribute: str, value: str) -> tuple[Form, ...]:
    """The forms of the pool's other values that have the words of this one inside them."""
    inside = _spaced(value)
    others = [
        other
        for other, words in _spaced_pool(pools, attribute)
        if inside in words and other != value
    ]
    return tuple(form for other in others for form in forms(attribute, other) if len(form) > 1)


@functools.cache
def _spaced_pool(pools: Pools, attribute: str) -> list[tuple[str, str]]:
    """The values of a pool, each with its words between spaces."""
    return [(value, _spaced(value)) for value in pools.values[attribute]]


def _spaced(value: str) -> str:
    return " ".join(("", *normalised(value), ""))


def _occurrences(text: Words, form: Form) -> Iterator[Span]:
    """Where a form stands in a text, in places of words."""
    count = len(form)
    for place in text.places.get(form[0], ()):
        end = place + count
        if text.words[place:end] == form and _close(text, place, end):
            yield place, end


def _close(text: Words, place: int, end: int) -> bool:
    """Whether nothing much stands between neighbouring words."""
    return all(text.starts[i + 1] - text.ends[i] <= _GAP for i in range(place, end - 1))


def _stated(text: Words, span: Span, value: str) -> bool:
    """Whether a mention is meant as the value and not as a common word."""
    place, end = span
    first = text.text[text.starts[place]]
    if end > place + 1 or not first.islower() or first == value[0]:
        return True
    return place > 0 and text.words[place - 1] in _BEFORE_LOWER_CASE


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in a text, in characters.

    names: each place of the full name; values: the place of each of the six attributes, None where
    it is not stated.
    """

    names: tuple[Span, ...]
    values: tuple[Span | None, ...]


def find(pools: Pools, text: str, name: str, values: Sequence[str]) -> Found:
    """Looks for a full name and the six values, in the order of ATTRIBUTES, in a text.

    Of several mentions of a value the first one in the value's own case counts, or else the first.
    """
    words = split(text)
    names = sorted(_occurrences(words, normalised(name)))
    taken = list(names)
    mentions = [_mentions(words, pools, a, v) for a, v in zip(ATTRIBUTES, values, strict=True)]
    places: list[Span | None] = [None] * len(ATTRIBUTES)
    longest = sorted(range(len(ATTRIBUTES)), key=lambda a: -_most_words(mentions[a]))
    for a in longest:
        free = [span for span in mentions[a] if not any(_overlap(span, t) for t in taken)]
        if free:
            own = [s for s in free if values[a] in text[words.starts[s[0]] : words.ends[s[1] - 1]]]
            places[a] = (own or free)[0]
            taken.append(places[a])
    _share_city(places, values, mentions, [*names])

    def characters(span: Span) -> Span:
        return words.starts[span[0]], words.ends[span[1] - 1]

    return Found(
        tuple(map(characters, names)),
        tuple(None if place is None else characters(place) for place in places),
    )


def _most_words(spans: list[Span]) -> int:
    return max((end - start for start, end in spans), default=0)


def _mentions(text: Words, pools: Pools, attribute: str, value: str) -> list[Span]:
    """The places of a value that are not part of a longer value of its pool, in order."""
    if attribute == "birth_date":
        return [span for span in _dates(text, value) if _close(text, *span)]
    found: list[Span] = []
    for form in forms(attribute, value):
        for span in _occurrences(text, form):
            if _stated(text, span, value) and not any(_overlap(span, f) for f in found):
                found.append(span)
    if found:
        longer = [
            span for form in _longer(pools, attribute, value) for span in _occurrences(text, form)
        ]
        found = [s for s in found if not any(a <= s[0] and s[1] <= b for a, b in longer)]
    return sorted(found)


def _share_city(
    places: list[Span | None],
    values: Sequence[str],
    mentions: list[list[Span]],
    names: list[Span],
) -> None:
    """Where both cities are the same, the mention next to the company is the work city, another
    the birth city; one mention is both."""
    birth, company, work = (ATTRIBUTES.index(a) for a in ("birth_city", "company", "company_city"))
    if values[birth] != values[work]:
        return
    free = [s for s in mentions[work] if not any(_overlap(s, name) for name in names)]
    if not free:
        return
    beside = places[company] or free[-1]
    places[work] = min(free, key=lambda span: abs(span[0] - beside[0]))
    places[birth] = next((span for span in free if span != places[work]), places[work])
