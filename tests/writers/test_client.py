"""The client against a misbehaving server in another process."""

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
from kstore_jax.writers import answers, client
from tests.writers.chat_server import MODEL, running

RETRY_POLICY = client.RetryPolicy(
    timeout=10.0, max_attempts=12, initial_delay=0.001, max_delay=0.01
)


def request_answers(
    address, prompts, retry_policy=RETRY_POLICY, model=MODEL, concurrency=4, declined_before=()
):
    """The answers to some prompts, by prompt, and the client."""
    chat = client.ChatClient(address, model, {"temperature": 0.0}, concurrency, retry_policy)
    answers = {}

    async def request_answer(prompt):
        answers[prompt] = (await chat.complete(prompt, 1, prompt in declined_before)).text

    async def request_all():
        async with chat:
            await client.for_each(prompts, request_answer, concurrency)

    client.run(request_all())
    return answers, chat


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("busy", "429"),
        ("fail", "500"),
        ("cut", "connection"),
        ("garbled", "malformed"),
        ("slow", "timeout"),
    ],
)
def test_transient_errors_are_retried(trouble, cause):
    policy = RETRY_POLICY
    if trouble == "slow":
        policy = client.RetryPolicy(
            timeout=0.3, max_attempts=12, initial_delay=0.001, max_delay=0.01
        )
    with running(**{trouble: 0.3, "seconds": 5}) as address:
        answers, chat = request_answers(address, [f"What is {i}?" for i in range(12)], policy)
    assert len(answers) == 12
    assert set(answers.values()) == {"I do not know."}
    assert set(chat.retries) == {cause}


def test_a_retry_waits_as_long_as_the_server_requests():
    with running(busy=0.4, retry_after=1) as address:
        started = time.monotonic()
        _, chat = request_answers(address, [f"What is {i}?" for i in range(3)])
    assert chat.retries["429"]
    assert time.monotonic() - started >= 1.0


def test_retry_after_may_be_a_date():
    assert (
        55
        < client._retry_after_seconds(email.utils.formatdate(time.time() + 60, usegmt=True))
        <= 60
    )
    assert client._retry_after_seconds("2.5") == 2.5
    assert (
        client._retry_after_seconds("soon")
        == client._retry_after_seconds("")
        == client._retry_after_seconds("-3")
        == 0.0
    )
    assert client._retry_after_seconds("nan") == 0.0


def test_after_the_last_attempt_the_error_names_the_cause():
    policy = client.RetryPolicy(max_attempts=3, initial_delay=0.001)
    message = r"status 500: out of order \(3 attempts\)"
    with running(fail=1.0) as address, pytest.raises(client.ServerError, match=message) as error:
        request_answers(address, ["What?"], policy)
    assert error.value.status == 75


def test_a_server_that_dies_is_an_error_to_resume_from():
    with running(die_after=5) as address:
        policy = client.RetryPolicy(max_attempts=3, initial_delay=0.001)
        with pytest.raises(client.ServerError, match=r"connection lost .*the same command"):
            request_answers(address, [f"What is {i}?" for i in range(50)], policy)


def test_no_server_an_unknown_model_and_a_wrong_key_are_errors_at_once(monkeypatch):
    with pytest.raises(UserError, match=r"^--server: http://127\.0\.0\.1:1/v1: no server there"):
        request_answers("http://127.0.0.1:1", ["What?"])
    with running(key="right") as address:
        monkeypatch.setenv(client.API_KEY_VARIABLE, "right")
        with pytest.raises(UserError, match=r"^--model: .*404.*did you mean 'writer'\?"):
            request_answers(address, ["What?"], model="writr")
        monkeypatch.setenv(client.API_KEY_VARIABLE, "sk-very-secret")
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY") as error:
            request_answers(address, ["What?"])
        assert "sk-very-secret" not in str(error.value)
        monkeypatch.delenv(client.API_KEY_VARIABLE)
        with pytest.raises(UserError, match=r"401.*OPENAI_API_KEY"):
            request_answers(address, ["What?"])


def test_an_answer_has_its_fault():
    def answer(reason, **message):
        return answers.parse_answer(
            json.dumps({"choices": [{"message": message, "finish_reason": reason}]})
        )

    assert answer("stop", content="Yes.") == client.Answer("Yes.")
    assert answer("length", content="Ye") == client.Answer("Ye", "unfinished")
    assert answer("content_filter", content="Y") == client.Answer("Y", "declined")
    assert answer("stop", content=None, refusal="No.") == client.Answer("No.", "declined")


def test_json_nested_too_deeply_is_malformed():
    body = "[" * 100_000
    with pytest.raises(answers.TransientError, match="not a response of the chat protocol"):
        answers.parse_answer(body)
    assert answers.error_message(body) == body


def test_a_declined_prompt_is_no_error_where_others_are_answered():
    with running(declined=0.3, delay=0.1) as address:  # the first responses are declined
        answers, chat = request_answers(
            address, [f"What is {i}?" for i in range(30)], concurrency=30
        )
    declined = "status 400: I write nothing for nobody."
    assert set(answers.values()) == {"I do not know.", declined}
    assert not chat.retries


def test_a_server_that_declines_every_prompt_is_an_error_with_its_reason():
    with running(declined=1.0) as address:
        with pytest.raises(UserError, match=r"^--server: .*status 400: I write nothing") as error:
            request_answers(address, [f"What is {i}?" for i in range(30)])
        assert error.value.status == 2


