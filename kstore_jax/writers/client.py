"""Client of a server that speaks OpenAI's chat protocol (vLLM, llama.cpp, Ollama, hosted ones).

It uses aiohttp. The API key is read from the environment only, and redacted from every server
message and answer.
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
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TypeVar

from kstore_jax.errors import Stopped, UserError, nearest
from kstore_jax.writers.answers import (
    Answer,
    ErrorInBody,
    TransientError,
    error_message,
    parse_answer,
    unsupported_parameters,
)

API_KEY_VARIABLE = "OPENAI_API_KEY"
_TRANSIENT_STATUSES = {408, 425, 429}  # and all from 500
_PROMPT_STATUSES = {400, 413, 422}  # reject one prompt, where the server answers others
_MAX_RETRY_AFTER = 3600.0  # seconds
_T = TypeVar("_T")


class ServerError(UserError):
    """The server stopped answering; the same command resumes later (EX_TEMPFAIL)."""

    status = 75


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """Timeout and retries of a request.

    The delay after failed attempt k = 0, 1, … is uniform in [d / 2, d] seconds with
    d = min(initial_delay 2^k, max_delay), and at least the server's Retry-After.
    """

    timeout: float = 300.0
    """Seconds before an attempt is abandoned."""
    max_attempts: int = 8
    initial_delay: float = 0.5
    max_delay: float = 30.0


DEFAULT_RETRY_POLICY = RetryPolicy()


class ChatClient:
    """One model of a server; an asynchronous context manager.

    Attributes:
      retries: number of retries by their cause: a status, `connection` (lost), `timeout`, or
        `malformed` (the response does not follow the protocol), `broken` (an answer broke off).

    Raises:
      UserError: the address or the key is malformed, or a flag contains the key.
    """

    def __init__(
        self, server: str, model: str, sampling: dict, concurrency: int, retry_policy: RetryPolicy
    ):
        self._key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise UserError(f"{API_KEY_VARIABLE}: not a key; expected one word of ASCII characters")
        self._key_pattern = _key_pattern(self._key)
        for flag, value in (("--server", server), ("--model", model)):
            if self._redacted(value) != value:
                raise UserError(f"{flag}: contains the key; set it in {API_KEY_VARIABLE} only")
        self.base = base_url(server)
        self.model = model
        self.retries: collections.Counter[str] = collections.Counter()
        self._sampling = sampling
        self._unsupported: dict[str, str] = {}  # parameter -> its newer name, or empty
        self._proxy = _proxy(self.base)
        self._concurrency = concurrency
        self._retry_policy = retry_policy
        self._connected = False  # a response has arrived
        self._answered = False  # an answer has arrived
        self._in_flight = self._awaiting_verdict = 0
        self._verdict = asyncio.Event()  # set once it is clear whether the server answers at all

    async def __aenter__(self) -> "ChatClient":
        aiohttp = _import_aiohttp()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            timeout=aiohttp.ClientTimeout(total=self._retry_policy.timeout),
            headers={"Content-Type": "application/json", **headers},
        )
        self._connection_errors = aiohttp.ClientError, OSError
        return self

    async def __aexit__(self, *_) -> None:
        await self._session.close()

    async def complete(self, prompt: str, seed: int, declined_before: bool = False) -> Answer:
        """Returns the model's answer; retries with growing delays while the server fails.

        Args:
          declined_before: the server declined this prompt before. Declining it again does not
            suggest that the server rejects every request.

        Raises:
          UserError: there is no server, or it rejects this request and every other in flight.
          ServerError: the server answered before and is gone, or every attempt failed.
        """
        self._in_flight += 1
        try:
            return await self._complete_with_retries(prompt, seed, declined_before)
        finally:
            self._in_flight -= 1
            # Runs after the worker has started its next request.
            asyncio.get_running_loop().call_soon(self._check_verdict)

    async def _complete_with_retries(self, prompt: str, seed: int, declined_before: bool) -> Answer:
        policy = self._retry_policy
        for attempt in range(1, policy.max_attempts + 1):
            try:
                return await self._attempt(prompt, seed, declined_before)
            except TransientError as error:
                if attempt == policy.max_attempts:
                    raise ServerError(
                        f"{self.base}: {error} ({attempt} attempts); answers so far are saved, "
                        "the same command resumes"
                    ) from None
                self.retries[error.kind] += 1
                delay = min(policy.max_delay, policy.initial_delay * 2 ** (attempt - 1))
                await asyncio.sleep(max(error.retry_after, delay * random.uniform(0.5, 1.0)))
        raise AssertionError("unreachable")

    async def _attempt(self, prompt: str, seed: int, declined_before: bool) -> Answer:
        parameters = self._parameters({"seed": seed, **self._sampling})
        message = {"role": "user", "content": prompt}
        request = {"model": self.model, "messages": [message], **parameters}
        status, headers, body = await self._post(json.dumps(request).encode())
        if status == 200:
            try:
                answer = parse_answer(body)
            except ErrorInBody as error:
                status = error.status
            else:
                self._answered = True
                self._verdict.set()
                return dataclasses.replace(answer, text=self._redacted(answer.text))
        rejected = status == 200 or status in _PROMPT_STATUSES
        if rejected and self._adapts(unsupported_parameters(body, parameters)):
            return await self._attempt(prompt, seed, declined_before)
        message = self._redacted(error_message(body))[:300] or "no reason given"
        message = f"status {status}: {message}"
        if status in _TRANSIENT_STATUSES or status >= 500:
            retry_after = _retry_after_seconds(headers.get("Retry-After", ""))
            raise TransientError(str(status), message, retry_after)
        if status in _PROMPT_STATUSES and (declined_before or await self._answers_others()):
            return Answer(message, "declined")
        if status == 200 and await self._answers_others():
            raise TransientError("200", message)
        raise await self._request_error(status, message)

    async def _post(self, content: bytes) -> tuple[int, Mapping[str, str], str]:
        """The status, the headers and the body of the response to a request."""
        url = f"{self.base}/chat/completions"
        try:
            async with self._session.post(
                url, data=content, allow_redirects=False, proxy=self._proxy
            ) as response:
                self._connected = True
                body = (await response.read()).decode("utf-8", "replace")
                return response.status, response.headers, body
        except TimeoutError:
            timeout = self._retry_policy.timeout
            raise TransientError("timeout", f"no response within {timeout:g} s") from None
        except self._connection_errors as error:
            reason = self._redacted(_without_login(str(error) or type(error).__name__))
            if not self._connected:
                raise UserError(f"--server: {self.base}: no server there ({reason})") from None
            raise TransientError("connection", f"connection lost ({reason})") from None

    def _parameters(self, parameters: dict) -> dict:
        """Parameters under the names that the server knows, without those it has no name for."""
        names = {name: name for name in parameters}
        for name in names:
            while names[name] in self._unsupported:
                names[name] = self._unsupported[names[name]]
        return {names[name]: value for name, value in parameters.items() if names[name]}

    def _adapts(self, unsupported: dict[str, str]) -> bool:
        """Whether a request was rejected for these parameters, which later ones leave out."""
        for name, newer in unsupported.items():
            if name not in self._unsupported:
                self._unsupported[name] = newer
                instead = f"sends {newer} instead" if newer else "leaves it to the server"
                print(f"note: {self.base} rejects {name}; kstore {instead}", file=sys.stderr)
        return bool(unsupported)

    async def _answers_others(self) -> bool:
        """Whether the server answered any request; waits while one is in flight that it may."""
        self._awaiting_verdict += 1
        self._check_verdict()
        await self._verdict.wait()
        return self._answered

    def _check_verdict(self) -> None:
        """Ends the waiting where every request in flight was declined."""
        if 0 < self._awaiting_verdict == self._in_flight:
            self._verdict.set()

    def _redacted(self, text: str) -> str:
        return self._key_pattern.sub(f"[{API_KEY_VARIABLE}]", text) if self._key else text

    async def _request_error(self, status: int, message: str) -> UserError:
        if status in (401, 403):
            key = f"the key is read from {API_KEY_VARIABLE}"
            return UserError(f"--server: {self.base}: {message}; {key}")
        if status == 404 and (models := await self._list_models()):
            suggestion = self._redacted(nearest(self.model, models))
            return UserError(f"--model: {self.base}: {message}{suggestion}")
        return UserError(f"--server: {self.base}: {message}")

    async def _list_models(self) -> list[str]:
        """The server's models; empty where it does not list them."""
        try:
            async with self._session.get(
                f"{self.base}/models", allow_redirects=False, proxy=self._proxy
            ) as response:
                return [str(model["id"]) for model in (await response.json())["data"]]
        except (*self._connection_errors, TimeoutError, ValueError, KeyError, TypeError):
            return []


