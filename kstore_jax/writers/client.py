"""Asking a server that speaks OpenAI's chat protocol (vLLM, llama.cpp, Ollama, hosted ones).

The client is aiohttp's. The key is read from the environment alone, and blotted out of all that a
server says.
"""

import asyncio
import collections
import contextlib
import dataclasses
import email.utils
import json
import os
import random
import re
import signal
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from kstore_jax.errors import Stopped, UserError, nearest

KEY = "OPENAI_API_KEY"
FAULTS = ("declined", "unfinished")
"""What may be wrong with an answer: the server would not give one to this prompt, or its filter
ended it; it was cut at the limit of length."""
_TRANSIENT = {408, 425, 429}  # and all from 500
_DECLINED = {400, 413, 422}  # where others of the same form are answered
_LONGEST_WAIT = 3600.0  # seconds that a server may ask us to wait


class ServerError(UserError):
    """The server went away or answers no more; going on later is possible (EX_TEMPFAIL)."""

    status = 75


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a request is waited for and how often it is sent again.

    The wait before attempt k is drawn from [d / 2, d], d = `first` 2^k but at most `most` seconds;
    where the server says how long to wait (Retry-After), it is not less than that.
    """

    timeout: float = 300.0
    tries: int = 8
    first: float = 0.5
    most: float = 30.0


PATIENCE = Patience()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model answered, or the server in its place; `fault` is one of FAULTS or empty."""

    text: str
    fault: str = ""


class _Passing(Exception):
    """What went wrong may go right when it is asked again; `wait` is what the server asks for."""

    def __init__(self, kind: str, said: str, wait: float = 0.0):
        super().__init__(said)
        self.kind, self.wait = kind, wait


class Chat:
    """One model of a server, to be used as an asynchronous context.

    Attributes:
      again: how often a request was sent again, by what went wrong: a status, `cut` for a broken
        connection, `slow` for one that took too long, `garbled` for what is no answer.
    """

    def __init__(
        self, server: str, model: str, sampling: dict, concurrency: int, patience: Patience
    ):
        self._key = os.environ.get(KEY, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise UserError(f"{KEY}: is no key; expected one word of ASCII text")
        self._secret = _as_written(self._key)
        for flag, given in (("--server", server), ("--model", model)):
            if self._blotted(given) != given:
                raise UserError(f"{flag}: holds the key, which is read from {KEY} alone")
        self.base = base_url(server)
        self.model = model
        self.again: collections.Counter[str] = collections.Counter()
        self._sampling = sampling
        self._concurrency = concurrency
        self._patience = patience
        self._reached = self._answered = False
        self._under_way = self._declined = 0
        self._decided = asyncio.Event()  # whether the server answers requests like ours

    async def __aenter__(self) -> "Chat":
        aiohttp = _aiohttp()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            timeout=aiohttp.ClientTimeout(total=self._patience.timeout),
            headers={"Content-Type": "application/json", **headers},
        )
        self._broken = aiohttp.ClientError, OSError
        return self

    async def __aexit__(self, *_) -> None:
        await self._session.close()

    async def ask(self, prompt: str, seed: int, declined: bool = False) -> Answer:
        """The model's answer; asked again, with growing pauses, while the server cannot.

        Args:
          declined: the server is known to decline the like of this prompt, so that where it does
            so again nothing is wrong with requests like ours.

        Raises:
          UserError: nobody is there, or the server refuses the request, and all others under way.
          ServerError: it was there and is no more, or fails each time.
        """
        self._under_way += 1
        try:
            return await self._until_answered(prompt, seed, declined)
        finally:
            self._under_way -= 1
            asyncio.get_running_loop().call_soon(self._decide)  # after what is asked for next

    async def _until_answered(self, prompt: str, seed: int, declined: bool) -> Answer:
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "seed": seed, **self._sampling}
        content = json.dumps(body).encode()
        patience = self._patience
        for tried in range(1, patience.tries + 1):
            try:
                return await self._once(content, declined)
            except _Passing as problem:
                if tried == patience.tries:
                    raise ServerError(
                        f"{self.base}: {problem} ({tried} times); what was answered is kept, the "
                        "same command goes on"
                    ) from None
                self.again[problem.kind] += 1
                pause = min(patience.most, patience.first * 2 ** (tried - 1))
                await asyncio.sleep(max(problem.wait, pause * random.uniform(0.5, 1.0)))
        raise AssertionError("unreachable")

    async def _once(self, content: bytes, declined: bool) -> Answer:
        url = f"{self.base}/chat/completions"
        try:
            async with self._session.post(url, data=content, allow_redirects=False) as response:
                self._reached = True
                status, headers = response.status, response.headers
                said = (await response.read()).decode("utf-8", "replace")
        except TimeoutError:
            raise _Passing("slow", f"no answer within {self._patience.timeout:g} s") from None
        except self._broken as error:
            told = self._blotted(str(error) or type(error).__name__)
            if not self._reached:
                raise UserError(f"--server: {self.base}: no server there ({told})") from None
            raise _Passing("cut", f"the connection broke ({told})") from None
        if status == 200:
            answer = _answer(said)
            self._answered = True
            self._decided.set()
            return dataclasses.replace(answer, text=self._blotted(answer.text))
        told = f"status {status}: {self._blotted(_message(said))[:300] or 'no reason given'}"
        if status in _TRANSIENT or status >= 500:
            raise _Passing(str(status), told, _seconds(headers.get("Retry-After", "")))
        if status in _DECLINED and (declined or await self._answers_others()):
            return Answer(told, "declined")
        raise await self._refusal(status, told)

    async def _answers_others(self) -> bool:
        """Whether the server answered any request; waits while one is under way that it may."""
        self._declined += 1
        self._decide()
        await self._decided.wait()
        return self._answered

    def _decide(self) -> None:
        """Ends the waiting where nothing but what was declined is under way."""
        if 0 < self._declined == self._under_way:
            self._decided.set()

    def _blotted(self, text: str) -> str:
        return self._secret.sub(f"[{KEY}]", text) if self._key else text

    async def _refusal(self, status: int, told: str) -> UserError:
        if status in (401, 403):
            return UserError(f"--server: {self.base}: {told}; the key is read from {KEY}")
        if status == 404 and (known := await self._models()):
            near = self._blotted(nearest(self.model, known))
            return UserError(f"--model: {self.base}: {told}{near}")
        return UserError(f"--server: {self.base}: {told}")

    async def _models(self) -> list[str]:
        """The models the server says it has, none where it does not say."""
        try:
            async with self._session.get(f"{self.base}/models", allow_redirects=False) as response:
                return [str(model["id"]) for model in (await response.json())["data"]]
        except (*self._broken, TimeoutError, ValueError, KeyError, TypeError):
            return []


