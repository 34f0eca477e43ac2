"""`kstore show` prints a person, biographies and questions."""

import json
import re

import numpy as np
import pytest

from kstore_jax.cli.main import main
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import default, parse_rows
from kstore_jax.report.show import PersonText, pools, pools_text
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import drawn

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
PEOPLE = 30


def person_text(person: int, variant: str = "multi2+permute") -> PersonText:
    config = default()
    config.world.people, config.world.celebrities = PEOPLE, 5
    config.data.variant, config.data.celebrity_share = variant, 0.5
    return PersonText(parse_rows(config)[0], person)


@pytest.mark.parametrize("variant", ["single", "multi2+permute+fullname", "couple2", "fresh"])
def test_json_holds_the_person_the_entries_with_spans_and_the_questions(variant):
    printed = json.loads(person_text(7, variant).json())
    attributes = printed["person"]["attributes"]
    assert list(attributes) == list(ATTRIBUTES)
    for entry in printed["entries"]:
        assert gpt2().decode(entry["tokens"]) == entry["text"]
        for name, (start, end) in ((a, entry["spans"][a]) for a in ATTRIBUTES):
            assert gpt2().decode(entry["tokens"][start:end]) == f" {attributes[name]}"
        for start, end in entry["spans"]["name"]:
            assert gpt2().decode(entry["tokens"][start:end]) == f" {printed['person']['name']}"
        assert len(entry["spans"]["name"]) == (6 if "fullname" in variant else 1)
    assert len(printed["questions"]) == 30
    assert [q["attribute"] for q in printed["questions"] if q["trained"]] == list(ATTRIBUTES)
    for question in printed["questions"]:
        assert question["prompt"].endswith("? Answer:")
        assert question["answer"] == f" {attributes[question['attribute']]}"
    assert len({question["prompt"] for question in printed["questions"]}) == 30


def test_groups_are_shown_apart():
    groups = [json.loads(person_text(i).json())["person"]["group"] for i in range(PEOPLE + 5)]
    assert sorted(groups) == ["P_test"] * 15 + ["P_train"] * 15 + ["celebrity"] * 5
    assert groups[PEOPLE:] == ["celebrity"] * 5
    assert len(json.loads(person_text(PEOPLE).json())["entries"]) == 5


def test_colours_mark_names_and_values_and_nothing_else():
    one = person_text(3)
    coloured, plain = one.text(coloured=True), one.text(coloured=False)
    assert re.sub(r"\033\[\d*m", "", coloured) == plain
    person = json.loads(one.json())["person"]
    values = re.findall(r"\033\[36m (.*?)\033\[0m", coloured)
    assert sorted(values) == sorted(3 * list(person["attributes"].values()))
    names = re.findall(r"\033\[1m ?(.*?)\033\[0m", coloured)
    assert [name.strip() for name in names] == [person["name"]] * 8


def test_somebody_beyond_the_world_is_refused():
    with pytest.raises(UserError, match=r"^--person: expected less than"):
        person_text(PEOPLE + 5)


def test_the_shares_of_the_pools_stand_beside_the_papers():
    first, *lines = pools_text(pools(parse_rows(default())[0])).splitlines()
    assert first.split()[0] == "attribute"
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == list(ATTRIBUTES)
    assert rows["university"][0] == "300"
    assert rows["university"][-1] == "37.0%"
    assert rows["company_city"][2] == "13.7%"
    shares = np.array([[float(x.rstrip("%")) for x in row[1:]] for row in rows.values()])
    assert (shares[:, 0] <= shares[:, 2]).all()


def test_the_pools_are_also_shown_as_json(capsys):
    assert main(["show", "--pools", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == list(ATTRIBUTES)
    assert printed["university"]["values"] == 300
    assert 0 < printed["university"]["commonest"] <= printed["university"]["first_word"] < 1
    assert printed["company_city"]["paper_commonest"] == pytest.approx(0.137)


@pytest.mark.parametrize("person", [0, 3])
def test_a_person_of_another_world(tmp_path, person):
    config = default()
    config.world.update(people=6, folder=str(drawn(tmp_path / "drawn", 7, 2)))
    config.data.variant = "multi2+permute"
    shown = PersonText(parse_rows(config)[0], person)
    printed = json.loads(shown.json())
    attributes = printed["person"]["attributes"]
    assert list(attributes) == [f"fact_{a}" for a in range(7)]
    assert "pronoun" not in printed["person"]
    for entry in printed["entries"]:
        for attribute, value in attributes.items():
            start, end = entry["spans"][attribute]
            assert gpt2().decode(entry["tokens"][start:end]) == f" {value}"
    names = re.findall(r"\033\[1m ?(.*?)\033\[0m", shown.text(coloured=True))
    assert [name.strip() for name in names] == [printed["person"]["name"]] * (2 * 7 + 7)
    lines = pools_text(pools(parse_rows(config)[0])).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["fact_0", "2", "50.0%", "100.0%"],
        ["fact_1", "3", "33.3%", "100.0%"],
    ]
