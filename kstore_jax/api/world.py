"""People, their facts and their texts as Python objects; needs no JAX."""

import dataclasses
import functools
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kstore_jax.config.parse import parse
from kstore_jax.corpus.facts import write_world
from kstore_jax.errors import UserError, user_path
from kstore_jax.world import config
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import ANSWER_MARK, Language, Texts, load_language, pieces_to_text
from kstore_jax.world.people import (
    People,
    check_people_count,
    draw_people,
    full_names,
    in_train_half,
    value_texts,
)
from kstore_jax.world.questions import TRAINED_WORDING, write_questions


class Text(str):
    """A text that knows where its facts are.

    Attributes:
      spans: name of an attribute, or `name` -> the (start, end) of each occurrence, in characters.
    """

    spans: dict[str, list[tuple[int, int]]]

    def __new__(cls, text: str, spans: Mapping[str, list[tuple[int, int]]]) -> "Text":
        self = super().__new__(cls, text)
        self.spans = dict(spans)
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """A person of a world.

    Attributes:
      id: the person's number.
      name: the full name.
      facts: attribute -> value.
      in_train: whether the person belongs to P_train, the half whose questions may be trained.
    """

    id: int
    name: str
    facts: Mapping[str, str]
    in_train: bool
    _world: "World" = dataclasses.field(repr=False)
    _as_people: People = dataclasses.field(repr=False)

    @property
    def pronoun(self) -> str:
        """The pronoun; empty in a world without pronouns."""
        pronouns = self._world.language.schema.pronouns
        return pronouns[int(self._as_people.pronouns[0])] if pronouns else ""

    def text(self, variant: str = "single", entry: int = 0) -> Text:
        """Returns a biography as `Text`.

        Args:
          variant: how biographies are written, as `data.variant` takes it.
          entry: number of the biography among those of the person.

        Raises:
          UserError: there is no such variant, or it has no such biography.
        """
        kind, world = Variant.parse(variant, "variant"), self._world
        if entry < 0 or (entry >= kind.biographies_per_person and not kind.fresh):
            most = kind.biographies_per_person
            raise UserError(f"entry: expected 0 to {most - 1} for {variant}, got {entry}")
        written = write_biographies(
            world.language, world.seed, kind, self._as_people, np.array([entry])
        )
        facts = [list(self.facts)[a] for a in written.order[0]]
        return _text(world.language, written.texts, facts)

    def question(self, attribute: str, wording: int = TRAINED_WORDING) -> str:
        """Returns the question about an attribute.

        Raises:
          UserError: there is no such attribute or wording.
        """
        names, wordings = list(self.facts), self._world.language.questions.shape[1]
        if attribute not in names:
            raise UserError(f"attribute: expected one of {', '.join(names)}, got {attribute!r}")
        if not 0 <= wording < wordings:
            raise UserError(f"wording: expected 0 to {wordings - 1}, got {wording}")
        number = np.array([names.index(attribute)])
        texts = write_questions(self._world.language, self._as_people, number, wording).texts
        asked = pieces_to_text(self._world.language, texts.pieces[0, : texts.value_slots[0]])
        return asked.removesuffix(ANSWER_MARK).strip()


def _text(language: Language, texts: Texts, facts: list[str]) -> Text:
    """One row of pieces with the spans of its values and names."""
    parts = [language.pieces[piece] for piece in texts.pieces[0]]
    ends = np.cumsum([len(part) for part in parts])
    whole = "".join(parts)
    lead = len(whole) - len(whole.lstrip())  # the space before the first word is left out

    def span(first: int, last: int) -> tuple[int, int]:
        space = len(parts[first]) - len(parts[first].lstrip())
        start = int(ends[first]) - len(parts[first]) + space
        return start - lead, int(ends[last]) - lead

    spans = {"name": [span(s, s + len(language.name_offsets) - 1) for s in texts.name_slots]}
    for fact, slot in zip(facts, texts.value_slots, strict=True):
        spans.setdefault(fact, []).append(span(slot, slot))
    return Text(whole[lead:], spans)


class World:
    """Invented people, or the rows of a table of facts.

    >>> world = World(people=500, seed=0)
    >>> world[1].name
    'Anna Estelle Conway'
    >>> world[1].facts["university"]
    'Barnard College'
    >>> world[1].text().partition(".")[0]
    'Anna Estelle Conway entered the world on July 19, 1962'
    >>> text = world[1].text("multi5+permute", entry=2)
    >>> [text[start:end] for start, end in text.spans["university"]]
    ['Barnard College']
    >>> world[1].question("university")
    'Which university did Anna Estelle Conway attend?'

    Args:
      folder: of the world; empty: the bundled one.
      table: a table of facts instead of a folder, as `kstore facts` takes it.
      name, attributes: columns of the table; empty: guessed.
      people: their number; None: 500, or every row where the world has a table.
      seed: of people and texts.
      value_fraction, name_fraction: as `world.value_fraction` and `world.name_fraction`.

    Raises:
      UserError: the folder or the table is not as expected, or makes fewer people.
    """

    def __init__(
        self,
        folder: str | pathlib.Path = "",
        *,
        table: str | pathlib.Path = "",
        name: Sequence[str] = (),
        attributes: Sequence[str] = (),
        people: int | None = None,
        seed: int = 0,
        value_fraction: float = 1.0,
        name_fraction: float = 1.0,
    ):
        if table and folder:
            raise UserError(f"table: expected without a folder, got {str(folder)!r} as well")
        folder = str(user_path(str(folder))) if folder else ""
        if table:
            written = tempfile.mkdtemp(prefix="kstore-")
            weakref.finalize(self, shutil.rmtree, written, ignore_errors=True)
            folder = f"{written}/world"
            write_world(user_path(str(table)), pathlib.Path(folder), name, attributes)
        self.language = load_language(folder, value_fraction, name_fraction)
        pools = self.language.pools
        if people is None:
            people = 500 if pools.name_rows is None else len(pools.name_rows)
        fields = {"people": people, "seed": seed, "folder": folder}
        fractions = {"value_fraction": value_fraction, "name_fraction": name_fraction}
        self.config = parse(config.World, {**fields, **fractions})
        check_people_count(pools, people)
        self.seed = seed

    @classmethod
    def of(cls, world: config.World) -> "World":
        """Returns the world that a configuration describes; celebrities are its last people."""
        return cls(
            world.folder,
            people=world.people + world.celebrities,
            seed=world.seed,
            value_fraction=world.value_fraction,
            name_fraction=world.name_fraction,
        )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return self.language.schema.names

    @functools.cached_property
    def _people(self) -> People:
        return draw_people(self.language.pools, self.seed, np.arange(len(self)))

    def __len__(self) -> int:
        return self.config.people

    def __getitem__(self, number: int) -> Person:
        if not 0 <= number < len(self):
            raise IndexError(f"expected a person from 0 to {len(self) - 1}, got {number}")
        one, pools = self._people.take(np.array([number])), self.language.pools
        (name,), (values,) = full_names(pools, one), value_texts(pools, one)
        facts = dict(zip(self.attributes, values, strict=True))
        in_train = bool(in_train_half(self.seed, number))
        return Person(number, name, facts, in_train, self, one)

    def __iter__(self) -> Iterator[Person]:
        return (self[number] for number in range(len(self)))
