"""Which ways of writing state a fact, and which do not."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kstore_jax.world.language import pieces_to_text as text_of
from kstore_jax.world.people import draw_people
from kstore_jax.world.pools import MONTHS, load_pools
from kstore_jax.writers import matching
from kstore_jax.writers.prompts import person_facts
from kstore_jax.writers.words import normalized_words
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import write_world

POOLS = load_pools()
NAME = "Anya Briar Forger"
VALUES = {
    "birth_date": "October 2, 1996",
    "birth_city": "Baltimore, MD",
    "university": "Pepperdine University",
    "major": "Education",
    "company": "H&R Block",
    "company_city": "Kansas City, MO",
}


def stated(text: str, attribute: str, value: str) -> str | None:
    """The words of a text that state one value; it lacks the other attributes' values."""
    values = [value if a == attribute else "Nowhere At All, ZZ" for a in ATTRIBUTES]
    if attribute != "birth_date":
        values[0] = "January 1, 1900"
    span = matching.find_facts(POOLS, text, NAME, values).values[ATTRIBUTES.index(attribute)]
    return None if span is None else text[slice(*span)]


@pytest.mark.parametrize(
    ("attribute", "value", "written"),
    [
        *(
            ("birth_date", "October 2, 1996", date)
            for date in (
                "October 2, 1996", "2nd October 1996", "October 2nd, 1996", "OCTOBER 2 1996",
                "the 2nd of October, 1996", "October the 2nd, 1996", "2 October, 1996",
                "Oct. 2, 1996", "10/2/1996", "10/02/1996", "1996-10-02",
                "October\u00a02,\u00a01996", "October 02, 1996", "October 2 of 1996",
                "the 2nd day of October, 1996", "2 Oct 1996",
            )
        ),
        ("birth_date", "March 11, 2001", "11th of March 2001"),
        ("birth_date", "March 22, 2001", "22nd of March 2001"),
        ("birth_date", "September 3, 2001", "Sept. 3rd, 2001"),
        ("birth_city", "Baltimore, MD", "Baltimore, Maryland"),
        ("birth_city", "Baltimore, MD", "baltimore md"),
        ("birth_city", "Washington, DC", "Washington, D.C."),
        ("birth_city", "Washington, DC", "Washington, District of Columbia"),
        ("birth_city", "St. Louis, MO", "Saint Louis, Missouri"),
        ("university", "College of William & Mary", "college of William and Mary"),
        ("university", "Texas A&M University", "Texas A & M University"),
        ("university", "University of Wisconsin-Madison", "University of Wisconsin–Madison"),
        *(("company", "Campbell's", f"Campbell{mark}s") for mark in "’ʼ′＇`"),
        *(("company", "Coca-Cola", f"Coca{mark}Cola") for mark in "‐‑–−-"),
        ("company", "Nestlé", "NESTLE\u0301"),
        ("company", "Nestle\u0301", "Nestlé"),
        ("university", "École Polytechnique", "E\u0301cole Polytechnique"),
        ("company", "W. L. Gore", "W.L. Gore"),
        ("company", "L.L.Bean", "L. L. Bean"),
        ("company", "H-E-B", "HEB"),
        ("company", "U.S. Bancorp", "US Bancorp"),
        ("company", "eBay", "eBay"),
        ("company", "Coca-Cola", "**Coca Cola**"),
        ("major", "Education", "Education"),
    ],
)  # fmt: skip
def test_these_ways_of_writing_state_a_value(attribute, value, written):
    words = stated(f"It is known: {written}, all of it.", attribute, value)
    assert words is not None
    assert words.strip("*.") == written.removeprefix("the ").strip("*.")


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("birth_date", "October 2, 1996", "Born on October 3, 1996."),
        ("birth_date", "October 2, 1996", "Born on October 2, 1997."),
        ("birth_date", "October 2, 1996", "Born on October 12, 1996."),
        ("birth_date", "October 2, 1996", "Born in October 1996, on a 2nd."),
        ("birth_date", "October 2, 1996", "Born on 2/10/1996."),
        ("birth_date", "October 2, 1996", "Born on October 2th, 1996."),
        ("birth_city", "Baltimore, MD", "From Baltimore."),
        ("birth_city", "Baltimore, MD", "From Baltimore, MA."),
        ("birth_city", "Baltimore, MD", "From Baltimore, which is in Maryland."),
        ("major", "Education", "She went on with her education."),
        ("major", "Education", "She read Early Childhood Education."),
        ("major", "Law", "She loved Lawrence."),
        ("company", "3M", "It was 13M."),
        ("university", "Boston College", "She went to Boston University."),
    ],
)
def test_these_texts_do_not_state_the_value(attribute, value, text):
    assert stated(text, attribute, value) is None


