"""Questions about attributes and answers: `question? Answer: value` (Part 3.1, section 2.3)."""

import dataclasses

import numpy as np

from kstore_jax.world.language import NAME, Language, Texts, assemble_texts
from kstore_jax.world.people import People

TRAINED_WORDING = 0


@dataclasses.dataclass(frozen=True)
class Questions:
    """B questions with their answers.

    Attributes:
      people: (B,) person ids.
      attributes: (B,) the attribute that each question is about.
      texts: one sentence a row; its value is the answer.
    """

    people: np.ndarray
    attributes: np.ndarray
    texts: Texts


def write_questions(
    language: Language, people: People, attributes: np.ndarray, wording: int = TRAINED_WORDING
) -> Questions:
    """Returns the question about attribute `attributes[b]` (B,) of person b of `people`, with its
    answer, for each b."""
    attributes = np.asarray(attributes)
    forms = language.questions[attributes, wording][:, None]
    texts = assemble_texts(language, people, forms, attributes[:, None], (NAME,))
    return Questions(people.ids, attributes, texts)
