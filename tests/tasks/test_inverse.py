"""Inverse search: from facts to names."""

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.tasks.base import TASKS
from kstore_jax.tasks.inverse import InverseConfig
from kstore_jax.world.language import load_language
from kstore_jax.world.people import draw_people, full_names, value_texts
from tests.tasks.questions import by_group
from tests.world import worlds
from tests.world.bundled import ATTRIBUTES


def test_ten_questions_state_facts_and_ask_for_names(table):
    pools = table.language.pools
    people = draw_people(pools, 5, np.arange(20))
    task, config = TASKS["inverse"], InverseConfig()
    groups = by_group(table, "inverse", config, task.items(table, people, config, 5, 0))
    names, values = full_names(pools, people), value_texts(pools, people)
    assert len(groups) == 10
    assert list(groups)[-2:] == ["all_to_first_name", "all_to_full_name"]
    for group, own in groups.items():
        assert [person for (person,), *_ in own] == [*range(20)]
        clues, _, answer = group.rpartition("_to_")
        stated = ATTRIBUTES if clues == "all" else clues.split("_and_")
        for (person,), prompt, hint, text, _ in own:
            first = answer == "first_name"
            assert text == f" {names[person].split()[0] if first else names[person]}"
            assert hint == ""
            assert names[person] not in prompt
            facts = dict(zip(ATTRIBUTES, values[person], strict=True))
            assert all(facts[name] in prompt for name in stated)
            absent = set(ATTRIBUTES) - {*stated}
            assert not [name for name in absent if f"the {name.replace('_', ' ')} " in prompt]
    facts = f"the birth date {values[0][0]} and the birth city {values[0][1]}"
    prompt = f"What is the full name of the person with {facts}? Answer:"
    assert groups["birth_date_and_birth_city_to_full_name"][0][1] == prompt


def test_a_name_of_one_part_is_asked_whole(tmp_path):
    films = load_language(str(worlds.films(tmp_path / "films")))
    config = InverseConfig(clues=("director", "year+director", "director+year+country"))
    TASKS["inverse"].check(config, films)
    assert TASKS["inverse"].group_names(config, films) == [
        "director_to_full_name",
        "year_and_director_to_full_name",
        "all_to_full_name",
    ]


@pytest.mark.parametrize(
    ("clues", "message"),
    [
        (("birth_dat",), "the world has no attribute 'birth_dat'; did you mean 'birth_date'"),
        ((), "expected one or several different sets"),
        (("major+company", "company+major"), "expected one or several different sets"),
    ],
)
def test_clues_that_cannot_be_stated_are_refused(language, clues, message):
    TASKS["inverse"].check(InverseConfig(), language)
    with pytest.raises(UserError, match=rf"^tasks\.inverse\.clues: {message}"):
        TASKS["inverse"].check(InverseConfig(clues=clues), language)