def test_a_common_word_states_a_major_where_it_can_mean_nothing_else():
    assert stated("Her education ended: a degree in education.", "major", "Education")
    text = "Her education ended with a degree in Education."
    values = [VALUES[a] for a in ATTRIBUTES]
    assert matching.find_facts(POOLS, text, NAME, values).values[3] == (37, 46)


def test_part_of_another_fact_does_not_count():
    values = [VALUES[a] for a in ATTRIBUTES]
    values[4:] = ["Oshkosh", "Oshkosh, WI"]
    spans = matching.find_facts(POOLS, "She worked in Oshkosh, WI.", NAME, values)
    assert spans.values[4:] == (None, (14, 25))
    spans = matching.find_facts(POOLS, "She worked in Oshkosh, WI, for Oshkosh.", NAME, values)
    assert spans.values[4:] == ((31, 38), (14, 25))


def test_no_mention_of_a_longer_fact_states_a_shorter_one():
    values = [VALUES[a] for a in ATTRIBUTES]
    values[4:] = ["Oshkosh", "Oshkosh, WI"]
    text = "She lived in Oshkosh, WI, loved Oshkosh, Wisconsin, and worked for Oshkosh."
    spans = matching.find_facts(POOLS, text, NAME, values)
    assert spans.values[4:] == ((67, 74), (13, 24))


@pytest.mark.parametrize(
    ("name", "attribute", "value", "text", "stated_at"),
    [
        ("Anya Briar Campbell", "company", "Campbell's", "Campbell's work at Campbell's.", 19),
        ("Anya Briar English", "major", "English", "English was young, studied English.", 27),
        ("Raymond Lee James", "company", "Raymond James", "Raymond James ran Raymond James.", None),
        ("Raymond Lee James", "company", "Raymond James", "Raymond was at Raymond James.", 15),
        ("Anya Briar Ford", "company", "Ford", "Anya Briar Ford of Ford.", 19),
    ],
)
def test_a_person_called_like_a_value_does_not_state_it(name, attribute, value, text, stated_at):
    values = [value if a == attribute else f"Nowhere {a}, ZZ" for a in ATTRIBUTES]
    values[0] = "January 1, 1900"
    span = matching.find_facts(POOLS, text, name, values).values[ATTRIBUTES.index(attribute)]
    assert (span and span[0]) == stated_at


def test_a_name_inside_of_a_value_is_no_name():
    values = ["January 1, 1900", "Mexico City", "Nowhere University", "Law", "3M", "Nowhere, ZZ"]
    spans = matching.find_facts(POOLS, "From Mexico City, Mexico.", "Mexico", values)
    assert (spans.names, spans.values[1]) == (((18, 24),), (5, 16))


