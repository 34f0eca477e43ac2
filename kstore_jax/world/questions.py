"""The six questions and their answers (Part 3.1, section 2.3): `question? Answer: value`."""

import dataclasses

import numpy as np

from kstore_jax.world.language import NAME, Language, Texts, assemble_texts
from kstore_jax.world.people import People

TRAINED_WORDING = 0


@dataclasses.dataclass(frozen=True)
class Questions:
    """Some questions with their answers: B rows.

    people (B,) person ids; attributes (B,) what is asked for; texts: one sentence a row, whose
    value is the answer.
    """

    people: np.ndarray
    attributes: np.ndarray
    texts: Texts


def write_questions(
    language: Language, who: People, attributes: np.ndarray, wording: int = TRAINED_WORDING
) -> Questions:
    """The question about attribute `attributes[b]` (B,) of person `who[b]`, answered."""
    attributes = np.asarray(attributes)
    forms = language.questions[attributes, wording][:, None]
    return Questions(
        who.ids, attributes, assemble_texts(language, who, forms, attributes[:, None], (NAME,))
    )
