"""A server of OpenAI's chat protocol on loopback that writes a text from the prompt's facts, and
misbehaves on request.

    python -m tests.writers.chat_server [--wrong=0.1] [--busy=0.05] [--log=FILE] …

It prints its port when it is ready. An answer is a function of its request. A transport error
(`busy`, `fail`, `cut`, `slow`, `garbled`) is drawn from the request and the number of times it
arrived, so that a retry may succeed. The log has one line for each (paid) answer: the digest of its
request.
"""

import argparse
import asyncio
import collections
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

from kstore_jax.world.schema import load_schema
from kstore_jax.writers.matching import STATES
from kstore_jax.writers.prompts import load_prompts

MODEL = "writer"
TEXTS = ("wrong", "missing", "nameless", "empty", "unfinished", "filtered", "declined")
"""Bad answers; `filtered` ends with content_filter, `declined` is status 400."""
TROUBLES = ("busy", "fail", "cut", "slow", "garbled")  # transport errors
_STATE = re.compile(r", ([A-Z]{2})\b")
_DATE = re.compile(r"([A-Z][a-z]+) (\d+), (\d{4})")
_YEAR = re.compile(r"(\d{4})\b")
_SENTENCE = re.compile(r"(?<=\.) (?=The |In )")


class FakeModel:
    """Computes the answer to a request."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.texts = [(name, getattr(options, name)) for name in TEXTS]
        self.troubles = [(name, getattr(options, name)) for name in TROUBLES]
        self.replies = json.loads(pathlib.Path(options.replies).read_text() or "{}")
        self.schema = load_schema(options.world)
        lines = load_prompts(self.schema, options.strategy).lines
        self.requests = [tuple(line.split("{name}")) for line in lines["request"]]
        self.closings = [line.split("{pronoun}")[0] for line in lines["closing"]]

    def text(self, prompt: str, digest: bytes) -> tuple[str, str]:
        """The answer to a prompt, and its finish_reason."""
        for part, reply in self.replies.items():
            if part in prompt:
                return reply, "stop"
        how = _drawn(self.texts, digest[:4])
        if how == "empty":
            return "", "stop"
        if how == "declined":
            return f"I write nothing for {self.options.key or 'nobody'}.", "declined"
        requests = [r for r in self.requests if r[0] and prompt.startswith(r[0])]
        if not requests:
            return "I do not know.", "stop"
        write = self.of_row if self.options.world else self.biography
        text = write(prompt, requests[0], how, digest)
        return text, {"unfinished": "length", "filtered": "content_filter"}.get(how, "stop")

    def of_row(self, prompt: str, request: tuple[str, ...], how: str, digest: bytes) -> str:
        """A text about a row of a table: questions with answers, a comparison with others that the
        prompt names, or plain sentences."""
        before, after = request
        the, closing = f" The {self.schema.noun}'s ", max(self.closings, key=prompt.rfind)
        name = prompt[len(before) : prompt.index(after + the)]
        stated, *shared = prompt.removesuffix(closing).strip().split(". Others with the ")
        facts = [fact.rstrip(".").split(" is ", 1) for fact in stated.split(the)[1:]]
        others = dict(each.rstrip(".").split(": ", 1) for each in shared)
        if how == "missing":
            del facts[digest[5] % len(facts)]
        who = "It" if how == "nameless" else name
        sentences = {
            label: f"{who} has the {label} {value}"
            if f"{label} {value}" not in others
            else f"Like {others[f'{label} {value}']}, {who} has the {label} {value}"
            for label, value in facts
        }
        asked = "question" in prompt
        return " ".join(
            f"What is the {label} of {who}? {text}." if asked else f"{text}."
            for label, text in sentences.items()
        )

    def biography(self, prompt: str, request: tuple[str, ...], how: str, digest: bytes) -> str:
        """A text about a person of the bundled world."""
        before, after = request
        name = " ".join(prompt[len(before) :].rstrip(".").split(" ", 3)[:3]).rstrip(".,")
        start = len(before) + len(name) + len(after)
        end = max(prompt.rfind(closing) for closing in self.closings)
        quoted = re.compile('"(\\w+)"').search(prompt, end)
        assert quoted is not None
        pronoun = quoted[1].capitalize()
        if how == "nameless":
            name = pronoun
        stated = prompt[start:end].strip()
        if how == "missing":
            sentences = _SENTENCE.split(stated)
            del sentences[digest[5] % len(sentences)]
            stated = " ".join(sentences)
        elif how == "wrong":
            stated = _YEAR.sub(lambda m: str(int(m[1]) + 1), stated)
        if digest[6] % 2:
            stated = _STATE.sub(lambda m: f", {STATES[m[1].lower()]}", stated)
        if digest[7] % 2:
            stated = _DATE.sub(r"\2 \1 \3", stated)
        text = stated.replace("The person", name, 1).replace("The person", pronoun)
        text = text.replace(f"{pronoun}'s", {"She": "Her", "He": "His"}.get(pronoun, "Their"))
        return text if name in text else f"{name} lived. {text}"


def _drawn(shares: list[tuple[str, float]], digest: bytes) -> str:
    """One of the names, each with its share as the probability; empty with the rest."""
    uniform = int.from_bytes(digest, "little") / 2 ** (8 * len(digest))
    for name, share in shares:
        if uniform < share:
            return name
        uniform -= share
    return ""


class Connection(asyncio.Protocol):
    """One connection of a client, which sends one request after the other."""

    def __init__(self, model: FakeModel, log: int | None):
        self.model, self.log = model, log
        self.options = model.options
        self.received = b""

    def connection_made(self, transport):
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data):
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].decode("latin-1")
            length = re.search(r"(?i)content-length: (\d+)", head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < size:
                return
            body, self.received = self.received[end + 4 : size], self.received[size:]
            self.answer(head, body)

    def answer(self, head: str, body: bytes) -> None:
        key = self.options.key
        if key and f"Bearer {key}\r\n" not in f"{head}\r\n":
            sent = re.search(r"Bearer (\S+)", head)
            return self.error(401, f"Incorrect API key provided: {sent and sent[1]}")
        path = head.split(" ", 2)[1]
        if path == "/v1/models":
            return self.send(200, {"data": [{"id": MODEL}]})
        if path != "/v1/chat/completions":
            return self.error(404, f"no {path} here")
        request = json.loads(body)
        if request["model"] != MODEL:
            return self.error(404, f"The model `{request['model']}` does not exist.")
        digest = hashlib.blake2b(body, digest_size=16).digest()
        times = COUNTS[digest]
        COUNTS[digest] += 1
        drawn = hashlib.blake2b(digest + bytes([times]), digest_size=4).digest()
        trouble = _drawn(self.model.troubles, drawn)
        if trouble == "busy":
            wait = f"Retry-After: {self.options.retry_after}\r\n"
            return self.error(429, "too many requests", wait)
        if trouble == "fail":
            return self.error(500, "out of order")
        if trouble == "cut":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            return self.transport.close()
        if trouble == "garbled":
            return self.send(200, {"choices": []})
        prompt = request["messages"][0]["content"]
        text, reason = self.model.text(prompt, digest)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 70, "total_tokens": 170}
        done = {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
        delay = self.options.seconds if trouble == "slow" else self.options.delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self.send_answer, digest, done)
        else:
            self.send_answer(digest, done)

    def send_answer(self, digest: bytes, done: dict) -> None:
        """Logs an answer, which is paid for, and sends it."""
        if self.log is not None:
            os.write(self.log, digest.hex().encode() + b"\n")
        choice = done["choices"][0]
        if choice["finish_reason"] == "declined":
            self.error(400, choice["message"]["content"])
        else:
            self.send(200, done)
        COUNTS[b"paid"] += 1
        if COUNTS[b"paid"] == self.options.die_after:
            os._exit(0)

    def error(self, status: int, message: str, headers: str = "") -> None:
        self.send(status, {"error": {"message": message}}, headers)

    def send(self, status: int, body: dict, headers: str = "") -> None:
        content = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self.transport.write(head.encode() + content)


COUNTS: collections.Counter[bytes] = collections.Counter()


async def serve(options: argparse.Namespace) -> None:
    log = options.log and os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    make = functools.partial(Connection, FakeModel(options), log or None)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", options.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running(**options) -> Iterator[str]:
    """Starts a server in its own process; yields its address."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.writers.chat_server", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*TEXTS, *TROUBLES):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="share of the requests")
    parser.add_argument("--seconds", type=float, default=1.0, help="delay of slow answers")
    parser.add_argument("--delay", type=float, default=0.0, help="delay of the others")
    parser.add_argument("--retry-after", default="0", help="Retry-After of `busy`")
    parser.add_argument("--die-after", type=int, default=0, help="number of answers; 0: never")
    parser.add_argument("--replies", default=os.devnull, help="JSON: part of a prompt: answer")
    parser.add_argument("--world", default="", help="folder of a table's world; empty: bundled")
    parser.add_argument("--strategy", default="", help="that the prompts follow")
    parser.add_argument("--key", default="", help="the key that requests need")
    parser.add_argument("--log", default="", help="file for the digests of answered requests")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
