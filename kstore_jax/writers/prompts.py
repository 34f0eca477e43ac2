"""bioR: biographies that somebody else writes from the facts (Part 3.1, section 2.2).

What is asked is a pure function of `(seed, person, entry, attempt)`; of what comes back only texts
are kept that state the name and all six facts (`matcher.py` says what counts), and otherwise the
next attempt is asked for.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.world import random
from kstore_jax.world.people import ATTRIBUTES, PRONOUNS, People, Pools, read_lines
from kstore_jax.writers import matching

PROMPTS = pathlib.Path(__file__).parent / "prompt_texts"
_MARKS = {
    "request": ("name",),
    "university": ("university",),
    "major": ("major",),
    "birth_city": ("birth_city",),
    "company": ("company", "company_city"),
    "birth_date": ("birth_date",),
    "closing": ("pronoun",),
}
_TOGETHER = (("university", "major"), ("birth_city",), ("company",), ("birth_date",))
REFUSALS = ("declined", "unfinished", "empty", "name", *ATTRIBUTES)
"""Why a text is not kept: the server declined to write it, it was cut at the limit of length, is
empty, or lacks the name or a fact (which it may state wrongly)."""
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Facts:
    """A person in words; `values` in the order of ATTRIBUTES."""

    person: int
    name: str
    pronoun: str
    values: tuple[str, ...]


def facts(pools: Pools, who: People) -> list[Facts]:
    """These people in words."""
    columns = (pools.first_names, pools.middle_names, pools.last_names)
    rows = zip(
        who.ids.tolist(), who.names.tolist(), who.pronouns.tolist(), who.values.tolist(),
        strict=True,
    )  # fmt: skip
    return [
        Facts(
            person,
            " ".join(column[i] for column, i in zip(columns, names, strict=True)),
            PRONOUNS[pronoun],
            tuple(pools.values[a][v] for a, v in zip(ATTRIBUTES, values, strict=True)),
        )
        for person, names, pronoun, values in rows
    ]


def fingerprint(pools: Pools) -> str:
    """SHA-256 of all that facts are drawn from."""
    names = pools.first_names, pools.middle_names, pools.last_names
    told = [names, pools.values, pools.headquarters.tolist()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """The sentences that prompts are made of, by file."""

    lines: dict[str, tuple[str, ...]]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all sentences."""
        return hashlib.sha256(json.dumps(self.lines).encode()).hexdigest()

    def ask(self, seed: int, who: Facts, entry: int, attempt: int) -> tuple[str, int]:
        """What the writer is asked for an entry of a person, and the seed of its sampling, which
        is less than 2^31."""
        count = len(_MARKS)
        numbers = random.bits(
            seed, "rewrite", who.person, entry, attempt, np.arange(count + len(_TOGETHER) + 1)
        ).tolist()
        drawn = {
            name: lines[number % len(lines)]
            for (name, lines), number in zip(self.lines.items(), numbers, strict=False)
        }
        keys = numbers[count:-1]
        order = sorted(range(len(_TOGETHER)), key=keys.__getitem__)
        stated = [drawn[name] for group in order for name in _TOGETHER[group]]
        prompt = " ".join([drawn["request"], *stated, drawn["closing"]])
        values = dict(zip(ATTRIBUTES, who.values, strict=True))
        return prompt.format(name=who.name, pronoun=who.pronoun, **values), numbers[-1] >> 33


@functools.cache
def load_prompts(folder: pathlib.Path = PROMPTS) -> Prompts:
    """The prompts in a folder; UserError names the file and line where they break its rules."""
    lines = {}
    for name, marks in _MARKS.items():
        path = folder / f"{name}.txt"
        lines[name] = read_lines(path)
        for number, line in enumerate(lines[name], 1):
            found = re.findall(r"\{[^{}]*\}?|\}", line)
            if sorted(found) != sorted(f"{{{mark}}}" for mark in marks):
                told = " and ".join(f"{{{mark}}}" for mark in marks)
                raise UserError(f"{path}:{number}: expected {told}, each once, got {line!r}")
    return Prompts(lines)


def tidy(text: str) -> str:
    """An answer as it is kept: on one line, single spaces, without invisible characters and
    without the thoughts that some models put before it."""
    return " ".join(_INVISIBLE.sub("", _THOUGHTS.sub("", text)).split())


def refusals(pools: Pools, who: Facts, text: str, fault: str = "") -> tuple[str, ...]:
    """Why a tidy text is not kept, some of REFUSALS; nothing where it is.

    Args:
      fault: `declined` or `unfinished` where the writer did not end by itself.
    """
    if fault == "declined":
        return (fault,)
    early = (fault,) if fault else ()
    if not text:
        return (*early, "empty")
    found = matching.find(pools, text, who.name, who.values)
    missing = [a for a, place in zip(ATTRIBUTES, found.values, strict=True) if place is None]
    return (*early, *(() if found.names else ("name",)), *missing)
