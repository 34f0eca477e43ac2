"""Responses of OpenAI's chat protocol, as servers of many kinds send them."""

import dataclasses
import json
import re
from typing import Any

from kstore_jax.writers.thoughts import without_thoughts

_FINISHED = {"", "stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete", "completed"}
_DECLINED = {
    *("content_filter", "refusal", "safety", "sensitive", "recitation", "blocklist", "spii"),
    "prohibited_content",
}
_BROKEN = {  # by the server; another attempt may end well
    *("error", "abort", "aborted", "cancelled", "timeout", "network_error", "engine_overloaded"),
    "insufficient_system_resource",
}
_MAY_PASS = re.compile(  # errors without a status
    r"rate.?limit|overload|unavailable|server.?error|internal.?error|time.?out|try again|retry|"
    r"too many|busy|loading",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"unsupported|not.support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|"
    r"extra (?:inputs|fields)|deprecated|use 'max_completion_tokens'",
    re.IGNORECASE,
)
_NEWER_NAMES = {"max_tokens": "max_completion_tokens"}
_ERROR_FIELDS = {"detail", "message", "errors"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's answer, or the server's reason for giving none."""

    text: str
    fault: str = ""
    """`declined`: the server rejected the prompt, or its filter ended the answer; `unfinished`: the
    answer reached the length limit, or ends in thoughts; empty: neither."""


class TransientError(Exception):
    """An attempt failed and a retry may succeed.

    Attributes:
      kind: the status, `connection`, `timeout`, `malformed` or `broken`.
      retry_after: seconds that the server requests before the next attempt.
    """

    def __init__(self, kind: str, message: str, retry_after: float = 0.0):
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


class ErrorInBody(Exception):
    """A response of status 200 holds an error instead of an answer.

    Attributes:
      status: the status it names; 503 where its words say that it may pass; else 200.
    """

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def parse_answer(body: str) -> Answer:
    """Returns the answer in the body of a response of status 200.

    Raises:
      ErrorInBody: it holds an error.
      TransientError: it does not follow the protocol, or the server broke the answer off.
    """
    try:
        response: Any = json.loads(body)
        unanswered = response.get("choices") is None
        if response.get("error") or (unanswered and response.keys() & _ERROR_FIELDS):
            raise ErrorInBody(_status(response))
        choice: Any = response["choices"][0]
        if choice.get("error"):
            raise ErrorInBody(_status(choice))
        reason = str(choice.get("finish_reason") or "").lower()
        message = choice["message"]
        refusal = message.get("refusal")
        thought = message.get("reasoning_content") or message.get("reasoning")
        text = _text(message.get("content") if thought else message["content"]) or refusal or ""
        text.encode()  # JSON can spell half a surrogate pair, which is not text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TransientError("malformed", "not a response of the chat protocol") from None
    if refusal or reason in _DECLINED:
        return Answer(text, "declined")
    if reason in _BROKEN:
        raise TransientError("broken", f"an answer broke off (finish_reason {reason})")
    unfinished = reason not in _FINISHED or (thought and not text)
    return with_fault(Answer(text, "unfinished" if unfinished else ""))


def with_fault(answer: Answer) -> Answer:
    """Returns an answer with the fault `unfinished` where it ends in thoughts."""
    if answer.fault or without_thoughts(answer.text)[1]:
        return answer
    return dataclasses.replace(answer, fault="unfinished")


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts, some of them thoughts."""
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, dict):
        return content["text"] if content.get("type") in ("text", "output_text") else ""
    return content or ""


def _status(response: dict) -> int:
    error = response.get("error", response)
    code = error.get("code") if isinstance(error, dict) else None
    if re.fullmatch("[45]..", str(code)):
        return int(str(code))
    return 503 if _MAY_PASS.search(json.dumps(error)) else 200


def error_message(body: str) -> str:
    """The message in the body of an error, on one line."""
    message = body
    try:
        whole: Any = json.loads(body)
        error: Any = next((whole[name] for name in ("error", "detail") if whole.get(name)), whole)
        if isinstance(error, str):
            message = error
        else:
            message = str(error.get("message", error))
            message += f": {error['metadata']['raw']}"  # OpenRouter: of the server behind it
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        pass
    return " ".join(message.split())


def unsupported_parameters(body: str, sent: dict) -> dict[str, str]:
    """The parameters of a request that an error says the server does not know, each with its newer
    name; empty: there is none."""
    where: Any = body
    try:
        error = json.loads(body)
        error = error.get("error", error)
        where = error.get("param") or [detail["loc"] for detail in error["detail"]]
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        pass
    if not _UNSUPPORTED.search(body):
        return {}
    names = [name for name in sent if re.search(rf"\b{name}\b", str(where))]
    return {name: _NEWER_NAMES.get(name, "") for name in names}