def test_prompts_declined_before_suggest_nothing_about_other_requests():
    prompts = [f"What is {i}?" for i in range(30)]
    with running(declined=0.5) as address:
        answers, _ = request_answers(address, prompts)
        declined = [prompt for prompt in prompts if "nothing" in answers[prompt]]
        new, *before = declined[:6]
        (good, *_) = (prompt for prompt in prompts if prompt not in declined)
        options = {"concurrency": 2, "declined_before": before}
        assert len(request_answers(address, before, **options)[0]) == 5
        mixed = [new, *before, good]  # `new` waits until the server answers something
        assert set(request_answers(address, mixed, **options)[0]) == set(mixed)
        with pytest.raises(UserError, match="status 400: I write nothing"):
            request_answers(address, [*before, new], **options)


SECRET = "sk-0123/456+789"
QUOTED = urllib.parse.quote(SECRET, safe="")


@contextlib.contextmanager
def replying(content: bytes):
    """The address of a server that responds with this content to every request.

    It closes each connection. So the content has to be of HTTP/1.0: a client keeps a connection of
    HTTP/1.1, and loses its next request.
    """

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
        ("500 .", f"{'x' * 290} {SECRET}"),  # redacted before it is shortened
        ("400 .", json.dumps({"error": {"message": SECRET}}).replace("/", "\\/")),
        ("400 .", json.dumps({"error": {"given": [SECRET]}})),
        ("404 .\r\nContent-Type: application/json", json.dumps({"data": [{"id": SECRET}]})),
        (f"302 .\r\nLocation: http://127.0.0.1:1/{SECRET}", SECRET),
        (f"{SECRET} .", ""),
        (f"200 .\r\n{SECRET}", ""),
    ],
)
def test_a_key_in_a_server_message_is_redacted(monkeypatch, head, body):
    monkeypatch.setenv(client.API_KEY_VARIABLE, SECRET)
    content = f"HTTP/1.0 {head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    policy = client.RetryPolicy(max_attempts=2, initial_delay=0.001)
    with replying(content) as address, pytest.raises(UserError) as error:
        request_answers(address, ["What?"], policy)
    assert not any(part in str(error.value) for part in (SECRET, QUOTED, SECRET[:6]))
    assert "[OPENAI_A" in str(error.value)


def test_a_key_in_an_answer_is_redacted_and_a_placeholder_only_as_a_word(monkeypatch):
    def answer(key, text):
        monkeypatch.setenv(client.API_KEY_VARIABLE, key)
        body = json.dumps({"choices": [{"message": {"content": text}}]})
        head = "HTTP/1.0 200 .\r\nContent-Type: application/json\r\n"
        reply = f"{head}Content-Length: {len(body)}\r\n\r\n{body}"
        with replying(reply.encode()) as address:
            return request_answers(address, ["What?"])[0]["What?"]

    assert answer(SECRET, f"It is x{SECRET}x.") == "It is x[OPENAI_API_KEY]x."
    assert answer("x", "Alexandra is x.") == "Alexandra is [OPENAI_API_KEY]."
    assert answer("content", "Well.") == "Well."


def test_a_key_on_the_command_line_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv(client.API_KEY_VARIABLE, SECRET)
    for options in ({"model": SECRET}, {"address": f"http://127.0.0.1:1/{QUOTED}/v1"}):
        with pytest.raises(UserError, match=r"^--(model|server): contains the key; ") as error:
            request_answers(**{"address": "http://127.0.0.1:1", "prompts": ["What?"], **options})
        assert "0123" not in str(error.value)


@pytest.mark.parametrize("key", ["sk-secret\nX: y", "sk-secret word", "sk-secrèt"])
def test_a_malformed_key_is_refused_and_not_repeated(monkeypatch, key):
    monkeypatch.setenv(client.API_KEY_VARIABLE, key)
    with pytest.raises(UserError, match=r"^OPENAI_API_KEY: ") as error:
        request_answers("http://127.0.0.1:1", ["What?"])
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
    ("server", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/api/v2/", "https://host/api/v2"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
    ],
)
def test_base_url(server, base):
    assert client.base_url(server) == base


@pytest.mark.parametrize(
    "server", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://[", ""]
)
def test_a_malformed_address_is_refused(server):
    with pytest.raises(UserError, match=r"^--server: expected an address such as"):
        client.base_url(server)


@pytest.mark.parametrize("server", ["http://me:secret@host", "http://host/v1?key=secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(server):
    with pytest.raises(UserError, match=r"^--server: .*OPENAI_API_KEY") as error:
        client.base_url(server)
    assert "secret" not in str(error.value)


def test_concurrency_is_limited_and_no_item_is_drawn_early():
    in_flight, most, drawn, done = 0, 0, 0, 0

    def items():
        nonlocal drawn
        for i in range(100):
            drawn += 1
            assert drawn - done <= 7
            yield i

    async def work(_):
        nonlocal in_flight, most, done
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        in_flight -= 1
        done += 1

    client.run(client.for_each(items(), work, 7))
    assert (most, done) == (7, 100)


def test_the_first_error_cancels_all_work():
    async def work(i):
        if i == 5:
            raise UserError("five")
        await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(UserError, match="five"):
        client.run(client.for_each(range(100), work, 8))
    assert time.monotonic() - started < 30
