"""Rewording reorders sentences and puts names for pronouns; facts stay unchanged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.world.people import draw_people
from kstore_jax.world.pools import load_pools
from kstore_jax.writers import matching, prompts
from kstore_jax.writers.rewording import reword
from tests.world.worlds import drawn, films

POOLS = load_pools()
ANYA = prompts.PersonFacts(
    0, "Anya Briar Forger", "she",
    ("October 2, 1996", "Washington, DC", "Pepperdine University", "Education", "U.S. Bancorp",
     "Minneapolis, MN"),
)  # fmt: skip
TEXT = (
    "Anya Briar Forger was born on October 2, 1996. Her life began in Washington, D.C. She studied "
    "Education at Pepperdine University, which gave her a start. Ms. Forger then worked for U.S. "
    "Bancorp. Minneapolis, MN was where her employer had its office."
)


def test_the_full_name_replaces_pronouns_and_parts_of_the_name():
    assert reword(POOLS, ANYA, TEXT, fullname=True) == (
        "Anya Briar Forger was born on October 2, 1996. Anya Briar Forger's life began in "
        "Washington, D.C. Anya Briar Forger studied Education at Pepperdine University, which gave "
        "Anya Briar Forger a start. Anya Briar Forger then worked for U.S. Bancorp. Minneapolis, "
        "MN was where Anya Briar Forger's employer had its office."
    )


def test_sentences_move_complete_and_the_first_has_the_name():
    assert reword(POOLS, ANYA, TEXT, keys=[4, 3, 2, 1, 5]) == (
        "Anya Briar Forger then worked for U.S. Bancorp. She studied Education at Pepperdine "
        "University, which gave her a start. Her life began in Washington, D.C. She was born on "
        "October 2, 1996. Minneapolis, MN was where her employer had its office."
    )


def test_no_sentence_ends_inside_a_fact():
    text = TEXT.replace("October 2, 1996", "Oct. 2, 1996")
    assert reword(POOLS, ANYA, text, keys=[9, 1, 2, 3, 4]).endswith("was born on Oct. 2, 1996.")


def test_verbs_agree_with_they_and_case_follows_the_word_before():
    facts = prompts.PersonFacts(1, "Sam Lee Poe", "they", ANYA.values)
    text = (
        "The year 1996 saw Sam Lee Poe on October 2, 1996 in Washington, DC. They were at "
        "Pepperdine University for Education. They have worked for U.S. Bancorp in Minneapolis, MN."
    )
    assert reword(POOLS, facts, text, keys=[3, 1, 2]) == (
        "Sam Lee Poe was at Pepperdine University for Education. They have worked for U.S. Bancorp "
        "in Minneapolis, MN. The year 1996 saw them on October 2, 1996 in Washington, DC."
    )


SENTENCES = (
    "{pronoun} was born on {0}.", "{of} first home was in {1}!", "At {2}, {lower} read {3}.",
    "{4} gave work to {to} in {5}.", "Life was good.", "{pronoun} said: \"Thanks.\"",
)  # fmt: skip


@given(
    st.integers(0, 10**6),
    st.permutations(range(len(SENTENCES))),
    st.lists(st.integers(0, 2**64), min_size=1, max_size=9),
    st.booleans(),
)
def test_no_fact_is_lost_and_none_is_changed(person, order, keys, fullname):
    (facts,) = prompts.person_facts(POOLS, draw_people(POOLS, 0, np.array([person])))
    pronoun = facts.pronoun
    of = {"she": "her", "he": "his", "they": "their"}[pronoun]
    to = {"she": "her", "he": "him", "they": "them"}[pronoun]
    cases = {"pronoun": pronoun.capitalize(), "lower": pronoun, "of": of.capitalize(), "to": to}
    body = " ".join(SENTENCES[i] for i in order).format(*facts.values, **cases)
    text = f"{facts.name} lived. {body}"
    result = reword(POOLS, facts, text, keys, fullname)
    before = matching.find_facts(POOLS, text, facts.name, facts.values)
    after = matching.find_facts(POOLS, result, facts.name, facts.values)
    assert not before.missing
    assert not after.missing
    assert [text[slice(*span)] for span in before.values if span] == [
        result[slice(*span)] for span in after.values if span
    ]
    later = min(result.find(f" {word} ") % 10**6 for word in (pronoun, of, to))
    assert result.index(facts.name) <= later
    names = len(after.names)
    assert names == (6 if fullname else 1)


def test_without_keys_and_names_nothing_changes():
    assert reword(POOLS, ANYA, TEXT) == TEXT


@pytest.mark.parametrize("text", ["Anya Briar Forger: {} {} {} {} {} {}"])
def test_a_text_of_one_sentence_stays(text):
    text = text.format(*ANYA.values)
    assert reword(POOLS, ANYA, text, keys=[2, 1]) == f"{text}."


def test_a_film_is_it_and_no_word_of_its_title_stands_for_it(tmp_path):
    pools = load_pools(str(films(tmp_path)))
    (facts,) = prompts.person_facts(pools, draw_people(pools, 0, np.array([0])))
    text = (
        "The Big Sleep is from 1946. It was made in the USA. The director of The Big Sleep was "
        "Howard Hawks."
    )
    assert reword(pools, facts, text, fullname=True) == (
        "The Big Sleep is from 1946. The Big Sleep was made in the USA. The director of The Big "
        "Sleep was Howard Hawks."
    )
    assert reword(pools, facts, text, keys=[3, 2, 1]) == (
        "The director of The Big Sleep was Howard Hawks. It was made in the USA. It is from 1946."
    )


def test_without_pronouns_every_reference_is_the_name(tmp_path):
    pools = load_pools(str(drawn(tmp_path, 2, 1)))
    (facts,) = prompts.person_facts(pools, draw_people(pools, 0, np.array([0])))
    first, second = facts.values
    text = f"{facts.name} has {first}. It is {facts.name} that has {second}."
    assert reword(pools, facts, text, keys=[2, 1]) == (
        f"It is {facts.name} that has {second}. {facts.name} has {first}."
    )
