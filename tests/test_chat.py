"""The protocol's client against a server that misbehaves, in a process of its own."""

import asyncio
import email.utils
import time

import pytest

from kstore_jax import chat
from kstore_jax.errors import UserError
from tests.chat_server import MODEL, running

PATIENT = chat.Patience(timeout=10.0, tries=12, first=0.001, most=0.01)


def talked(address, prompts, patience=PATIENT, model=MODEL, concurrency=4):
    """The answers to some prompts, by prompt, and the chat."""
    talk = chat.Chat(address, model, {"temperature": 0.0}, concurrency, patience)
    answers = {}

    async def one(prompt):
        answers[prompt] = (await talk.ask(prompt, 1)).text

    async def every():
        async with talk:
            await chat.spread(prompts, one, concurrency)

    chat.run(every())
    return answers, talk


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [("busy", "429"), ("fail", "500"), ("cut", "cut"), ("garbled", "garbled"), ("slow", "slow")],
)
def test_what_may_pass_is_asked_again(trouble, kind):
    patience = PATIENT
    if trouble == "slow":
        patience = chat.Patience(timeout=0.3, tries=12, first=0.001, most=0.01)
    with running(**{trouble: 0.3, "seconds": 5}) as address:
        answers, talk = talked(address, [f"What is {i}?" for i in range(12)], patience)
    assert len(answers) == 12
    assert set(answers.values()) == {"I do not know."}
    assert set(talk.again) == {kind}


def test_it_waits_as_long_as_the_server_says():
    with running(busy=0.4, retry_after=1) as address:
        started = time.monotonic()
        _, talk = talked(address, [f"What is {i}?" for i in range(3)])
    assert talk.again["429"]
    assert time.monotonic() - started >= 1.0


def test_a_date_says_how_long_to_wait_as_well():
    assert 55 < chat._seconds(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert chat._seconds("2.5") == 2.5
    assert chat._seconds("soon") == chat._seconds("") == chat._seconds("-3") == 0.0
    assert chat._seconds("nan") == 0.0


def test_trouble_without_end_is_an_error_that_says_so():
    patience = chat.Patience(tries=3, first=0.001)
    said = pytest.raises(chat.ServerError, match=r"status 500: out of order \(3 times\)")
    with running(fail=1.0) as address, said as said:
        talked(address, ["What?"], patience)
    assert said.value.status == 75


def test_a_server_that_goes_away_is_an_error_to_go_on_from():
    with running(die_after=5) as address:
        patience = chat.Patience(tries=3, first=0.001)
        with pytest.raises(chat.ServerError, match=r"the connection broke .*the same command"):
            talked(address, [f"What is {i}?" for i in range(50)], patience)


def test_nobody_there_an_unknown_model_and_a_bad_key_are_said_at_once(monkeypatch):
    with pytest.raises(UserError, match=r"^--server: http://127\.0\.0\.1:1/v1: no server there"):
        talked("http://127.0.0.1:1", ["What?"])
    with running(key="right") as address:
        monkeypatch.setenv(chat.KEY, "right")
        with pytest.raises(UserError, match=r"^--model: .*404.*did you mean 'writer'\?"):
            talked(address, ["What?"], model="writr")
        monkeypatch.setenv(chat.KEY, "sk-very-secret")
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY") as said:
            talked(address, ["What?"])
        assert "sk-very-secret" not in str(said.value)
        monkeypatch.delenv(chat.KEY)
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY"):
            talked(address, ["What?"])


def test_a_key_with_a_line_break_is_refused_without_saying_it(monkeypatch):
    monkeypatch.setenv(chat.KEY, "sk-secret\nX: y")
    with pytest.raises(UserError, match=r"^OPENAI_API_KEY: ") as said:
        talked("http://127.0.0.1:1", ["What?"])
    assert "secret" not in str(said.value)


@pytest.mark.parametrize(
    ("server", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/api/v2/", "https://host/api/v2"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
    ],
)
def test_where_the_protocol_begins(server, base):
    assert chat.base_url(server) == base


@pytest.mark.parametrize(
    "server", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://[", ""]
)
def test_what_is_no_address_is_refused(server):
    with pytest.raises(UserError, match=r"^--server: expected an address such as"):
        chat.base_url(server)


@pytest.mark.parametrize("server", ["http://me:secret@host", "http://host/v1?key=secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(server):
    with pytest.raises(UserError, match=r"^--server: .*OPENAI_API_KEY") as said:
        chat.base_url(server)
    assert "secret" not in str(said.value)


def test_no_more_than_so_many_are_under_way_and_none_is_drawn_early():
    running_now, most, drawn, done = 0, 0, 0, 0

    def items():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            assert drawn - done <= 7
            yield i

    async def work(_):
        nonlocal running_now, most, done
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0)
        running_now -= 1
        done += 1

    chat.run(chat.spread(items(), work, 7))
    assert (most, done) == (7, 100)


def test_the_first_error_ends_all():
    async def work(i):
        if i == 5:
            raise UserError("five")
        await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(UserError, match="five"):
        chat.run(chat.spread(range(100), work, 8))
    assert time.monotonic() - started < 30