def respell(draw, attribute: str, value: str) -> str:
    """A value in a random one of its accepted spellings."""
    if attribute == "birth_date":
        month, day, year = value.replace(",", "").split()
        number = MONTHS.index(month) + 1
        forms = [
            *(value, f"{day} {month} {year}", f"{month[:3]}. {day}, {year}"),
            *(f"{number}/{day}/{year}", f"{year}-{number:02}-{int(day):02}"),
            *(f"{day} of {month}, {year}", f"{month} the {day}, {year}"),
        ]
        return draw(st.sampled_from(forms))
    if attribute in ("birth_city", "company_city"):
        city, _, state = value.rpartition(", ")
        value = f"{city}, {draw(st.sampled_from([state, matching.STATES[state.lower()]]))}"
    for written, others in ((" & ", [" and "]), ("'", "’ʼ"), ("-", "‐–"), (" ", ["\u00a0", "  "])):
        value = value.replace(written, draw(st.sampled_from([written, *others])))
    return value.upper() if draw(st.booleans()) else value


FILLERS = (
    "Later came", "and so on:", "In Maryland,", "whose education was in",
    "on a 2nd of October", "(University)", "Kansas City of", "- yes -", "1996 was good; then",
)  # fmt: skip


@st.composite
def biographies_in_any_spelling(draw):
    """Facts, a text that states them several times, and the first mention of each."""
    person = draw(st.integers(0, 10**6))
    (facts,) = person_facts(POOLS, draw_people(POOLS, 0, np.array([person])))
    assume(len({*facts.values}) == len(facts.values))
    stated = [*ATTRIBUTES, *draw(st.lists(st.sampled_from(ATTRIBUTES), max_size=8))]
    text, first = "", {}
    for attribute in draw(st.permutations(stated)):
        text += draw(st.sampled_from(FILLERS)) + ": "
        written = respell(draw, attribute, facts.values[ATTRIBUTES.index(attribute)])
        first.setdefault(attribute, (len(text), len(text) + len(written)))
        text += f"{written}; {draw(st.sampled_from(['', facts.name, facts.name.upper()]))}. "
    return facts, text, first


@settings(max_examples=300)
@given(biographies_in_any_spelling())
def test_a_fact_is_stated_at_its_first_mention_in_any_spelling(biography):
    facts, text, first = biography
    spans = matching.find_facts(POOLS, text, facts.name, facts.values)
    for attribute, span in zip(ATTRIBUTES, spans.values, strict=True):
        assert span is not None
        assert span[0] == first[attribute][0]
        words = normalized_words(text[slice(*first[attribute])])
        assert normalized_words(text[slice(*span)]) == words


def test_one_mention_may_be_both_cities_and_of_two_the_one_near_the_company_is_the_work_city():
    values = [VALUES[a] for a in ATTRIBUTES]
    values[1] = values[5]
    once = matching.find_facts(POOLS, "From Kansas City, MO, to H&R Block there.", NAME, values)
    assert once.values[1] == once.values[5] == (5, 20)
    twice = "At H&R Block in Kansas City, MO; born in Kansas City, Missouri."
    spans = matching.find_facts(POOLS, twice, NAME, values)
    assert (spans.values[1], spans.values[5]) == ((41, 62), (16, 31))


def test_only_complete_names_count_and_each_of_them():
    text = "Anya Briar Forger’s life: ANYA BRIAR FORGER, or Anya Forger, or Anya Briar Forgery."
    names = matching.find_facts(POOLS, text, NAME, [VALUES[a] for a in ATTRIBUTES]).names
    assert [text[a:b] for a, b in names] == ["Anya Briar Forger", "ANYA BRIAR FORGER"]


@pytest.mark.parametrize("variant", ["single", "multi5+permute+fullname"])
def test_in_texts_from_templates_it_finds_the_spans_of_their_construction(
    language, biographies, variant
):
    ids = np.arange(200)
    entries = biographies(variant, ids)
    facts = person_facts(POOLS, draw_people(POOLS, 0, ids))
    slots, names = entries.texts.value_slots, entries.texts.name_slots
    for row, pieces in enumerate(entries.texts.pieces):
        text, person = text_of(language, pieces), facts[entries.people[row]]
        spans = matching.find_facts(POOLS, text, person.name, person.values)
        assert len(spans.names) == len(names)
        ends = np.cumsum([len(language.pieces[piece]) for piece in pieces])
        for sentence, attribute in enumerate(entries.order[row]):
            span = spans.values[attribute]
            assert span is not None
            assert text[slice(*span)] == person.values[attribute]
            if person.values[1] != person.values[5] or attribute not in (1, 5):
                assert span[1] == ends[slots[sentence]]