def _import_aiohttp():
    try:
        import aiohttp  # an extra: most experiments need no server
    except ImportError:
        raise UserError(
            "kstore ask and kstore rewrite need the package aiohttp (pip install 'kstore_jax[ask]')"
        ) from None
    return aiohttp


def base_url(server: str) -> str:
    """The base URL of the protocol: `http://host:8000` becomes `http://host:8000/v1`.

    Raises:
      UserError: it is not the address of a server, or contains a user name, query or fragment.
    """
    try:
        parts = urllib.parse.urlsplit(server)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        parts = valid = None
    if parts is None or not valid:
        raise UserError("--server: expected an address such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "--server: expected an address without user name, query and fragment; "
            f"the key is read from {API_KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _proxy(base: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY give for an address; none for
    this machine itself.

    Raises:
      UserError: it is no proxy of HTTP.
    """
    parts = urllib.parse.urlsplit(base)
    host = parts.hostname or ""
    if host == "localhost" or re.fullmatch(r"127\.[\d.]+|::1", host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise UserError(
            f"{parts.scheme.upper()}_PROXY: expected an address such as http://host:3128, got "
            f"{_without_login(proxy)}"
        )
    return proxy


def _without_login(text: str) -> str:
    """A text in which addresses have neither user name nor password."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _key_pattern(key: str) -> re.Pattern[str]:
    """Matches a key, plain or percent-encoded. A short key is a placeholder (`x`, `none`) and
    matches as a separate word only."""
    forms = "|".join(map(re.escape, {key, urllib.parse.quote(key, safe="")}))
    return re.compile(f"(?:{forms})" if len(key) >= 8 else rf"(?<!\w)(?:{forms})(?!\w)")


def _retry_after_seconds(header: str) -> float:
    """The seconds of a Retry-After header, which is a number or a date; 0 where it is neither."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else 0.0


def run(main: Coroutine) -> None:
    """Runs a coroutine to its end, on uvloop's event loop where installed (not on Windows).

    uvloop is faster, and asyncio's own loop fragments the memory of a long run: it allocates a
    buffer of 256 KiB for every read.

    Raises:
      Stopped: SIGTERM arrived; the coroutine was cancelled.
    """
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    before = signal.getsignal(signal.SIGTERM)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_cancel_on_sigterm(main))
    finally:
        signal.signal(signal.SIGTERM, before)


async def _cancel_on_sigterm(main: Coroutine) -> None:
    task = asyncio.ensure_future(main)
    stopped = asyncio.Event()

    def stop() -> None:
        if not stopped.is_set():  # a second signal does not cancel the clean-up
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


async def for_each(
    items: Iterable[_T], work: Callable[[_T], Awaitable[None]], concurrency: int
) -> None:
    """Runs `work` on every item, at most `concurrency` at a time.

    Draws an item only when a worker is free. The first error cancels all work and is raised.
    """
    source = iter(items)

    async def run_worker() -> None:
        for item in source:
            await work(item)

    workers = [asyncio.ensure_future(run_worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
