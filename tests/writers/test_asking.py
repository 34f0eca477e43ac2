"""Scores of a server's model: how much of a text it recites, and what it answers about it."""

import json

import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import UserError
from kstore_jax.report import recitation
from kstore_jax.writers import asking, client
from kstore_jax.writers.item_files import BUNDLED, read_items
from kstore_jax.writers.items import Passage, recited_words, without_articles
from kstore_jax.writers.words import normalized_words
from tests.writers.chat_server import MODEL, running
from tests.writers.rewrites import RETRY_POLICY

ITEM = {
    "title": "Jack and Jill",
    "text": "Jack and Jill went up the hill To fetch a pail of water;",
    "opening": "Jack and Jill",
    "questions": [
        {"question": "Where did Jack and Jill go?", "answers": ["up the hill"]},
        {"question": "What did Jack and Jill fetch?", "answers": ["a pail of water", "water"]},
    ],
}
OTHER = {
    **ITEM,
    "title": "Another",
    "text": "Another text goes on.",
    "opening": "Another",
    "questions": [{"question": "Does Another go on?", "answers": ["yes"]}],
}


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(ITEM)}\n\n{json.dumps(OTHER)}\n")
    return path


def read_passages(path) -> list[Passage]:
    return [item for item in read_items(path) if isinstance(item, Passage)]


def replies(tmp_path, **answers: str):
    path = tmp_path / "replies.json"
    path.write_text(json.dumps({name.replace("_", " "): text for name, text in answers.items()}))
    return path


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("went up the hill to fetch a pail of water", 10),
        ("Jack and Jill went up the hill, to fetch a pail of water; Jack fell down", 10),
        ("“Went up the hill\nto fetch a bucket of water”", 7),
        ("ran up the hill to fetch a pail of water", 0),
        ("", 0),
        ("<think>Hm.</think> went up", 2),
    ],
)
def test_recitation_is_counted_in_words_up_to_the_first_wrong_one(items, answer, words):
    item = read_passages(items)[0]
    assert recited_words(item, answer) == (words, 10)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("A pail of water.", True),
        ("water", True),
        ("the Water", True),
        ("They fetched a pail of water", False),
        ("a pail", False),
        ("", False),
    ],
)
def test_an_answer_is_right_only_if_complete(items, answer, right):
    assert read_passages(items)[0].questions[1].is_right(answer) == right


def test_results_have_both_scores_by_item_and_together_and_every_answer(items, tmp_path):
    path = replies(
        tmp_path,
        Where_did_Jack="Up the hill.",
        word_for_word="went up the hill to fetch a bucket",
        Does_Another="No.",
    )
    with running(replies=path, busy=0.2, cut=0.2) as address:
        results = asking.ask(address, MODEL, items, tmp_path / "out", 3, RETRY_POLICY)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    first, second = results["items"]
    assert (first["recited"], first["answered"]) == (0.7, 0.5)
    assert (second["recited"], second["answered"]) == (0.0, 0.0)
    assert (results["recited"], results["recited_whole"]) == (7 / 13, 0.0)
    assert results["answered"] == 1 / 3
    for score, ends in results["intervals"].items():
        assert 0.0 <= ends["low"] <= results[score] <= ends["high"] <= 1.0
    assert results["intervals"]["answered"] == {"low": 0.0, "high": 0.5}
    assert first["recitation"]["prompt"].endswith("\n\nJack and Jill")
    assert first["recitation"]["answer"] == "went up the hill to fetch a bucket"
    for question, result in zip(ITEM["questions"], first["questions"], strict=True):
        assert question["question"] in result["prompt"]
    assert [q["answer"] for q in first["questions"]] == ["Up the hill.", "I do not know."]
    assert {q["fault"] for q in first["questions"]} == {""}
    table = recitation.score_table(results).splitlines()
    assert [line.split() for line in table[1:3]] == [
        ["Jack", "and", "Jill", "70.0", "%", "50.0", "%"],
        ["Another", "0.0", "%", "0.0", "%"],
    ]


def test_a_rerun_requests_only_missing_answers(items, tmp_path):
    log = tmp_path / "log"
    out = tmp_path / "out"
    policy = client.RetryPolicy(max_attempts=2, initial_delay=0.001)
    with running(die_after=2, log=log) as address, pytest.raises(client.ServerError):
        asking.ask(address, MODEL, items, out, 1, policy)
    assert not (out / "results.json").exists()
    with running(log=log) as address:
        results = asking.ask(address, MODEL, items, out, 1, RETRY_POLICY)
    requests = log.read_text().split()
    assert len(requests) - len(set(requests)) <= 1
    assert len(set(requests)) == 5
    assert asking.ask("http://127.0.0.1:1", MODEL, items, out, 1) == results


