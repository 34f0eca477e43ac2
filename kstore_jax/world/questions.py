"""The six questions and their answers (Part 3.1, section 2.3): `question? Answer: value`."""

import dataclasses

import numpy as np

from kstore_jax.world.language import FIRST, VALUE, Language, fill
from kstore_jax.world.people import People

TRAINED_WORDING = 0


@dataclasses.dataclass(frozen=True)
class Questions:
    """Some questions with their answers, as columns of B rows.

    people (B,) person ids; attributes (B,) what is asked for; pieces (B, SLOTS); value_slots (B,)
    the slot of the answer; name_slots (B,) the slot of the first of the three pieces of the name.
    """

    people: np.ndarray
    attributes: np.ndarray
    pieces: np.ndarray
    value_slots: np.ndarray
    name_slots: np.ndarray


def ask(
    language: Language, who: People, attributes: np.ndarray, wording: int = TRAINED_WORDING
) -> Questions:
    """The question about attribute `attributes[b]` (B,) of person `who[b]`, answered."""
    codes = language.questions[attributes, wording]
    return Questions(
        people=who.ids,
        attributes=attributes,
        pieces=fill(language, codes[:, None], who, attributes[:, None])[:, 0],
        value_slots=np.argmax(codes == VALUE, axis=1),
        name_slots=np.argmax(codes == FIRST, axis=1),
    )
