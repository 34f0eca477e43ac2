"""The bundled pools, templates and questions: the paper's counts, the rules of the README."""

import re

import pytest

from kstore_jax.world.pools import load_pools
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.world.bundled import ATTRIBUTES

POOLS = {
    "first_names": 400,
    "middle_names": 400,
    "last_names": 1000,
    "birth_cities": 200,
    "universities": 300,
    "majors": 100,
    "companies": 263,
}
REFERENCES = ("{name}", "{name's}", "{name:them}")


def templates(attribute: str) -> list[str]:
    path = BUNDLED_WORLD / "templates" / f"{attribute}.txt"
    return path.read_text(encoding="ascii").splitlines()


def questions(attribute: str) -> list[str]:
    path = BUNDLED_WORLD / "questions" / f"{attribute}.txt"
    return path.read_text(encoding="ascii").splitlines()


@pytest.mark.parametrize(("pool", "count"), POOLS.items())
def test_pools_have_the_papers_sizes_and_the_format_of_the_readme(pool, count):
    content = (BUNDLED_WORLD / "pools" / f"{pool}.txt").read_text(encoding="ascii")
    lines = content.splitlines()
    assert len(lines) == count
    assert content.endswith("\n")
    folded = [line.lower() for line in lines]
    assert folded == sorted(set(folded))
    for line in lines:
        for value in line.split("; ") if pool == "companies" else [line]:
            assert re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 ,&'.-]*[A-Za-z0-9])?", value)
    if pool.endswith("names"):
        assert all(line.isalpha() for line in lines)


def test_dates_and_work_cities_have_the_papers_sizes():
    pools = load_pools()
    assert len(pools.values["birth_date"]) == 200 * 12 * 28
    assert pools.values["birth_date"][0] == "January 1, 1900"
    assert pools.values["birth_date"][-1] == "December 28, 2099"
    assert len(pools.values["company_city"]) == 131


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_templates_follow_the_rules_of_the_readme(attribute):
    lines = templates(attribute)
    assert len(set(lines)) == len(lines) == 50
    for line in lines:
        marks = re.findall(r"\{.*?\}", line)
        reference = [mark for mark in marks if mark in REFERENCES]
        pairs = [mark for mark in marks if "|" in mark]
        assert marks.count("{value}") == 1
        assert len(reference) == 1
        assert set(marks) - {"{value}", "{their}", "{them}", *reference, *pairs} == set()
        assert not pairs or reference == ["{name}"]
        assert all(re.fullmatch(r"\{[a-z]+\|[a-z]+\}", pair) for pair in pairs)
        for later in ("{their}", "{them}"):
            assert later not in line or line.index(reference[0]) < line.index(later)
        assert all(line[m.start() - 1] == " " for m in re.finditer(r"\{", line) if m.start())
        assert line.endswith(".")
        assert "  " not in line


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_attribute_has_five_questions_with_the_name_once(attribute):
    lines = questions(attribute)
    assert len(set(lines)) == len(lines) == 5
    for line in lines:
        assert re.findall(r"\{.*?\}", line) == ["{name}"]
        assert line.endswith("?")
        assert "  " not in line


def test_no_two_attributes_share_a_question():
    lines = [line for attribute in ATTRIBUTES for line in questions(attribute)]
    assert len(set(lines)) == 30
