"""Classification and comparison: answers by arithmetic, hints, worlds that lack what is asked."""

import dataclasses
import re
import time

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.classification import Classification, ClassificationConfig
from kstore_jax.tasks.comparison import Comparison, ComparisonConfig
from kstore_jax.tasks.values import luckiness
from kstore_jax.world.language import load_language
from kstore_jax.world.people import draw_people, full_names, value_texts
from tests.tasks.questions import by_group
from tests.world import worlds
from tests.world.bundled import ATTRIBUTES

SEED = 11
QUESTIONS = {task.name: task.questions for task in (Classification, Comparison)}
CONFIGS = {"classification": ClassificationConfig(), "comparison": ComparisonConfig(partners=2)}


@pytest.fixture(scope="module")
def people(language):
    return draw_people(language.pools, SEED, np.arange(60))


@pytest.fixture(scope="module")
def facts(language, people) -> list[dict[str, int]]:
    """The numbers of each person, from the texts of their values."""
    majors = language.pools.values["major"]
    lucks = dict(zip(majors, luckiness(SEED, len(majors)).tolist(), strict=True))
    found = []
    for values in value_texts(language.pools, people):
        date = time.strptime(values[0], "%B %d, %Y")
        luck = lucks[values[ATTRIBUTES.index("major")]]
        found.append({"month": date.tm_mon, "day": date.tm_mday, "luck": luck})
    return found


def groups_of(table, people, task: str, **fields) -> dict[str, list[tuple]]:
    config = dataclasses.replace(CONFIGS[task], **fields)
    items = TASKS[task].items(table, people, config, SEED, 0)
    return by_group(table, task, config, items)


def yes(right: bool) -> str:
    return "Yes" if right else "No"


ANSWERS = {
    "even_month": lambda a: yes(a["month"] in (2, 4, 6, 8, 10, 12)),
    "month_mod_6": lambda a: a["month"] % 6,
    "month_number": lambda a: a["month"],
    "luck_mod_5": lambda a: a["luck"] % 5,
    "luck_mod_20": lambda a: a["luck"] % 20,
    "luck": lambda a: a["luck"],
    "later_month": lambda a, b: yes(a["month"] > b["month"]),
    "months_between": lambda a, b: a["month"] - b["month"],
    "later_day": lambda a, b: yes(a["day"] > b["day"]),
    "days_between": lambda a, b: a["day"] - b["day"],
    "luckier": lambda a, b: yes(a["luck"] > b["luck"]),
    "luck_between": lambda a, b: a["luck"] - b["luck"],
}


@pytest.mark.parametrize("task", CONFIGS)
def test_every_answer_follows_from_the_facts(table, people, facts, task):
    names = full_names(table.language.pools, people)
    groups = groups_of(table, people, task)
    assert set(groups) == set(QUESTIONS[task]) <= set(ANSWERS)
    for group, own in groups.items():
        assert len(own) == (60 if task == "classification" else 2 * 29 * 2)
        assert len({prompt for _, prompt, *_ in own}) > 50
        classes = {}
        for members, prompt, hint, answer, number in own:
            assert answer == f" {ANSWERS[group](*(facts[i] for i in members))}"
            assert not hint
            assert re.search(".*".join(re.escape(names[i]) for i in members), prompt)
            assert prompt.endswith("? Answer:")
            assert classes.setdefault(number, answer) == answer
        assert len(set(classes.values())) == len(classes) > 1


@pytest.mark.parametrize("task", CONFIGS)
def test_a_hint_states_the_values_before_the_same_answer(table, people, task):
    values = value_texts(table.language.pools, people)
    plain, groups = groups_of(table, people, task), groups_of(table, people, task, hints=True)
    assert list(groups) == [*plain, *(f"{name}_with_hint" for name in plain)]
    for name, own in plain.items():
        number = QUESTIONS[task][name].number
        both = zip(own, groups[name], groups[f"{name}_with_hint"], strict=True)
        for (members, prompt, _, answer, cls), quick, think in both:
            assert quick == (members, prompt, "", answer, cls)
            dates = [values[i][0].replace(",", "").split() for i in members]
            stated = {
                "month": [date[0] for date in dates],
                "day": [date[1] for date in dates],
                "luck": [values[i][ATTRIBUTES.index("major")] for i in members],
            }[number]
            hint = f" {'; '.join(stated)}."
            assert prompt.startswith("Quick: ")
            assert think == (members, f"Think: {prompt[7:]}", hint, answer, cls)


@pytest.mark.parametrize("task", CONFIGS)
def test_the_vocabulary_of_a_task_has_the_tokens_of_all_its_questions(table, people, task):
    def tokens(config) -> set[int]:
        return {*TASKS[task].items(table, people, config, SEED, 0).texts.tokens.tolist()}

    config = TASKS[task].vocabulary_config(CONFIGS[task])
    for hints in (False, True):
        for questions in ((), ("luck" if task == "classification" else "luckier",)):
            other = dataclasses.replace(CONFIGS[task], questions=questions, hints=hints)
            assert TASKS[task].vocabulary_config(other) == config
            assert tokens(other) <= tokens(config)


def test_questions_can_be_chosen_and_either_attribute_left_out(table, people):
    asked = ("luck", "even_month")
    assert list(groups_of(table, people, "classification", questions=asked)) == [*asked]
    no_dates = groups_of(table, people, "comparison", date="")
    assert list(no_dates) == ["luckier", "luck_between"]
    other = groups_of(table, people, "comparison", date="", category="company")
    assert "Quick: Is the company of " in other["luckier"][0][1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"questions": ("luk",)}, r"questions: no question 'luk'; did you mean 'luck'\?"),
        ({"questions": ("luck", "luck")}, r"questions: expected one or several different ones"),
        ({"date": "", "category": ""}, r"questions: expected one or several different ones"),
        ({"date": "major"}, r"date: expected an attribute with dates"),
        ({"category": "majr"}, r"category: the world has no attribute 'majr'; did you mean"),
        ({"date": "", "questions": ("even_month",)}, r"date: the world has no attribute ''"),
    ],
)
def test_what_cannot_be_asked_is_refused(language, fields, message):
    task = TASKS["classification"]
    task.check(ClassificationConfig(), language)
    with pytest.raises(UserError, match=rf"^tasks\.classification\.{message}"):
        task.check(ClassificationConfig(**fields), language)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_world_without_dates_is_refused_until_none_are_asked(tmp_path, task):
    films = load_language(str(worlds.films(tmp_path / "films")))
    with pytest.raises(UserError, match=rf"^tasks\.{task}\.date: the world has no attribute"):
        TASKS[task].check(CONFIGS[task], films)
    without = dataclasses.replace(CONFIGS[task], date="")
    with pytest.raises(UserError, match=rf"^tasks\.{task}\.category: the world has no attribute"):
        TASKS[task].check(without, films)
    TASKS[task].check(dataclasses.replace(without, category="director"), films)
