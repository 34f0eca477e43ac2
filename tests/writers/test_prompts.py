"""What a writer is asked is a function of its numbers, and bad texts are refused by their class."""

import shutil

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.people import ATTRIBUTES, load_pools, people
from kstore_jax.writers import prompts

POOLS = load_pools()
PROMPTS = prompts.load_prompts()
WHO = prompts.facts(POOLS, people(POOLS, 0, np.arange(300)))
GOOD = "{} was born on {} in {}, read {} at {} and worked for {} in {}."


def text(who: prompts.Facts, **changed: str) -> str:
    """A text that states all, but for what is changed."""
    values = dict(zip(ATTRIBUTES, who.values, strict=True)) | changed
    order = ("birth_date", "birth_city", "major", "university", "company", "company_city")
    return GOOD.format(changed.get("name", who.name), *(values[a] for a in order))


def test_a_prompt_states_the_name_and_every_fact_once():
    for who in WHO:
        prompt, seed = PROMPTS.ask(0, who, 0, 0)
        assert prompt.count(who.name) == 1
        assert not prompts.refusals(POOLS, who, prompt)
        assert f'"{who.pronoun}"' in prompt
        assert 0 <= seed < 2**31


def test_what_is_asked_is_a_function_of_seed_person_entry_and_attempt():
    asked = {
        PROMPTS.ask(seed, WHO[person], entry, attempt)
        for seed in range(2)
        for person in range(5)
        for entry in range(5)
        for attempt in range(5)
    }
    assert len(asked) == 2 * 5**3
    again = prompts.load_prompts.__wrapped__()
    assert again.ask(1, WHO[4], 3, 2) == PROMPTS.ask(1, WHO[4], 3, 2)
    assert again.fingerprint == PROMPTS.fingerprint


def test_facts_come_in_every_order_with_university_and_major_together():
    firsts = set()
    for attempt in range(100):
        prompt, _ = PROMPTS.ask(0, WHO[7], 0, attempt)
        places = [prompt.index(value) for value in WHO[7].values]
        order = [ATTRIBUTES[a] for a in np.argsort(places)]
        firsts.add(order[0])
        assert order.index("major") == order.index("university") + 1
        assert abs(order.index("company") - order.index("company_city")) == 1
    assert firsts == {"birth_date", "birth_city", "university", "company", "company_city"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ()),
        ({"name": "Somebody"}, ("name",)),
        ({"birth_date": "May 5, 1850"}, ("birth_date",)),
        ({"birth_city": "a town"}, ("birth_city",)),
        ({"university": "school"}, ("university",)),
        ({"major": "things"}, ("major",)),
        ({"company": "a firm", "company_city": "a town"}, ("company", "company_city")),
    ],
)
def test_a_text_is_refused_for_what_it_lacks(changed, expected):
    assert prompts.refusals(POOLS, WHO[3], text(WHO[3], **changed)) == expected


def test_a_text_cut_short_or_empty_is_refused():
    assert prompts.refusals(POOLS, WHO[3], text(WHO[3]), "unfinished") == ("unfinished",)
    assert prompts.refusals(POOLS, WHO[3], "") == ("empty",)


def test_a_text_is_kept_on_one_line_without_thoughts_and_invisible_characters():
    raw = "<think>Who\nis it?</think>\n\nAnya\u00a0 Briar\u200b\r\n Forger.\n"
    assert prompts.tidy(raw) == "Anya Briar Forger."


def test_ones_own_prompts_are_checked_by_line(tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(prompts.PROMPTS, folder)
    (folder / "company.txt").write_text("The person worked for {company}.\n")
    with pytest.raises(UserError, match=r"company\.txt:1: expected \{company\} and"):
        prompts.load_prompts(folder)
