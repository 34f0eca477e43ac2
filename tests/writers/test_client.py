"""The protocol's client against a server that misbehaves, in a process of its own."""

import asyncio
import contextlib
import email.utils
import http.server
import json
import threading
import time
import urllib.parse

import pytest

from kstore_jax.errors import UserError
from kstore_jax.writers import client
from tests.writers.chat_server import MODEL, running

PATIENT = client.Patience(timeout=10.0, tries=12, first=0.001, most=0.01)


def talked(address, prompts, patience=PATIENT, model=MODEL, concurrency=4, declined=()):
    """The answers to some prompts, by prompt, and the chat; `declined`: those known to be."""
    talk = client.Chat(address, model, {"temperature": 0.0}, concurrency, patience)
    answers = {}

    async def one(prompt):
        answers[prompt] = (await talk.ask(prompt, 1, prompt in declined)).text

    async def every():
        async with talk:
            await client.spread(prompts, one, concurrency)

    client.run(every())
    return answers, talk


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [("busy", "429"), ("fail", "500"), ("cut", "cut"), ("garbled", "garbled"), ("slow", "slow")],
)
def test_what_may_pass_is_asked_again(trouble, kind):
    patience = PATIENT
    if trouble == "slow":
        patience = client.Patience(timeout=0.3, tries=12, first=0.001, most=0.01)
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
    assert 55 < client._seconds(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert client._seconds("2.5") == 2.5
    assert client._seconds("soon") == client._seconds("") == client._seconds("-3") == 0.0
    assert client._seconds("nan") == 0.0


def test_trouble_without_end_is_an_error_that_says_so():
    patience = client.Patience(tries=3, first=0.001)
    said = pytest.raises(client.ServerError, match=r"status 500: out of order \(3 times\)")
    with running(fail=1.0) as address, said as said:
        talked(address, ["What?"], patience)
    assert said.value.status == 75


def test_a_server_that_goes_away_is_an_error_to_go_on_from():
    with running(die_after=5) as address:
        patience = client.Patience(tries=3, first=0.001)
        with pytest.raises(client.ServerError, match=r"the connection broke .*the same command"):
            talked(address, [f"What is {i}?" for i in range(50)], patience)


def test_nobody_there_an_unknown_model_and_a_bad_key_are_said_at_once(monkeypatch):
    with pytest.raises(UserError, match=r"^--server: http://127\.0\.0\.1:1/v1: no server there"):
        talked("http://127.0.0.1:1", ["What?"])
    with running(key="right") as address:
        monkeypatch.setenv(client.KEY, "right")
        with pytest.raises(UserError, match=r"^--model: .*404.*did you mean 'writer'\?"):
            talked(address, ["What?"], model="writr")
        monkeypatch.setenv(client.KEY, "sk-very-secret")
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY") as said:
            talked(address, ["What?"])
        assert "sk-very-secret" not in str(said.value)
        monkeypatch.delenv(client.KEY)
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY"):
            talked(address, ["What?"])


def test_an_answer_says_what_is_wrong_with_it():
    def answer(reason, **message):
        return client._answer(
            json.dumps({"choices": [{"message": message, "finish_reason": reason}]})
        )

    assert answer("stop", content="Yes.") == client.Answer("Yes.")
    assert answer("length", content="Ye") == client.Answer("Ye", "unfinished")
    assert answer("content_filter", content="Y") == client.Answer("Y", "declined")
    assert answer("stop", content=None, refusal="No.") == client.Answer("No.", "declined")


def test_what_is_nested_too_deeply_to_be_read_is_no_answer():
    said = "[" * 100_000
    with pytest.raises(client._Passing, match="no answer of the chat protocol"):
        client._answer(said)
    assert client._message(said) == said


def test_a_prompt_that_is_declined_ends_nothing_where_others_are_answered():
    with running(declined=0.3, delay=0.1) as address:  # the first to come back are declined
        answers, talk = talked(address, [f"What is {i}?" for i in range(30)], concurrency=30)
    declined = "status 400: I write nothing for nobody."
    assert set(answers.values()) == {"I do not know.", declined}
    assert not talk.again


def test_what_is_declined_always_is_an_error_that_says_why():
    with running(declined=1.0) as address:
        with pytest.raises(UserError, match=r"^--server: .*status 400: I write nothing") as said:
            talked(address, [f"What is {i}?" for i in range(30)])
        assert said.value.status == 2


def test_what_is_known_to_be_declined_speaks_against_no_other_request():
    prompts = [f"What is {i}?" for i in range(30)]
    with running(declined=0.5) as address:
        answers, _ = talked(address, prompts)
        declined = [prompt for prompt in prompts if "nothing" in answers[prompt]]
        new, *known = declined[:6]
        (good, *_) = (prompt for prompt in prompts if prompt not in declined)
        assert len(talked(address, known, concurrency=2, declined=known)[0]) == 5
        asked = [new, *known, good]  # `new` waits until the server answers something
        assert set(talked(address, asked, concurrency=2, declined=known)[0]) == set(asked)
        with pytest.raises(UserError, match="status 400: I write nothing"):
            talked(address, [*known, new], concurrency=2, declined=known)


SECRET = "sk-0123/456+789"
QUOTED = urllib.parse.quote(SECRET, safe="")


@contextlib.contextmanager
def replying(content: bytes):
    """The address of a server that says this, whatever it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("401 .", f"incorrect key: Bearer {SECRET}"),
        ("401 .", f"no such address: /v1?key={QUOTED}"),
        ("500 .", f"{'x' * 290} {SECRET}"),  # what is cut was blotted out before
        ("400 .", json.dumps({"error": {"message": SECRET}}).replace("/", "\\/")),
        ("400 .", json.dumps({"error": {"given": [SECRET]}})),
        ("404 .\r\nContent-Type: application/json", json.dumps({"data": [{"id": SECRET}]})),
        (f"302 .\r\nLocation: http://127.0.0.1:1/{SECRET}", SECRET),
        (f"{SECRET} .", ""),
        (f"200 .\r\n{SECRET}", ""),
    ],
)
def test_a_key_that_the_server_says_back_is_blotted_out(monkeypatch, head, body):
    monkeypatch.setenv(client.KEY, SECRET)
    content = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    patience = client.Patience(tries=2, first=0.001)
    with replying(content) as address, pytest.raises(UserError) as said:
        talked(address, ["What?"], patience)
    assert not any(part in str(said.value) for part in (SECRET, QUOTED, SECRET[:6]))
    assert "[OPENAI_A" in str(said.value)


def test_a_key_in_an_answer_is_blotted_out_and_a_placeholder_as_a_word_alone(monkeypatch):
    def said(key, text):
        monkeypatch.setenv(client.KEY, key)
        body = json.dumps({"choices": [{"message": {"content": text}}]})
        head = "HTTP/1.1 200 .\r\nContent-Type: application/json\r\n"
        reply = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
        with replying(reply.encode()) as address:
            return talked(address, ["What?"])[0]["What?"]

    assert said(SECRET, f"It is x{SECRET}x.") == "It is x[OPENAI_API_KEY]x."
    assert said("x", "Alexandra is x.") == "Alexandra is [OPENAI_API_KEY]."
    assert said("content", "Well.") == "Well."


def test_a_key_on_the_command_line_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv(client.KEY, SECRET)
    for given in ({"model": SECRET}, {"address": f"http://127.0.0.1:1/{QUOTED}/v1"}):
        with pytest.raises(UserError, match=r"^--(model|server): holds the key, which") as said:
            talked(**{"address": "http://127.0.0.1:1", "prompts": ["What?"], **given})
        assert "0123" not in str(said.value)


@pytest.mark.parametrize("key", ["sk-secret\nX: y", "sk-secret word", "sk-secrèt"])
def test_what_is_no_key_is_refused_without_saying_it(monkeypatch, key):
    monkeypatch.setenv(client.KEY, key)
    with pytest.raises(UserError, match=r"^OPENAI_API_KEY: ") as said:
        talked("http://127.0.0.1:1", ["What?"])
    assert "sk-" not in str(said.value)


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
    assert client.base_url(server) == base


@pytest.mark.parametrize(
    "server", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://[", ""]
)
def test_what_is_no_address_is_refused(server):
    with pytest.raises(UserError, match=r"^--server: expected an address such as"):
        client.base_url(server)


@pytest.mark.parametrize("server", ["http://me:secret@host", "http://host/v1?key=secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(server):
    with pytest.raises(UserError, match=r"^--server: .*OPENAI_API_KEY") as said:
        client.base_url(server)
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

    client.run(client.spread(items(), work, 7))
    assert (most, done) == (7, 100)


def test_the_first_error_ends_all():
    async def work(i):
        if i == 5:
            raise UserError("five")
        await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(UserError, match="five"):
        client.run(client.spread(range(100), work, 8))
    assert time.monotonic() - started < 30
