"""Classification: month and luckiness of one person, modulo a number or as such (Part 3.2, section
4)."""

import dataclasses

import numpy as np

from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.numeric import NumericConfig, NumericTask, Question
from kstore_jax.world.people import People

_QUESTIONS = {
    "even_month": Question(
        "month",
        (
            "Is the month in the {label} of {} an even one?",
            "Is the {label} of {} in an even month?",
        ),
        lambda n: n % 2 == 0,
    ),
    "month_mod_6": Question(
        "month",
        (
            "What is the month in the {label} of {}, modulo 6?",
            "What, modulo 6, is the month in the {label} of {}?",
        ),
        lambda n: n % 6,
    ),
    "month_number": Question(
        "month",
        (
            "Which number has the month in the {label} of {}?",
            "What is the number of the month in the {label} of {}?",
        ),
        lambda n: n,
    ),
    "luck_mod_5": Question(
        "luck",
        (
            "How lucky is the {label} of {}, modulo 5?",
            "How lucky, modulo 5, is the {label} of {}?",
        ),
        lambda n: n % 5,
    ),
    "luck_mod_20": Question(
        "luck",
        (
            "How lucky is the {label} of {}, modulo 20?",
            "How lucky, modulo 20, is the {label} of {}?",
        ),
        lambda n: n % 20,
    ),
    "luck": Question(
        "luck",
        ("How lucky is the {label} of {}?", "How lucky, of {}, is the {label}?"),
        lambda n: n,
    ),
}


@dataclasses.dataclass(frozen=True)
class ClassificationConfig(NumericConfig):
    """Questions about a number of one person: `even_month`, `month_mod_6`, `month_number`,
    `luck_mod_5`, `luck_mod_20`, `luck`."""


@TASKS.register
class Classification(NumericTask):
    """One question of each kind about each person."""

    name = "classification"
    Config = ClassificationConfig
    questions = _QUESTIONS

    def rows(self, people: People, config: ClassificationConfig, seed: int) -> np.ndarray:
        return np.arange(len(people))[:, None]
