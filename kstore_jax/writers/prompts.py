"""Prompts for biographies written by another model (bioR, Part 3.1, section 2.2).

A prompt is a pure function of `(seed, person, entry, attempt)`. A text is accepted if it states the
name and all facts (`matching.py` has the rules); otherwise the next attempt has another prompt.
"""

import dataclasses
import functools
import hashlib
import json
import re

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.world import random
from kstore_jax.world.people import People, full_names, value_texts
from kstore_jax.world.pools import Pools, read_lines
from kstore_jax.world.schema import Schema
from kstore_jax.writers import matching
from kstore_jax.writers.thoughts import without_thoughts

REJECTION_REASONS = ("declined", "unfinished", "empty", "name")
"""Why a text is rejected: the server declined to write it, it was cut off or ends in thoughts, it
is empty, or it lacks the name. Other reasons are the attributes that it lacks or states wrongly."""
_REQUEST = "Write a text of about 50 words about the {noun} {{name}}."
_PRONOUN = 'Call the {noun} "{{pronoun}}". '
_CLOSING = "State every fact in full, in any order, and reply with the text alone."
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


@dataclasses.dataclass(frozen=True)
class PersonFacts:
    """The name, the pronoun and the values of a person, as text.

    Attributes:
      person: the person's id.
      pronoun: empty where the world has none.
      values: in the order of the schema.
    """

    person: int
    name: str
    pronoun: str
    values: tuple[str, ...]


def person_facts(pools: Pools, people: People) -> list[PersonFacts]:
    """The facts of these people as text."""
    pronouns = pools.schema.pronouns or ("",)
    columns = full_names(pools, people), people.pronouns.tolist(), value_texts(pools, people)
    return [
        PersonFacts(person, name, pronouns[pronoun], values)
        for person, name, pronoun, values in zip(people.ids.tolist(), *columns, strict=True)
    ]


def pools_fingerprint(pools: Pools) -> str:
    """SHA-256 of everything that names and facts are drawn from."""
    functions = [index.tolist() for index in pools.functions.values()]
    columns = [index.tolist() for index in pools.columns.values()]
    rows = [] if pools.name_rows is None else pools.name_rows.tolist()
    content = [pools.names, pools.values, functions, columns, rows]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTexts:
    """The sentences that prompts consist of, by file: the request, the facts, the closing."""

    schema: Schema
    lines: dict[str, tuple[str, ...]]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all sentences."""
        return hashlib.sha256(json.dumps(self.lines).encode()).hexdigest()

    def prompt(self, seed: int, facts: PersonFacts, entry: int, attempt: int) -> tuple[str, int]:
        """The prompt for one attempt at an entry of a person, and its sampling seed, below 2^31."""
        count, groups = len(self.lines), self.schema.prompts
        numbers = random.bits(
            seed, "rewrite", facts.person, entry, attempt, np.arange(count + len(groups) + 1)
        ).tolist()
        drawn = {
            name: lines[number % len(lines)]
            for (name, lines), number in zip(self.lines.items(), numbers, strict=False)
        }
        keys = numbers[count:-1]
        order = sorted(range(len(groups)), key=keys.__getitem__)
        stated = [drawn[name] for group in order for name in groups[group]]
        prompt = " ".join([drawn["request"], *stated, drawn["closing"]])
        values = dict(zip(self.schema.names, facts.values, strict=True))
        return prompt.format(name=facts.name, pronoun=facts.pronoun, **values), numbers[-1] >> 33


@functools.cache
def load_prompts(schema: Schema) -> PromptTexts:
    """Reads the texts in the folder `prompts` of a world; without it, each fact has one sentence.

    Raises:
      UserError: a line does not have its placeholders; names the file and line.
    """
    folder, noun, files = schema.folder / "prompts", schema.noun, {}
    closing = _PRONOUN * bool(schema.pronouns) + _CLOSING
    files["request"] = ("name",), _REQUEST.format(noun=noun)
    for name in (name for group in schema.prompts for name in group):
        stated = [a for a in schema.attributes if name in (a.name, a.function_of)]
        sentences = (f"The {noun}'s {a.label} is {{{a.name}}}." for a in stated)
        files[name] = tuple(a.name for a in stated), " ".join(sentences)
    files["closing"] = ("pronoun",) * bool(schema.pronouns), closing.format(noun=noun)
    lines = {}
    for name, (placeholders, default) in files.items():
        path = folder / f"{name}.txt"
        expected = [f"{{{placeholder}}}" for placeholder in placeholders]
        lines[name] = read_lines(path) if folder.is_dir() else (default,)
        for number, line in enumerate(lines[name], 1):
            if sorted(re.findall(r"\{[^{}]*\}?|\}", line)) != sorted(expected):
                raise UserError(
                    f"{path}:{number}: expected {' and '.join(expected) or 'no braces'}, each "
                    f"once, got {line!r}"
                )
    return PromptTexts(schema, lines)


def clean_text(answer: str) -> str:
    """An answer on one line with single spaces, without invisible characters and thoughts."""
    return " ".join(_INVISIBLE.sub("", without_thoughts(answer)[0]).split())


def rejection_reasons(
    pools: Pools, facts: PersonFacts, text: str, fault: str = ""
) -> tuple[str, ...]:
    """Why a clean text is rejected, REJECTION_REASONS or attributes; empty where it is accepted.

    Args:
      fault: of the answer (`answers.Answer`).
    """
    if fault == "declined":
        return (fault,)
    reasons = (fault,) if fault else ()
    if not text:
        return (*reasons, "empty")
    return (*reasons, *matching.find_facts(pools, text, facts.name, facts.values).missing)
