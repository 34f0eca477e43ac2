"""Recitation and extraction, measured apart, of a server's model and of our own."""

import json

import pytest

from kstore_jax.cli.main import main
from kstore_jax.errors import UserError
from kstore_jax.writers import asking, client
from kstore_jax.writers.matching import normalised
from tests.writers.chat_server import MODEL, running

PATIENT = client.Patience(timeout=20.0, tries=12, first=0.001, most=0.01)
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


def replies(tmp_path, **known: str):
    path = tmp_path / "replies.json"
    path.write_text(json.dumps({name.replace("_", " "): said for name, said in known.items()}))
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
    item = asking.read_items(items)[0]
    assert asking.recited(item, answer) == (words, 10)


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
def test_an_answer_is_right_as_a_whole_or_not_at_all(items, answer, right):
    assert asking.is_right(asking.read_items(items)[0].questions[1], answer) == right


def test_both_are_reported_by_item_and_together_with_what_was_said(items, tmp_path):
    said = replies(
        tmp_path,
        Where_did_Jack="Up the hill.",
        word_for_word="went up the hill to fetch a bucket",
        Does_Another="No.",
    )
    with running(replies=said, busy=0.2, cut=0.2) as address:
        found = asking.ask(address, MODEL, items, tmp_path / "out", 3, PATIENT)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    first, second = found["items"]
    assert (first["recited"], first["answered"]) == (0.7, 0.5)
    assert (second["recited"], second["answered"]) == (0.0, 0.0)
    assert (found["recited"], found["recited_whole"]) == (7 / 13, 0.0)
    assert found["answered"] == 1 / 3
    assert first["recitation"]["prompt"].endswith("\n\nJack and Jill")
    assert first["recitation"]["answer"] == "went up the hill to fetch a bucket"
    asked = [question["prompt"] for question in first["questions"]]
    assert all(q["question"] in p for q, p in zip(ITEM["questions"], asked, strict=True))
    assert [q["answer"] for q in first["questions"]] == ["Up the hill.", "I do not know."]
    assert {q["fault"] for q in first["questions"]} == {""}
    table = asking.table(found).splitlines()
    assert [line.split() for line in table[1:3]] == [
        ["Jack", "and", "Jill", "70.0", "%", "50.0", "%"],
        ["Another", "0.0", "%", "0.0", "%"],
    ]


def test_what_was_answered_is_not_asked_again(items, tmp_path):
    log = tmp_path / "log"
    out = tmp_path / "out"
    with running(die_after=2, log=log) as address, pytest.raises(client.ServerError):
        asking.ask(address, MODEL, items, out, 1, client.Patience(tries=2, first=0.001))
    assert not (out / "results.json").exists()
    with running(log=log) as address:
        found = asking.ask(address, MODEL, items, out, 1, PATIENT)
    asked = log.read_text().split()
    assert len(asked) - len(set(asked)) <= 1
    assert len(set(asked)) == 5
    assert asking.ask("http://127.0.0.1:1", MODEL, items, out, 1) == found


def test_a_prompt_that_the_server_declines_is_told_and_counts_as_not_known(items, tmp_path):
    with running(declined=0.4, delay=0.1) as address:
        found = asking.ask(address, MODEL, items, tmp_path / "out", 8, PATIENT)
    told = [r for item in found["items"] for r in (item["recitation"], *item["questions"])]
    declined = [r["answer"] for r in told if r["fault"] == "declined"]
    assert 0 < len(declined) < len(told)
    assert set(declined) == {"status 400: I write nothing for nobody."}
    assert found["answered"] == 0.0


