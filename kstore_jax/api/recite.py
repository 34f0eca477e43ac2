"""What a model recites of a person, compared with what it read."""

import dataclasses
from collections.abc import Sequence

from kstore_jax.api.model import Model
from kstore_jax.api.world import Person, World
from kstore_jax.errors import UserError
from kstore_jax.readouts.examples import recite_after
from kstore_jax.world import stated
from kstore_jax.world.stated import Fact


@dataclasses.dataclass(frozen=True)
class Recitation:
    """The biography that a model writes after a name.

    Attributes:
      person: whom it is about.
      read: the first biography of the person, which pretraining read.
      text: the model's, after the prompt.
      given: how many facts the prompt states.
      facts: the values that the model wrote.
    """

    person: Person
    read: str
    text: str
    given: int
    facts: Sequence[Fact]


def recite(model: Model, world: World, person: Person, variant: str) -> Recitation:
    """Returns the biography that a model writes after the name of a person.

    Args:
      variant: of the biographies that the model read. Where the name does not come first, the
        prompt is the biography up to the end of the name, and the values in it do not count.

    Raises:
      UserError: the model is bidirectional, or lacks a token of the biography.
    """
    if model.shape.direction != "causal":
        raise UserError(f"{model.name}: a bidirectional model writes no text")
    read = person.text(variant)
    prompt = read[: read.spans["name"][0][1]]
    tokens, length = model.tokens(f" {prompt}"), len(model.tokens(f" {read}"))
    of_model = model.shape, model.params, model.vocabulary
    recited = recite_after(*of_model, world.language, tokens, length, person.facts)
    facts = [Fact(**fact) for fact in recited.get("facts", ())]
    text, given = recited.get("text", prompt), recited.get("given", 0)
    return Recitation(person, read, text, given, facts)


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
    score = stated.score(recitation.facts, len(person.facts), recitation.given)
    half = "P_train" if person.in_train else "P_test"
    return (
        f"person {person.id} ({half}): {score}\n"
        f"  read:  {recitation.read}\n  wrote: {stated.marked(recitation.text, recitation.facts)}"
    )