@given(st.text(max_size=80), st.integers(0, 10**6))
def test_spans_are_inside_of_any_text(text, person):
    (facts,) = person_facts(POOLS, draw_people(POOLS, 0, np.array([person])))
    text = f"{text} {facts.values[1]} {text} {facts.name} {facts.values[0]}"
    spans = matching.find_facts(POOLS, text, facts.name, facts.values)
    assert spans.names
    assert spans.values[0] is not None
    for start, end in (*spans.names, *filter(None, spans.values)):
        assert 0 <= start < end <= len(text)


def test_every_value_of_the_pools_is_found_as_written():
    for attribute in ATTRIBUTES:
        for value in POOLS.values[attribute][:: 97 if attribute == "birth_date" else 1]:
            assert stated(f"It was {value}, once.", attribute, value) == value


COUNTRIES = """
table = "t.csv"
name = ["name"]
[attributes]
area = {}
moons = {}
founded = {}
languages = {separator = ";"}
"""


@pytest.fixture(scope="module")
def countries(tmp_path_factory):
    """A world with numbers, dates and several values."""
    heads = "name,area,moons,founded,languages\n"
    rows = heads + "日本,28748,3,1996-10-02,日本語;English\nB,5,4,2 May 1990,English\n"
    folder = write_world(tmp_path_factory.mktemp("countries"), COUNTRIES, {"t.csv": rows})
    return load_pools(str(folder))


GIVEN = ("28748", "3", "1996-10-02", "日本語, English")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("日本: 28748, 3, 1996-10-02; 日本語, English.", []),
        ("日本は28,748と3、1996-10-02。日本語、English。", []),
        ("日本 has 28 748 km, three moons, since October 2nd, 1996: 日本語 and English.", []),
        ("日本 has 128748 km, 3.5 moons, since October 1996: English.",
         ["area", "moons", "founded", "languages"]),
        ("日本 has 28,748,000 km, 3,000 moons, since 2 October 1997: English, 日本語.",
         ["area", "moons", "founded", "languages"]),
        ("日 has 28748 km, 3 moons, since 10/2/1996: 日本語, and English.", ["name"]),
    ],
)  # fmt: skip
def test_numbers_dates_several_values_and_any_script(countries, text, missing):
    assert matching.find_facts(countries, text, "日本", GIVEN).missing == missing


def test_a_name_inside_a_longer_name_of_the_table_is_none(tmp_path):
    rows = "name,area,moons,founded,languages\nGuinea,1,2,1990,F\nNew Guinea,3,4,1991,E\n"
    pools = load_pools(str(write_world(tmp_path, COUNTRIES, {"t.csv": rows})))
    text = "New Guinea is no part of Guinea."
    assert matching.find_facts(pools, text, "Guinea", ("",) * 4).names == ((25, 31),)
    assert matching.find_facts(pools, text, "New Guinea", ("",) * 4).names == ((0, 10),)


def test_other_dates_of_a_table_are_dates():
    assert matching.as_date("2 May 1990") == matching.as_date("1990-05-02") == "May 2, 1990"
    assert matching.as_date("May 2, 1990") == "May 2, 1990"
    assert matching.as_date("1990-13-02") == matching.as_date("2 Mai 1990") == ""


@pytest.mark.parametrize("name", ["दिल्ली", "Amélie 🎬", "🎬", "المومياء", "千と千尋", "กรุงเทพ"])
def test_a_name_of_any_script_is_found(countries, name):
    text = f"In {name}, a 28748; 3; 1996-10-02; 日本語, English."
    found = matching.find_facts(countries, text, name, GIVEN)
    assert [text[start:end] for start, end in found.names] == [name]
    assert found.missing == []
