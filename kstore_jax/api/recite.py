"""What a model recites of a person, compared with what it read."""

import dataclasses
from collections.abc import Mapping, Sequence

from kstore_jax.api.model import Model
from kstore_jax.api.world import Person, World
from kstore_jax.world.language import Language
from kstore_jax.world.stated import statements


@dataclasses.dataclass(frozen=True)
class Fact:
    """A value that a text states.

    Attributes:
      attribute: the fact; of a wrong value, the first that it may be.
      start, end: its place in the text, in characters.
      truth: the right value.
      right: whether the text has it.
    """

    attribute: str
    start: int
    end: int
    truth: str
    right: bool


@dataclasses.dataclass(frozen=True)
class Recitation:
    """The biography that a model writes after a name.

    Attributes:
      person: whom it is about.
      read: the first biography of the person, which pretraining read.
      text: the model's.
      facts: the values that the model wrote.
    """

    person: Person
    read: str
    text: str
    facts: Sequence[Fact]

    def marked(self, right: str = "{}", wrong: str = "[{} ≠ {}]") -> str:
        """Returns the model's text with each value in a format: `right` takes the value, `wrong`
        the value and the truth."""
        parts, end = [], 0
        for fact in self.facts:
            value = self.text[fact.start : fact.end]
            parts += [self.text[end : fact.start]]
            parts += [right.format(value) if fact.right else wrong.format(value, fact.truth)]
            end = fact.end
        return "".join([*parts, self.text[end:]])


def facts_of(language: Language, text: str, truth: Mapping[str, str]) -> list[Fact]:
    """Returns the values in a text, compared with the facts of a person.

    Args:
      truth: attribute -> value.
    """
    facts = []
    for attributes, start, end in statements(language, text):
        right = [name for name in attributes if truth[name] == text[start:end]]
        name = (right or attributes)[0]
        facts.append(Fact(name, start, end, truth[name], bool(right)))
    return facts


def recite(model: Model, world: World, person: Person, variant: str) -> Recitation:
    """Returns the biography that a model writes after the name of a person.

    Args:
      variant: of the biographies that the model read. Where the name does not come first, the
        prompt is the biography up to the end of the name, and the values in it do not count.

    Raises:
      UserError: the model is bidirectional.
    """
    read = person.text(variant)
    prompt = read[: read.spans["name"][0][1]]
    most = 8 + 2 * len(model.tokens(f" {read}"))
    text = prompt + model.generate(prompt, max_tokens=most)
    facts = facts_of(world.language, text, person.facts)
    return Recitation(person, read, text, [fact for fact in facts if fact.start >= len(prompt)])


def examples(world: World, of_each_half: int) -> list[Person]:
    """Returns the first people of each half, the held-out half first."""
    halves = [[], []]
    for person in world:
        if len(half := halves[person.in_train]) < of_each_half:
            half.append(person)
        if min(map(len, halves)) == of_each_half:
            break
    return [*halves[0], *halves[1]]


def format_recitation(recitation: Recitation) -> str:
    """Returns what a person's biography says and what the model wrote, for a terminal; wrong
    values are in brackets, before the truth."""
    person = recitation.person
    right = len({fact.attribute for fact in recitation.facts if fact.right})
    half = "P_train" if person.in_train else "P_test"
    return (
        f"person {person.id} ({half}): {right} of {len(person.facts)} facts right\n"
        f"  read:  {recitation.read}\n  wrote: {recitation.marked()}"
    )