def _aiohttp():
    try:
        import aiohttp  # an extra: most experiments ask no server
    except ImportError:
        raise UserError(
            "asking a server needs the package aiohttp (pip install 'kstore_jax[ask]')"
        ) from None
    return aiohttp


def base_url(server: str) -> str:
    """Where the protocol begins: `http://host:8000` stands for `http://host:8000/v1`.

    Raises:
      UserError: it is no address of a server, or holds a name and password.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise UserError("--server: expected an address such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(f"--server: expected an address alone; a key is read from {KEY}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _as_written(key: str) -> re.Pattern:
    """A key as it is or as in an address; a short one, which is none of value (`x`, `none`), as a
    word alone."""
    forms = "|".join(map(re.escape, {key, urllib.parse.quote(key, safe="")}))
    return re.compile(f"(?:{forms})" if len(key) >= 8 else rf"(?<!\w)(?:{forms})(?!\w)")


def _answer(said: str) -> Answer:
    try:
        choice = json.loads(said)["choices"][0]
        message, ended = choice["message"], choice.get("finish_reason")
        refusal = message.get("refusal")
        text = message["content"] or refusal or ""
        text.encode()  # half a character, which JSON can spell, is no text
        declined = refusal or ended == "content_filter"
        return Answer(text, "declined" if declined else "unfinished" if ended == "length" else "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _Passing("garbled", "no answer of the chat protocol") from None


def _message(said: str) -> str:
    """What an error says of itself, in one line."""
    try:
        found = json.loads(said)
        found = found.get("error", found)
        said = found if isinstance(found, str) else str(found.get("message", found))
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(said.split())


def _seconds(retry_after: str) -> float:
    """The seconds of a Retry-After header, which is a number or a date; 0 where it is neither."""
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT) if wait == wait else 0.0


def run(main: Coroutine) -> None:
    """Runs a coroutine to its end, on uvloop's event loop where there is one (not on Windows).

    It is faster than asyncio's own, whose buffers of 256 KiB for every read leave the memory of a
    long run in pieces, so that it grows.

    Raises:
      Stopped: SIGTERM came, and the coroutine was ended.
    """
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_until_stopped(main))


async def _until_stopped(main: Coroutine) -> None:
    task = asyncio.ensure_future(main)
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        task.cancel()

    with contextlib.suppress(NotImplementedError):  # on Windows, which has no SIGTERM
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        await task
    except asyncio.CancelledError:
        if stopped.is_set():
            raise Stopped from None
        raise


async def spread(items: Iterable, work: Callable[..., Awaitable[None]], concurrency: int) -> None:
    """Runs `work` on every item, at most `concurrency` at a time; an item is drawn only when there
    is a hand free for it. The first error ends all and is raised."""
    source = iter(items)

    async def hand() -> None:
        for item in source:
            await work(item)

    hands = [asyncio.ensure_future(hand()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*hands)
    finally:
        for each in hands:
            each.cancel()
        await asyncio.gather(*hands, return_exceptions=True)
