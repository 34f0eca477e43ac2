"""What texts of the page call those whom a world is about: people, or the noun of a table."""

import re
from collections.abc import Iterable

PERSON = "person"
"""The noun that the texts are written with."""
_WRITTEN = re.compile(r"\b(?:([Aa]) )?([Pp])(erson|eople)\b('s)?")


def plural(noun: str) -> str:
    """Returns the plural of a noun.

    >>> plural("country"), plural("class"), plural("person")
    ('countries', 'classes', 'people')
    """
    if noun == PERSON:
        return "people"
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search("(s|x|ch|sh)$", noun) else f"{noun}s"


def with_noun(text: str, noun: str) -> str:
    """Returns a text about a person or people as one about a `noun`. The text is ours: values,
    labels and names of a world are put in afterwards.

    >>> with_noun("Each person's facts; answers about people held out.", "country")
    "Each country's facts; answers about countries held out."
    >>> with_noun("Bits a person", "entry")
    'Bits an entry'
    """

    def replaced(match: re.Match[str]) -> str:
        article, first, rest, of = match.groups()
        name = noun if rest == "erson" else plural(noun)
        name = name.capitalize() if first == "P" else name
        an = "n" * (noun[0].lower() in "aeio")
        owner = "'" if of and name.endswith("s") else of or ""
        return f"{article}{an} {name}{owner}" if article else f"{name}{owner}"

    return text if noun == PERSON else _WRITTEN.sub(replaced, text)


def shared_noun(nouns: Iterable[str]) -> str:
    """Returns the noun that all worlds of a page have; `person` where they differ."""
    only, *others = {*nouns} or {PERSON}
    return PERSON if others else only
