"""Pairs of questions to a server's model: both directions of a series, a fact and its use."""

import dataclasses
import json
from typing import Any

import pytest

from kstore_jax.cli.main import main
from kstore_jax.writers import asking, client
from kstore_jax.writers.item_files import BUNDLED, read_items
from kstore_jax.writers.items import Fact, Pair, Series, pairs_of
from tests.writers.chat_server import MODEL, running
from tests.writers.rewrites import RETRY_POLICY

POEM: dict[str, Any] = {
    "title": "Jack and Jill",
    "kind": "lines",
    "source": "a nursery rhyme",
    "unit": "line",
    "parts": ["Jack fell down,", "And broke his crown,", "And Jill came after."],
}
ANN = {"title": "Ann", "kind": "birth", "fact": "the birth year of Ann", "value": 1900}
BO = {**ANN, "title": "Bo", "fact": "the birth year of Bo", "value": 1951, "answers": ["'51"]}
COMPARED = {**ANN, "less": "earlier", "than": ["Bo"]}


def write(path, *items: dict):
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


@pytest.fixture
def items(tmp_path):
    return write(tmp_path / "items.jsonl", POEM, COMPARED, BO)


def replies(tmp_path, pairs: list[Pair], second: bool = True):
    """A server's replies: right ones to the first questions and, if `second`, to the others."""
    texts = {}
    for pair in pairs:
        texts |= {question.question: question.answers[0] for question in pair.first}
        texts[pair.second.question] = pair.second.answers[0] if second else "I forget."
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(texts))
    return path


def asked(items, tmp_path, **options) -> dict:
    with running(**options) as address:
        return asking.ask(address, MODEL, items, tmp_path / "out", 3, RETRY_POLICY)


def test_a_series_is_asked_in_both_directions():
    series = Series(**{**POEM, "parts": tuple(POEM["parts"]), "context": 1, "separator": " "})
    first, second = series.pairs
    assert first.first[0].question == (
        "Which line comes right after “Jack fell down,” in a nursery rhyme?"
    )
    assert first.first[0].answers == ("And broke his crown,",)
    assert first.second.question == (
        "Which line comes right before “And broke his crown,” in a nursery rhyme?"
    )
    assert first.second.answers == ("Jack fell down,",)
    assert second.second.answers == first.first[0].answers
    (whole,) = dataclasses.replace(series, context=2, separator=" / ").pairs
    assert "after “Jack fell down, / And broke his crown,”" in whole.first[0].question
    assert whole.first[0].answers == ("And Jill came after.",)
    assert "before “And broke his crown, / And Jill came after.”" in whole.second.question
    assert whole.second.answers == ("Jack fell down,",)


def test_every_neighbour_of_a_part_that_occurs_twice_is_right():
    pairs = Series("t", "k", "s", "u", ("A1", "B", "a1", "C", "A1", "B"), 1, " ").pairs
    assert [pair.first[0].answers for pair in pairs] == [("B", "C"), ("a1",), ("B", "C"), ("A1",)]
    assert [pair.second.answers for pair in pairs] == [("A1",), ("B", "C"), ("a1",), ("B", "C")]


def test_a_fact_its_parity_and_its_comparison():
    bo = Fact("Bo", "birth", "the birth year of Bo", 1951, ("'51",), "less", ())
    ann = Fact("Ann", "birth", "the birth year of Ann", 1900, (), "earlier", ("Bo",))
    even, compared, odd = pairs_of([ann, bo])
    assert (even.names, compared.names) == (("stated", "even"), ("both stated", "earlier"))
    assert even.first[0].question == "What is the birth year of Ann?"
    assert even.second.question == "Is the birth year of Ann an even number?"
    question = "Is the birth year of Ann earlier than the birth year of Bo?"
    assert compared.second.question == question
    assert compared.first == (ann.stated, bo.stated)
    answers = [pair.second.answers for pair in (even, compared, odd)]
    assert answers == [("Yes",), ("Yes",), ("No",)]
    assert [bo.stated.is_right(text) for text in ("1951.", "51", "1952")] == [True, True, False]
    equal = Fact("Cy", "birth", "x", 1951, (), "less", ("Bo",))
    assert pairs_of([bo, equal])[-1].second.answers == ("No",)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Yes.", True), ("yes, 1900 is even", True), ("No", False), ("1900 is even: yes", False)],
)
def test_yes_and_no_are_read_at_the_beginning(answer, right):
    even, *_ = Fact("Ann", "birth", "the year", 1900, (), "less", ()).pairs({})
    assert even.second.is_right(answer) == right


