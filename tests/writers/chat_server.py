"""A server of OpenAI's chat protocol, on loopback, that writes biographies from what it is asked
and misbehaves on request.

    python -m tests.writers.chat_server [--wrong=0.1] [--busy=0.05] [--log=FILE] …

It prints its port when it is ready. What it answers is a function of the request alone; what goes
wrong on the way (`busy`, `fail`, `cut`, `slow`, `garbled`) is drawn from the request and from how
often it came, so that asking again helps. The log has a line for each answer given (and paid for):
the digest of its request.
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

from kstore_jax.writers.matching import STATES
from kstore_jax.writers.prompts import load_prompts

MODEL = "writer"
TEXTS = ("wrong", "missing", "nameless", "empty", "unfinished", "filtered", "declined")
"""Bad answers, by share; `filtered` ends with content_filter, `declined` is status 400."""
TROUBLES = ("busy", "fail", "cut", "slow", "garbled")  # what goes wrong on the way, by share
_STATE = re.compile(r", ([A-Z]{2})\b")
_DATE = re.compile(r"([A-Z][a-z]+) (\d+), (\d{4})")
_YEAR = re.compile(r"(\d{4})\b")
_SENTENCE = re.compile(r"(?<=\.) (?=The |In )")


class Writer:
    """What is answered to which request."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.texts = [(name, getattr(options, name)) for name in TEXTS]
        self.troubles = [(name, getattr(options, name)) for name in TROUBLES]
        self.replies = json.loads(pathlib.Path(options.replies).read_text() or "{}")
        lines = load_prompts().lines
        self.requests = [tuple(line.split("{name}")) for line in lines["request"]]
        self.closings = [line.split("{pronoun}")[0] for line in lines["closing"]]

    def text(self, prompt: str, seed: int, digest: bytes) -> tuple[str, str]:
        """The answer to a prompt, and why it ended."""
        for known, reply in self.replies.items():
            if known in prompt:
                return reply, "stop"
        how = _drawn(self.texts, digest[:4])
        if how == "empty":
            return "", "stop"
        if how == "declined":
            return f"I write nothing for {self.options.key or 'nobody'}.", "declined"
        if not (begun := [r for r in self.requests if r[0] and prompt.startswith(r[0])]):
            return "I do not know.", "stop"
        before, after = begun[0]
        name = " ".join(prompt[len(before) :].rstrip(".").split(" ", 3)[:3]).rstrip(".,")
        start = len(before) + len(name) + len(after)
        end = max(prompt.rfind(closing) for closing in self.closings)
        pronoun = re.compile('"(\\w+)"').search(prompt, end)[1].capitalize()
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
        written = stated.replace("The person", name, 1).replace("The person", pronoun)
        written = written.replace(f"{pronoun}'s", {"She": "Her", "He": "His"}.get(pronoun, "Their"))
        if name not in written:
            written = f"{name} lived. {written}"
        return written, {"unfinished": "length", "filtered": "content_filter"}.get(how, "stop")


def _drawn(shares: list[tuple[str, float]], digest: bytes) -> str:
    """One of the names, each with its share, or nothing."""
    place = int.from_bytes(digest, "little") / 2 ** (8 * len(digest))
    for name, share in shares:
        if place < share:
            return name
        place -= share
    return ""


class Connection(asyncio.Protocol):
    """One connection of a client, whose requests come one after the other."""

    def __init__(self, writer: Writer, log: int | None):
        self.writer, self.log = writer, log
        self.options = writer.options
        self.received = b""

    def connection_made(self, transport):
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
            given = re.search(r"Bearer (\S+)", head)
            return self.error(401, f"Incorrect API key provided: {given and given[1]}")
        path = head.split(" ", 2)[1]
        if path == "/v1/models":
            return self.send(200, {"data": [{"id": MODEL}]})
        if path != "/v1/chat/completions":
            return self.error(404, f"no {path} here")
        asked = json.loads(body)
        if asked["model"] != MODEL:
            return self.error(404, f"The model `{asked['model']}` does not exist.")
        digest = hashlib.blake2b(body, digest_size=16).digest()
        times = COUNTS[digest]
        COUNTS[digest] += 1
        drawn = hashlib.blake2b(digest + bytes([times]), digest_size=4).digest()
        trouble = _drawn(self.writer.troubles, drawn)
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
        prompt = asked["messages"][0]["content"]
        text, reason = self.writer.text(prompt, asked["seed"], digest)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 70, "total_tokens": 170}
        done = {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
        delay = self.options.seconds if trouble == "slow" else self.options.delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self.pay, digest, done)
        else:
            self.pay(digest, done)

    def pay(self, digest: bytes, done: dict) -> None:
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
    make = functools.partial(Connection, Writer(options), log or None)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", options.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running(**options) -> Iterator[str]:
    """The address of a server in a process of its own."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.writers.chat_server", *given],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (*TEXTS, *TROUBLES):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="a share of the requests")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long slow answers take")
    parser.add_argument("--delay", type=float, default=0.0, help="how long the others take")
    parser.add_argument("--retry-after", default="0", help="what `busy` says")
    parser.add_argument("--die-after", type=int, default=0, help="answers")
    parser.add_argument("--replies", default=os.devnull, help="JSON: a part of a prompt: answer")
    parser.add_argument("--key", default="", help="the key that has to be given")
    parser.add_argument("--log", default="", help="file of the digests of answered requests")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
