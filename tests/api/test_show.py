"""`kstore show` prints a person, biographies and questions, and what the models of a run know."""

import json
import re

import numpy as np
import pytest

import kstore_jax
from kstore_jax.api.show import PersonText, format_knowledge, knowledge
from kstore_jax.cli.main import main
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import default, parse_rows
from tests.pipeline.runners import finished_runner
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


@pytest.fixture(scope="module")
def printed(finished) -> list[dict]:
    """What the finished run knows of a person held out."""
    return [*knowledge(finished, 5)]


def test_a_run_shows_what_its_rows_read(printed, finished):
    run = kstore_jax.load(finished)
    assert [row["row"] for row in printed] == run.names
    for row, variant, entries in zip(printed, ("single", "multi2+permute"), (1, 2), strict=True):
        person = run.world(row["row"])[5]
        assert row["person"]["attributes"] == person.facts
        texts = [entry["text"] for entry in row["entries"]]
        assert texts == [f" {person.text(variant, m)}" for m in range(entries)]
        assert not row["unfinished"]


def test_the_answers_of_a_run_are_marked_as_its_evaluation_marks_them(printed, finished):
    run = kstore_jax.load(finished)
    for i, row in enumerate(printed):
        runner = finished_runner(finished, i)
        with np.load(runner.graph.cache.folder(runner.graph.readouts["qa"]) / "cases.npz") as file:
            cases = {name: file[f"extraction.{name}"] for name in ("person", "wording", "exact")}
        of_person = (cases["person"][:, 0] == 5) & (cases["wording"] == 0)
        assert [answer["right"] for answer in row["answers"]] == cases["exact"][of_person].tolist()
        person = run.world(i)[5]
        assert [answer["truth"] for answer in row["answers"]] == [*person.facts.values()]
        model = run.model(i)
        for answer in row["answers"]:
            written = model.ask(answer["question"])
            assert written.startswith(answer["answer"])  # which has at most as many tokens


def test_right_and_wrong_stand_beside_the_facts(printed):
    row = dict(printed[0])
    right, *others = row["answers"]
    row["answers"] = [{**right, "right": True, "answer": right["truth"]}, *others]
    text = format_knowledge([row])
    assert f"{right['question']} {right['truth']}  (right)" in text
    assert text.count("(wrong; the truth: ") == sum(not answer["right"] for answer in others)
    assert f"read:{row['entries'][0]['text']}" in text
    assert text.splitlines()[0] == f"person 5 ({row['person']['group']}), {row['person']['name']}"


def test_a_row_without_its_models_shows_texts_and_the_reason(finished, tmp_path):
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    (row,) = knowledge(tmp_path, 5, "multi2")
    assert len(row["entries"]) == 2
    assert (row["recited"], row["answers"]) == ({}, [])
    assert "shards is not finished; run it first" in format_knowledge([row])


def test_show_takes_a_run_or_a_configuration(finished, tmp_path, capsys):
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    assert main(["show", str(tmp_path), "--person=3", "--row=0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["person"]["id"] == 3

    def refused(*argv: str) -> str:
        assert main(["show", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--person: expected less than 20, got 20" in refused(str(tmp_path), "--person=20")
    assert "--row: expected with the folder of a run" in refused("--row=0")
    assert "--pools: expected without the folder" in refused(str(tmp_path), "--pools")
    assert "expected one folder of a run, got a b" in refused("a", "b")
    assert "unexpected argument 'a'" in refused("a", "--config.world.people=9")
    assert "no configuration of a run" in refused(str(tmp_path / "nothing"))