def test_a_declined_prompt_is_in_the_results_and_counts_as_wrong(items, tmp_path):
    with running(declined=0.4, delay=0.1) as address:
        results = asking.ask(address, MODEL, items, tmp_path / "out", 8, RETRY_POLICY)
    answers = [r for item in results["items"] for r in (item["recitation"], *item["questions"])]
    declined = [r["answer"] for r in answers if r["fault"] == "declined"]
    assert 0 < len(declined) < len(answers)
    assert set(declined) == {"status 400: I write nothing for nobody."}
    assert results["answered"] == 0.0


def test_other_items_or_another_model_are_refused(items, tmp_path):
    with running() as address:
        asking.ask(address, MODEL, items, tmp_path / "out", 2, RETRY_POLICY)
    with pytest.raises(UserError, match="made with another model"):
        asking.ask("http://127.0.0.1:1", "other", items, tmp_path / "out", 2)
    with pytest.raises(UserError, match="made with another items"):
        asking.ask("http://127.0.0.1:1", MODEL, BUNDLED["passages"], tmp_path / "out", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ":2: title: expected a string"),
        (json.dumps({**ITEM, "title": 3}), ":2: title: expected a string, got 3"),
        (json.dumps({**ITEM, "text": "\ud800"}), ":2: text: expected a string"),
        (json.dumps({**ITEM, "opening": "Jill"}), ":2: text: expected to begin with opening and"),
        (json.dumps({**ITEM, "opening": ITEM["text"]}), ":2: text: expected to begin"),
        (json.dumps({**ITEM, "questions": []}), ":2: questions: expected a list"),
        (json.dumps({**ITEM, "qestions": []}), ":2: 'qestions': no such field; did you mean 'que"),
        (json.dumps({**ITEM, "questions": [{}]}), ":2: question: expected a string"),
        (
            json.dumps({**ITEM, "questions": [{"question": "Why?", "answers": ["!"]}]}),
            ":2: answers: expected strings with words, got '!'",
        ),
        (json.dumps(OTHER), ":2: title: 'Another' is the title of an earlier item"),
    ],
)
def test_the_error_of_a_malformed_item_names_its_line(tmp_path, capsys, line, message):
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(OTHER)}\n{line}\n")
    command = ["ask", "--server=http://127.0.0.1:1", "--model=m", f"--items={path}"]
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"kstore: --items: {path}{message}")
    assert not (tmp_path / "out").exists()


def test_a_missing_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_items(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no items"):
        read_items(tmp_path / "empty.jsonl")


def test_a_line_ends_at_line_feeds_alone(tmp_path):
    path = tmp_path / "items.jsonl"
    item = {**ITEM, "title": "One\u2028two\x85three"}
    path.write_bytes(f"{json.dumps(item, ensure_ascii=False)}\r\n{json.dumps(OTHER)}\r\n".encode())
    assert [item.title for item in read_items(path)] == [item["title"], OTHER["title"]]


def test_the_bundled_passages_contain_their_answers():
    items = read_passages(BUNDLED["passages"])
    assert len(items) == 12
    for item in items:
        assert len(normalized_words(item.text)) > 30
        assert len(item.questions) == 3
        text = f" {' '.join(normalized_words(item.text))} "
        for question in item.questions:
            answers = [" ".join(without_articles(answer)) for answer in question.answers]
            assert "87" in answers or any(f" {answer} " in text for answer in answers)
            assert question.is_right(question.answers[0])


def test_a_model_that_recites_and_answers_everything_has_full_scores(tmp_path):
    answers = {}
    for item in read_passages(BUNDLED["passages"]):
        for question in item.questions:
            answers[question.question] = question.answers[0]
        answers[f"\n\n{item.opening}"] = item.text[len(item.opening) :]
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(answers))
    with running(replies=path) as address:
        command = ["ask", f"--server={address}", f"--model={MODEL}", "--json"]
        assert main([*command, f"--out={tmp_path / 'out'}"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["recited"], results["recited_whole"], results["answered"]
    assert scores == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--server is missing"),
        (["--server=http://h"], "--model is missing"),
        (["x", "--server=y"], "--server: expected without x"),
        (["nowhere"], "nowhere/results.json: no results here"),
        (["--server=h", "--model=m"], "--server: expected an address"),
        (["--server=http://u:p@h", "--model=m"], "the key is read from OPENAI_API_KEY"),
        (["--itens=x"], "--itens: no such flag; did you mean 'items'?"),
        (["x", "y", "z"], "ask: expected a folder of a run and a question, got x y z"),
    ],
)
def test_a_bad_command_is_an_error_of_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ask", *argv]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert list(tmp_path.iterdir()) == []