def test_other_items_or_another_model_are_refused(items, tmp_path):
    with running() as address:
        asking.ask(address, MODEL, items, tmp_path / "out", 2, PATIENT)
    with pytest.raises(UserError, match="made with another model"):
        asking.ask("http://127.0.0.1:1", "other", items, tmp_path / "out", 2)
    with pytest.raises(UserError, match="made with another items"):
        asking.ask("http://127.0.0.1:1", MODEL, asking.PASSAGES, tmp_path / "out", 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ":2: title: expected a string"),
        (json.dumps({**ITEM, "title": 3}), ":2: title: expected a string, got 3"),
        (json.dumps({**ITEM, "text": "\ud800"}), ":2: text: expected a string"),
        (json.dumps({**ITEM, "opening": "Jill"}), ":2: text: expected to begin with opening"),
        (json.dumps({**ITEM, "opening": ITEM["text"]}), ":2: text: expected to begin"),
        (json.dumps({**ITEM, "questions": []}), ":2: questions: expected a list"),
        (json.dumps({**ITEM, "questions": [{}]}), ":2: question: expected a string"),
        (
            json.dumps({**ITEM, "questions": [{"question": "Why?", "answers": ["!"]}]}),
            ":2: answers: expected strings with words, got '!'",
        ),
        (json.dumps(OTHER), ":2: another item has the title 'Another'"),
    ],
)
def test_a_malformed_item_is_named_by_its_line(tmp_path, capsys, line, said):
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(OTHER)}\n{line}\n")
    command = ["ask", "--server=http://127.0.0.1:1", "--model=m", f"--items={path}"]
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"kstore: --items: {path}{said}")
    assert not (tmp_path / "out").exists()


def test_items_that_are_not_there_or_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        asking.read_items(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no item"):
        asking.read_items(tmp_path / "empty.jsonl")


def test_a_line_ends_at_line_feeds_alone(tmp_path):
    path = tmp_path / "items.jsonl"
    item = {**ITEM, "title": "One\u2028two\x85three"}
    path.write_bytes(f"{json.dumps(item, ensure_ascii=False)}\r\n{json.dumps(OTHER)}\r\n".encode())
    assert [item.title for item in asking.read_items(path)] == [item["title"], OTHER["title"]]


def test_the_bundled_passages_are_whole_and_hold_their_answers():
    items = asking.read_items(asking.PASSAGES)
    assert len(items) == 12
    for item in items:
        assert len(normalised(item.text)) > 30
        assert len(item.questions) == 3
        said = f" {' '.join(normalised(item.text))} "
        for question in item.questions:
            answers = [" ".join(asking._plain(answer)) for answer in question.answers]
            assert "87" in answers or any(f" {answer} " in said for answer in answers)
            assert asking.is_right(question, question.answers[0])


def test_a_model_that_knows_a_passage_by_heart_scores_all(tmp_path):
    known = {}
    for item in asking.read_items(asking.PASSAGES):
        for question in item.questions:
            known[question.question] = question.answers[0]
        known[f"\n\n{item.opening}"] = item.text[len(item.opening) :]
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(known))
    with running(replies=path) as address:
        command = ["ask", f"--server={address}", f"--model={MODEL}", "--json"]
        assert main([*command, f"--out={tmp_path / 'out'}"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["recited"], found["recited_whole"], found["answered"]) == (1.0, 1.0, 1.0)


def test_of_a_run_it_tells_the_same_two_figures(finished, capsys):
    assert main(["ask", f"--run={finished}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["items"]
    rows = json.loads((finished / "results.json").read_text())["rows"]
    assert [(r["recited"], r["answered"]) for r in found] == [
        (row["bio_recall"], row["qa"]["mean"]) for row in rows
    ]
    assert main(["ask", f"--run={finished}"]) == 0
    assert "multi2+permute, seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--server is missing"),
        (["--server=http://h"], "--model is missing"),
        (["--run=x", "--server=y"], "--server: expected without --run"),
        (["--run=nowhere"], "nowhere/results.json: no results here"),
        (["--server=h", "--model=m"], "--server: expected an address"),
        (["--server=http://u:p@h", "--model=m"], "a key is read from OPENAI_API_KEY"),
        (["--rum=x"], "--rum: no such flag; did you mean 'run'?"),
        (["x"], "unexpected argument 'x'"),
    ],
)
def test_a_bad_command_is_named_in_one_line(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["ask", *argv]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert said in told
    assert list(tmp_path.iterdir()) == []
