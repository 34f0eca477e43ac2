"""Comparison and ranking: months, days and luckiness of two people (Part 3.2, section 4)."""

import dataclasses

import numpy as np

from kstore_jax.config.fields import number
from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.numeric import NumericConfig, NumericTask, Question
from kstore_jax.tasks.values import draw_pairs
from kstore_jax.world.people import People

_QUESTIONS = {
    "later_month": Question(
        "month",
        (
            "Is the month in the {label} of {} later than that of {}?",
            "Is the month later in the {label} of {} than in that of {}?",
        ),
        np.greater,
    ),
    "months_between": Question(
        "month",
        (
            "What is the month in the {label} of {} minus that of {}?",
            "What is the month of the {label} of {} minus the month of the {label} of {}?",
        ),
        np.subtract,
    ),
    "later_day": Question(
        "day",
        (
            "Is the day in the {label} of {} later than that of {}?",
            "Is the day later in the {label} of {} than in that of {}?",
        ),
        np.greater,
    ),
    "days_between": Question(
        "day",
        (
            "What is the day in the {label} of {} minus that of {}?",
            "What is the day of the {label} of {} minus the day of the {label} of {}?",
        ),
        np.subtract,
    ),
    "luckier": Question(
        "luck",
        (
            "Is the {label} of {} luckier than that of {}?",
            "Is the {label} of {} luckier than the {label} of {}?",
        ),
        np.greater,
    ),
    "luck_between": Question(
        "luck",
        (
            "What is the luck of the {label} of {} minus that of {}?",
            "What is the luck of the {label} of {} minus the luck of the {label} of {}?",
        ),
        np.subtract,
    ),
}


@dataclasses.dataclass(frozen=True)
class ComparisonConfig(NumericConfig):
    """Questions about the numbers of two people: `later_month`, `months_between`, `later_day`,
    `days_between`, `luckier`, `luck_between`. Of two equal numbers neither is later or luckier."""

    partners: int = number(4, 1, 1000)
    """People that each person is compared with."""


@TASKS.register
class Comparison(NumericTask):
    """One question of each kind about each pair of people. Pairs are of one half."""

    name = "comparison"
    Config = ComparisonConfig
    questions = _QUESTIONS

    def rows(self, people: People, config: ComparisonConfig, seed: int) -> np.ndarray:
        return draw_pairs(seed, people.ids, config.partners)
