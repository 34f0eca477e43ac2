"""Prompts are functions of their numbers; a bad text is rejected with its reason."""

import hashlib
import shutil

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.people import draw_people
from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD, load_schema
from kstore_jax.writers import prompts
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import drawn, films

POOLS = load_pools()
PROMPTS = prompts.load_prompts(POOLS.schema)
FACTS = prompts.person_facts(POOLS, draw_people(POOLS, 0, np.arange(300)))
GOOD = "{} was born on {} in {}, read {} at {} and worked for {} in {}."


def text(facts: prompts.PersonFacts, **changed: str) -> str:
    """A text that states the name and every fact, except those changed."""
    values = dict(zip(ATTRIBUTES, facts.values, strict=True)) | changed
    order = ("birth_date", "birth_city", "major", "university", "company", "company_city")
    return GOOD.format(changed.get("name", facts.name), *(values[a] for a in order))


def test_a_prompt_states_the_name_and_every_fact_once():
    for facts in FACTS:
        prompt, seed = PROMPTS.prompt(0, facts, 0, 0)
        assert prompt.count(facts.name) == 1
        assert not prompts.rejection_reasons(POOLS, facts, prompt)
        assert f'"{facts.pronoun}"' in prompt
        assert 0 <= seed < 2**31


def test_a_prompt_is_a_function_of_seed_person_entry_and_attempt():
    distinct = {
        PROMPTS.prompt(seed, FACTS[person], entry, attempt)
        for seed in range(2)
        for person in range(5)
        for entry in range(5)
        for attempt in range(5)
    }
    assert len(distinct) == 2 * 5**3
    reloaded = prompts.load_prompts.__wrapped__(POOLS.schema)
    assert reloaded.prompt(1, FACTS[4], 3, 2) == PROMPTS.prompt(1, FACTS[4], 3, 2)
    assert reloaded.fingerprint == PROMPTS.fingerprint


def test_prompts_are_the_recorded_ones():
    written = [PROMPTS.prompt(7, facts, entry, 1) for facts in FACTS for entry in range(3)]
    digest = hashlib.sha256(repr(written).encode()).hexdigest()
    assert digest == "15948d78c4bebce8066f671a620ee59d2f1a1774ec7904da35c58a3fa11e0dd5"


def test_facts_come_in_every_order_with_university_and_major_together():
    firsts = set()
    for attempt in range(100):
        prompt, _ = PROMPTS.prompt(0, FACTS[7], 0, attempt)
        positions = [prompt.index(value) for value in FACTS[7].values]
        order = [ATTRIBUTES[a] for a in np.argsort(positions)]
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
def test_a_rejection_names_the_facts_that_a_text_lacks(changed, expected):
    assert prompts.rejection_reasons(POOLS, FACTS[3], text(FACTS[3], **changed)) == expected


def test_an_unfinished_an_empty_and_a_declined_text_are_rejected():
    complete = text(FACTS[3])
    assert prompts.rejection_reasons(POOLS, FACTS[3], complete, "unfinished") == ("unfinished",)
    assert prompts.rejection_reasons(POOLS, FACTS[3], complete, "declined") == ("declined",)
    assert prompts.rejection_reasons(POOLS, FACTS[3], "") == ("empty",)


def test_a_clean_text_is_one_line_without_thoughts_and_invisible_characters():
    raw = "<think>Who\nis it?</think>\n\nAnya\u00a0 Briar\u200b\r\n Forger.\n"
    assert prompts.clean_text(raw) == "Anya Briar Forger."


def test_an_error_in_prompt_texts_names_the_line(tmp_path):
    shutil.copytree(BUNDLED_WORLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "prompts" / "company.txt").write_text("The person worked for {company}.\n")
    with pytest.raises(UserError, match=r"company\.txt:1: expected \{company\} and"):
        prompts.load_prompts(load_schema(str(tmp_path)))


def shared_films(tmp_path):
    pools = load_pools(str(films(tmp_path / "films")))
    people = draw_people(pools, 0, np.arange(6))
    others = prompts.Others(pools, people)
    return pools, [others.add(facts) for facts in prompts.person_facts(pools, people)]


def test_others_share_a_value(tmp_path):
    _, facts = shared_films(tmp_path)
    assert facts[0].others == ("Rio Bravo", "", "Rio Bravo, The Sting")
    assert facts[4].others == ("The Big Sleep", "", "The Sting, The Big Sleep")
    assert facts[5].others == ("", "", "The Big Sleep, Rio Bravo")


@pytest.mark.parametrize("strategy", ["questions", "links"])
def test_a_strategy_requests_another_text_with_every_fact(tmp_path, strategy):
    pools, facts = shared_films(tmp_path)
    texts = prompts.load_prompts(pools.schema, strategy)
    for of_film in facts:
        prompt, _ = texts.prompt(0, of_film, 0, 0)
        assert f"the film {of_film.name}" in prompt
        assert "{" not in prompt
        assert not prompts.rejection_reasons(pools, of_film, prompt)
        assert ("Others with the" in prompt) == (strategy == "links" and any(of_film.others))
    assert texts.fingerprint != prompts.load_prompts(pools.schema).fingerprint
    if strategy == "links":
        prompt, _ = texts.prompt(0, facts[0], 0, 0)
        assert "Others with the country USA: Rio Bravo, The Sting." in prompt


def test_a_strategy_is_a_folder_of_files(tmp_path, monkeypatch):
    schema = load_pools(str(films(tmp_path / "films"))).schema
    folder = tmp_path / "rhymes"
    folder.mkdir()
    (folder / "request.txt").write_text("Rhyme about the {noun} {name}.\n")
    (folder / "closing.txt").write_text("Four lines.\n")
    texts = prompts.load_prompts(schema, str(folder))
    assert texts.lines["request"] == ("Rhyme about the film {name}.",)
    assert texts.shared == ""
    monkeypatch.chdir(folder)
    assert prompts.load_prompts(schema, ".").fingerprint == texts.fingerprint
    (folder / "closing.txt").write_text("Four lines about {nam}.\n")
    with pytest.raises(UserError, match=r"closing\.txt:1: expected no braces, each once, got"):
        prompts.load_prompts.__wrapped__(schema, str(folder))
    with pytest.raises(UserError, match=r"^--strategy: no folder 'question'; did you mean 'quest"):
        prompts.load_prompts(schema, "question")


def test_a_world_without_prompts_has_a_sentence_for_each_fact(tmp_path):
    pools = load_pools(str(films(tmp_path / "films")))
    (facts,) = prompts.person_facts(pools, draw_people(pools, 0, np.array([0])))
    prompt, _ = prompts.load_prompts(pools.schema).prompt(0, facts, 0, 0)
    assert prompt.startswith("Write a text of about 50 words about the film The Big Sleep. The ")
    assert "The film's year of release is 1946." in prompt
    assert 'Call the film "it". State every fact' in prompt
    assert not prompts.rejection_reasons(pools, facts, prompt)
    pools = load_pools(str(drawn(tmp_path / "drawn", 3, 2)))
    (facts,) = prompts.person_facts(pools, draw_people(pools, 0, np.array([1])))
    prompt, _ = prompts.load_prompts(pools.schema).prompt(0, facts, 0, 0)
    of, function = facts.values[1:]
    assert f"The person's fact 1 is {of}. The person's fact 2 is {function}." in prompt
    assert not prompts.rejection_reasons(pools, facts, prompt)
