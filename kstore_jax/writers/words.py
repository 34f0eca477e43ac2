"""The words of a text, normalized so that spellings of one name or value are equal."""

import dataclasses
import functools
import re
import unicodedata

Span = tuple[int, int]  # [start, end): of characters, or of word positions where it says so
Words = tuple[str, ...]

_MARKS = "".join(chr(c) for c in range(0x300, 0x3000) if unicodedata.category(chr(c))[0] == "M")
_ALONE = (  # Thai to Burmese, Khmer, kana, Han; symbols and emoji
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff\u2600-\u27bf\U0001f000-\U0001faff"
)
# A letter with its accents; apostrophes are no letters. U.S. is one word.
_LETTER = rf"(?:[^\W_\u02b9-\u02bd{_ALONE}][{_MARKS}]*)"
_WORD = re.compile(rf"{_LETTER}(?:\.{_LETTER}(?!{_LETTER}))+|{_LETTER}+|[{_ALONE}][{_MARKS}]*|&")
_EQUIVALENT = {"&": "and", "saint": "st", "fort": "ft", "mount": "mt"}


@dataclasses.dataclass(frozen=True)
class WordIndex:
    """The normalized words of a text, each with its start and end in characters."""

    text: str
    words: Words
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @functools.cached_property
    def positions(self) -> dict[str, list[int]]:
        """The positions of each word, ascending."""
        positions: dict[str, list[int]] = {}
        for position, word in enumerate(self.words):
            positions.setdefault(word, []).append(position)
        return positions

    def characters(self, span: Span) -> Span:
        """The characters of a span of word positions."""
        return self.starts[span[0]], self.ends[span[1] - 1]


def index_words(text: str) -> WordIndex:
    """Splits a text into normalized words."""
    words, starts, ends = [], [], []
    is_ascii = text.isascii()
    for match in _WORD.finditer(text.lower() if is_ascii else text):
        word = match[0]
        if not is_ascii:
            word = unicodedata.normalize("NFKC", word).casefold()
        if "." in word:
            word = word.replace(".", "")
        words.append(_EQUIVALENT.get(word, word))
        starts.append(match.start())
        ends.append(match.end())
    return WordIndex(text, tuple(words), tuple(starts), tuple(ends))


def normalized_words(text: str) -> Words:
    """The normalized words of a text."""
    return index_words(text).words
