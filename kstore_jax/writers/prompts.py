"""Prompts for biographies written by another model (bioR, Part 3.1, section 2.2).

A prompt is a pure function of `(seed, person, entry, attempt)`. A text is accepted if it states the
name and all facts (`matching.py` has the rules); otherwise the next attempt has another prompt.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world import random
from kstore_jax.world.people import People, full_names, value_texts
from kstore_jax.world.pools import Pools, read_lines
from kstore_jax.world.schema import Schema
from kstore_jax.writers import matching
from kstore_jax.writers.thoughts import without_thoughts

REJECTION_REASONS = ("declined", "unfinished", "empty", "name")
"""Why a text is rejected: the server declined to write it, it was cut off or ends in thoughts, it
is empty, or it lacks the name. Other reasons are the attributes that it lacks or states wrongly."""
STRATEGIES = pathlib.Path(__file__).parent / "strategies"
"""Folders with other requests than the text about a person; its README describes them."""
_MOST_OTHERS = 3  # named beside a fact
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
      others: of each value, the names of some others who have it, with commas; empty where nobody
        has, or where the prompts do not name others.
    """

    person: int
    name: str
    pronoun: str
    values: tuple[str, ...]
    others: tuple[str, ...] = ()


def person_facts(pools: Pools, people: People) -> list[PersonFacts]:
    """The facts of these people as text."""
    pronouns = pools.schema.pronouns or ("",)
    columns = full_names(pools, people), people.pronouns.tolist(), value_texts(pools, people)
    return [
        PersonFacts(person, name, pronouns[pronoun], values)
        for person, name, pronoun, values in zip(people.ids.tolist(), *columns, strict=True)
    ]


class Others:
    """Who else has the facts of a person.

    Args:
      everyone: all people of a world, in the order of their ids, which begin at 0.
    """

    def __init__(self, pools: Pools, everyone: People):
        self._pools, self._everyone = pools, everyone
        self._order = np.argsort(everyone.values, axis=0, kind="stable")
        self._sorted = np.take_along_axis(everyone.values, self._order, axis=0)

    def add(self, facts: PersonFacts) -> PersonFacts:
        """Returns the facts with the names of up to three others for each value: those after the
        person, by number, and then from the first on."""
        texts = []
        for a, value in enumerate(self._everyone.values[facts.person]):
            first, last = np.searchsorted(self._sorted[:, a], [value, value + 1])
            group = self._order[first:last, a]
            after = np.roll(group, -1 - np.searchsorted(group, facts.person))
            names = full_names(self._pools, self._everyone.take(after[:-1][:_MOST_OTHERS]))
            texts.append(", ".join(names))
        return dataclasses.replace(facts, others=tuple(texts))


def pools_fingerprint(pools: Pools) -> str:
    """SHA-256 of everything that names and facts are drawn from."""
    functions = [index.tolist() for index in pools.functions.values()]
    columns = [index.tolist() for index in pools.columns.values()]
    rows = [] if pools.name_rows is None else pools.name_rows.tolist()
    content = [pools.names, pools.values, functions, columns, rows]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTexts:
    """The sentences that prompts consist of.

    Attributes:
      lines: by file: the request, the facts, the closing.
      shared: the sentence about a fact that others have too; empty: there is none.
    """

    schema: Schema
    lines: dict[str, tuple[str, ...]]
    shared: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all sentences."""
        content = [self.lines, self.shared] if self.shared else self.lines
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

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
        values = dict(zip(self.schema.names, facts.values, strict=True))
        of_person = {"name": facts.name, "pronoun": facts.pronoun, **values}
        lines = [line.format(**of_person) for line in (drawn["request"], *stated)]
        lines += self._about_others(facts)
        return " ".join([*lines, drawn["closing"].format(**of_person)]), numbers[-1] >> 33

    def _about_others(self, facts: PersonFacts) -> list[str]:
        """The sentences about facts that others have too."""
        shared = zip(self.schema.attributes, facts.values, facts.others, strict=False)
        return [
            self.shared.format(label=attribute.label, value=value, others=others)
            for attribute, value, others in shared
            if others
        ]


@functools.cache
def load_prompts(schema: Schema, strategy: str = "") -> PromptTexts:
    """Reads the texts in the folder `prompts` of a world; without it, each fact has one sentence.

    Args:
      strategy: the name of a folder in `writers/strategies`, or a folder, whose request and closing
        replace the world's; empty: none.

    Raises:
      UserError: there is no such strategy, or a line does not have its placeholders; names the file
        and line.
    """
    world = _world_prompts(schema)
    if not strategy:
        return world
    names = sorted(path.name for path in STRATEGIES.iterdir() if path.is_dir())
    folder = STRATEGIES / strategy if strategy in names else pathlib.Path(strategy).expanduser()
    if not folder.is_dir():
        raise UserError(f"--strategy: no folder {strategy!r}{nearest(strategy, names)}")

    def read(name: str, placeholders: tuple[str, ...]) -> tuple[str, ...]:
        path, noun = folder / f"{name}.txt", "{noun}"
        lines = tuple(line.replace(noun, schema.noun) for line in read_lines(path))
        _check_placeholders(path, lines, placeholders)
        return lines

    own = {"request": read("request", ("name",)), "closing": read("closing", ())}
    shared = ""
    if (folder / "shared.txt").is_file():
        shared = read("shared", ("label", "value", "others"))[0]
    return PromptTexts(schema, world.lines | own, shared)


def _world_prompts(schema: Schema) -> PromptTexts:
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
        lines[name] = read_lines(path) if folder.is_dir() else (default,)
        _check_placeholders(path, lines[name], placeholders)
    return PromptTexts(schema, lines)


def _check_placeholders(
    path: pathlib.Path, lines: Sequence[str], placeholders: Sequence[str]
) -> None:
    """Raises UserError where a line of a file does not have each placeholder once."""
    expected = [f"{{{placeholder}}}" for placeholder in placeholders]
    for number, line in enumerate(lines, 1):
        if sorted(re.findall(r"\{[^{}]*\}?|\}", line)) != sorted(expected):
            raise UserError(
                f"{path}:{number}: expected {' and '.join(expected) or 'no braces'}, each once, "
                f"got {line!r}"
            )


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
