"""Questions for parts of a value and for two values."""

import numpy as np
import pytest

from kstore_jax.corpus.encode import token_table
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.retrieval import RetrievalConfig
from kstore_jax.world.language import load_language
from kstore_jax.world.people import draw_people, full_names, value_texts
from kstore_jax.world.pools import load_pools
from tests.tasks.questions import by_group
from tests.world import worlds
from tests.world.bundled import ATTRIBUTES


def test_the_eight_questions_of_a_person(table):
    pools = table.language.pools
    people = draw_people(pools, 5, np.arange(30))
    config = RetrievalConfig()
    items = TASKS["retrieval"].items(table, people, config, 5, 0)
    groups = by_group(table, "retrieval", config, items)
    assert list(groups) == [
        *("day", "year", "birth_city_then_company", "company_then_birth_city"),
        *("university_then_major", "major_then_university"),
        *("company_city_then_company", "company_then_company_city"),
    ]
    names, values = full_names(pools, people), value_texts(pools, people)
    for own in groups.values():
        assert [person for (person,), *_ in own] == [*range(30)]
    for i, facts in enumerate(values):
        date, city, _, _, company, _ = facts
        _, day, year = date.replace(",", "").split(" ")
        prompt = f"Which day of the month is in the birth date of {names[i]}? Answer:"
        assert groups["day"][i][1:] == (prompt, "", f" {day}", int(day))
        prompt = f"Which year is in the birth date of {names[i]}? Answer:"
        assert groups["year"][i][1:] == (prompt, "", f" {year}", int(year))
        prompt = f"What are the company and then the birth city of {names[i]}? Answer:"
        assert groups["company_then_birth_city"][i][1:4] == (prompt, "", f" {company}; {city}")
        assert groups["birth_city_then_company"][i][3] == f" {city}; {company}"


def test_two_answers_have_one_class_if_and_only_if_they_are_equal():
    people = draw_people(load_pools("", 0.05), 5, np.arange(300))
    table = token_table(load_language("", 0.05), gpt2())
    config = RetrievalConfig(date="", pairs=("major+birth_city",))
    groups = by_group(
        table, "retrieval", config, TASKS["retrieval"].items(table, people, config, 5, 0)
    )
    assert list(groups) == ["major_then_birth_city", "birth_city_then_major"]
    for own in groups.values():
        answers, classes = ({line[i] for line in own} for i in (3, 4))
        assert len(answers) == len(classes) == len({line[3:] for line in own}) < 300


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": ("major+cmpany",)}, r"pairs: .*no attribute 'cmpany'; did you mean 'company'"),
        ({"pairs": ("major",)}, r"pairs: expected NAME\+NAME, got 'major'"),
        ({"pairs": ("major+major",)}, r"pairs: 'major' is repeated"),
        ({"pairs": ("major+company", "company+major")}, r"pairs: a pair is repeated"),
        ({"date": "", "pairs": ()}, r"pairs: expected at least one pair, or a date"),
        ({"date": "major"}, r"date: expected an attribute with dates .*, got 'major' with '"),
    ],
)
def test_what_cannot_be_asked_is_refused(language, fields, message):
    TASKS["retrieval"].check(RetrievalConfig(), language)
    with pytest.raises(UserError, match=rf"^tasks\.retrieval\.{message}"):
        TASKS["retrieval"].check(RetrievalConfig(**fields), language)


def test_a_world_without_birth_dates_is_refused(tmp_path):
    films = load_language(str(worlds.films(tmp_path / "films")))
    message = r"^tasks\.retrieval\.date: the world has no attribute 'birth_date'; valid: director"
    with pytest.raises(UserError, match=message):
        TASKS["retrieval"].check(RetrievalConfig(), films)
    TASKS["retrieval"].check(RetrievalConfig(date="", pairs=("director+year",)), films)
    assert ATTRIBUTES[0] == "birth_date"