def test_both_scores_have_their_number_an_interval_and_a_guess(items, tmp_path, capsys):
    pairs = pairs_of(read_items(items))
    path = replies(tmp_path, pairs, second=False)
    results = asked(items, tmp_path, replies=path, busy=0.2)
    lines, even, earlier = results["kinds"]
    assert [(kind["kind"], kind["questions"]) for kind in results["kinds"]] == [
        ("lines", ["next", "previous"]),
        ("birth", ["stated", "even"]),
        ("birth", ["both stated", "earlier"]),
    ]
    assert lines["first"] == {"share": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert lines["second"] == {"share": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert (lines["guess"], even["guess"], earlier["guess"]) == (None, 0.5, 1.0)
    assert (results["recited"], results["answered"], results["items"]) == (None, None, [])
    with running(replies=path) as address:
        command = ["ask", f"--server={address}", f"--model={MODEL}", f"--items={items}"]
        assert main([*command, f"--out={tmp_path / 'out'}"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == [MODEL, "first", "second"]
    first, second, _ = (" ".join(row.split()) for row in rows)
    assert first.startswith("lines next: 100.0 % (100.0 to 100.0 %, n 2) previous: 0.0 %")
    assert "even: 0.0 % (0.0 to 0.0 %, n 2) 50.0 %" in second


def test_a_score_among_known_facts_and_its_interval(tmp_path):
    """Of 20 facts the model states 10, and says of 5 of these, and of no other, their parity."""
    facts = [{**BO, "title": f"p{i}", "fact": f"the number of p{i:02}"} for i in range(20)]
    path = tmp_path / "replies.json"
    texts = {f"What is the number of p{i:02}": "1951" for i in range(10)}
    path.write_text(json.dumps({**texts, **{f"Is the number of p{i:02}": "No" for i in range(5)}}))
    (even,) = asked(write(tmp_path / "items", *facts), tmp_path, replies=path)["kinds"]
    assert [even[name]["share"] for name in ("first", "second")] == [0.5, 0.25]
    assert [even[name]["n"] for name in ("first", "second", "second_where_first")] == [20, 20, 10]
    assert even["second_where_first"]["share"] == 0.5
    assert even["second"]["low"] < 0.25 < even["second"]["high"]
    assert 0.02 < even["second"]["low"] < 0.15  # binomial: 0.05
    assert 0.35 < even["second"]["high"] < 0.5  # binomial: 0.45


def test_every_prompt_and_answer_is_in_the_folder(items, tmp_path):
    results = asked(items, tmp_path, replies=replies(tmp_path, pairs_of(read_items(items))))
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    answers = [each for row in results["pairs"] for each in (*row["first"], row["second"])]
    pairs = pairs_of(read_items(items))
    assert [each["prompt"] for each in answers] == [q.prompt for p in pairs for q in p.questions]
    assert all("in as few words as possible" in each["prompt"] for each in answers)
    assert all(each["answer"] == each["expected"][0] and each["right"] for each in answers)
    records = map(json.loads, (tmp_path / "out" / "journal.jsonl").read_text().splitlines())
    assert {(r["prompt"], r["answer"]) for r in records} == {
        (each["prompt"], each["answer"]) for each in answers
    }


def test_a_rerun_requests_only_missing_answers(items, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    policy = client.RetryPolicy(max_attempts=2, initial_delay=0.001)
    with running(die_after=3, log=log) as address, pytest.raises(client.ServerError):
        asking.ask(address, MODEL, items, out, 1, policy)
    assert not (out / "results.json").exists()
    results = asked(items, tmp_path, log=log)
    requests = log.read_text().split()
    distinct = {question.prompt for p in pairs_of(read_items(items)) for question in p.questions}
    assert len(distinct) == 9
    assert len(set(requests)) == 9
    assert len(requests) <= 10
    assert asking.ask("http://127.0.0.1:1", MODEL, items, out, 1) == results


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": "x"}, "expected one of the fields text, parts, fact, got none of them"),
        ({**POEM, "fact": "f"}, "expected one of the fields text, parts, fact, got parts and fact"),
        ({**POEM, "unnit": "line"}, "'unnit': no such field; did you mean 'unit'?"),
        ({**POEM, "unit": ""}, "unit: expected a string, got ''"),
        ({**POEM, "parts": "abc"}, "parts: expected a list of at least one, got 'abc'"),
        ({**POEM, "parts": ["a b", "…"]}, "parts: expected strings with words, got '…'"),
        ({**POEM, "parts": ["b"]}, "context: expected at least 1 and less than the number of part"),
        ({**POEM, "context": 3}, "context: expected at least 1 and less than the number of parts"),
        ({**POEM, "separator": 1}, "separator: expected a string, got 1"),
        ({**BO, "value": 1.5}, "value: expected a whole number from 0, got 1.5"),
        ({**BO, "value": True}, "value: expected a whole number from 0, got True"),
        ({**BO, "value": -43}, "value: expected a whole number from 0, got -43"),
        ({**BO, "kind": None}, "kind: expected a string, got None"),
        ({**BO, "than": ["An"]}, "than: expected the title of another fact of kind 'birth', got '"),
        ({**BO, "than": ["Bo"]}, "than: expected the title of another fact of kind 'birth', got '"),
        ({**BO, "kind": "b", "than": ["Ann"]}, "than: expected the title of another fact of kin"),
    ],
)
def test_the_error_of_a_malformed_item_names_its_line(tmp_path, capsys, item, message):
    path = write(tmp_path / "items.jsonl", ANN, item)
    command = ["ask", "--server=http://127.0.0.1:1", "--model=m", f"--items={path}"]
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"kstore: --items: {path}:2: {message}")
    assert not (tmp_path / "out").exists()


def test_the_bundled_pairs_have_both_answers_and_every_score(tmp_path):
    items = read_items(BUNDLED["pairs"])
    pairs = pairs_of(items)
    for pair in pairs:
        for question in pair.questions:
            assert all(question.is_right(answer) for answer in question.answers)
            if not question.is_yes_or_no:
                assert question.answers[0] not in question.question
    command = ["ask", f"--model={MODEL}", "--items=pairs", f"--out={tmp_path / 'out'}", "--json"]
    with running(replies=replies(tmp_path, pairs)) as address:
        assert main([*command, f"--server={address}"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    numbers = [kind["first"]["n"] for kind in results["kinds"]]
    assert numbers == [49, 18, 40, 40]
    assert sum(numbers) == len(pairs)
    for kind in results["kinds"]:
        assert kind["first"]["share"] == kind["second"]["share"] == 1.0
        assert kind["guess"] == (0.5 if kind["kind"] == "birth year" else None)
