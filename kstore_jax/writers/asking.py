"""`kstore ask`: whether a server's model recites a text, and answers questions about it.

For each item of a file the model continues a text from its opening, and answers questions about it
(Part 3.1, section 1, asks both about its own models: `report/recitation.py`).
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from kstore_jax.errors import UserError
from kstore_jax.files import write_json
from kstore_jax.writers import client, journal
from kstore_jax.writers.answers import Answer, with_fault
from kstore_jax.writers.prompts import clean_text
from kstore_jax.writers.words import Words, normalized_words

PASSAGES = pathlib.Path(__file__).parent / "passages" / "passages.jsonl"
SAMPLING = {"temperature": 0.0, "max_tokens": 1024}
RECITE = (
    "Below is how a well-known text begins. Go on with it from memory, word for word, as it was "
    "published. Write only what comes next.\n\n{opening}"
)
ANSWER = (
    "Answer the question in as few words as possible. Write only the answer.\n\nQuestion: "
    "{question}\nAnswer:"
)
_RECORD_FIELDS = {"prompt": str, "answer": str, "fault": str}
_ARTICLES = {"a", "an", "the"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and every answer that counts as right."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """A text, its opening, and questions about it."""

    title: str
    text: str
    opening: str
    questions: tuple[Question, ...]

    @property
    def prompts(self) -> list[str]:
        """The prompt to continue the text, then one for each question."""
        questions = [ANSWER.format(question=q.question) for q in self.questions]
        return [RECITE.format(opening=self.opening), *questions]


def read_items(path: pathlib.Path) -> list[Item]:
    """Reads the items of a JSONL file (`passages/README.md` documents a line).

    Raises:
      UserError: the file cannot be read, or a line is malformed; names the line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may contain other line ends
    except FileNotFoundError:
        raise UserError(f"--items: {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--items: {path}: cannot be read as UTF-8 text ({error})") from None
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"--items: {path}:{number}"
            item = _parse_item(line, where)
            if item.title in items:
                raise UserError(f"{where}: title: {item.title!r} is the title of an earlier item")
            items[item.title] = item
    if not items:
        raise UserError(f"--items: {path}: has no items")
    return list(items.values())


def _parse_item(line: str, where: str) -> Item:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    title, text, opening = (_string(fields, name, where) for name in ("title", "text", "opening"))
    if not text.startswith(opening) or not normalized_words(text[len(opening) :]):
        raise UserError(f"{where}: text: expected to begin with opening and continue after it")
    questions = fields.get("questions")
    if not isinstance(questions, list) or not questions:
        raise UserError(f"{where}: questions: expected a list of at least one")
    return Item(title, text, opening, tuple(_parse_question(each, where) for each in questions))


def _parse_question(fields: Any, where: str) -> Question:
    question = _string(fields, "question", where)
    answers = fields.get("answers")
    if not isinstance(answers, list) or not answers:
        raise UserError(f"{where}: answers: expected a list of at least one")
    for answer in answers:
        if not isinstance(answer, str) or not _without_articles(answer):
            raise UserError(f"{where}: answers: expected strings with words, got {answer!r}")
    return Question(question, tuple(answers))


def _string(fields: Any, name: str, where: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not _is_text(value):
        raise UserError(f"{where}: {name}: expected a string, got {value!r}")
    return value


def _is_text(value: str) -> bool:
    """Whether a string is neither blank nor has half a surrogate pair, which JSON can spell."""
    return bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def recited_words(item: Item, answer: str) -> tuple[int, int]:
    """The number of words after the opening that an answer has before its first wrong one, and
    their number in the text.

    Compares words as `matching.py` does. An answer may repeat the opening first.
    """
    opening = normalized_words(item.opening)
    expected = normalized_words(item.text[len(item.opening) :])
    words = normalized_words(clean_text(answer))
    if words[: len(opening)] == opening:
        words = words[len(opening) :]
    wrong = (i for i, (a, b) in enumerate(zip(expected, words, strict=False)) if a != b)
    return next(wrong, min(len(expected), len(words))), len(expected)


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer has exactly the words of a right one, articles aside."""
    right = {_without_articles(each) for each in question.answers}
    return _without_articles(clean_text(answer)) in right


def _without_articles(text: str) -> Words:
    return tuple(word for word in normalized_words(text) if word not in _ARTICLES)


def ask(
    server: str,
    model: str,
    items_path: pathlib.Path,
    folder: pathlib.Path,
    concurrency: int,
    retry_policy: client.RetryPolicy = client.DEFAULT_RETRY_POLICY,
) -> dict:
    """Asks a model about every item; writes the results to `results.json` and returns them.

    A journal saves the answers, so that no prompt is answered twice.

    Raises:
      UserError: the items cannot be read, another configuration made the folder, or the server
        rejects the requests.
      ServerError: the server stopped answering; its answers are saved.
    """
    items = read_items(items_path)
    content = json.dumps([dataclasses.asdict(item) for item in items])
    config = {
        "model": model,
        "items": hashlib.sha256(content.encode()).hexdigest(),
        "prompts": [RECITE, ANSWER],
        "sampling": SAMPLING,
    }
    chat = client.ChatClient(server, model, SAMPLING, concurrency, retry_policy)
    prompts = dict.fromkeys(prompt for item in items for prompt in item.prompts)
    with journal.open_journal(folder, config) as saved:
        answers = {
            record["prompt"]: with_fault(Answer(record["answer"], record["fault"]))
            for _, record in journal.read_records(saved.path, _RECORD_FIELDS)
        }
        client.run(_request_answers(chat, saved, list(prompts), answers, concurrency))
        results = _results(model, items, answers)
        write_json(folder / "results.json", results)
    return results


async def _request_answers(
    chat: client.ChatClient,
    saved: journal.Journal,
    prompts: list[str],
    answers: dict[str, Answer],
    concurrency: int,
) -> None:
    """Adds the answers to all prompts that have none yet to `saved` and `answers`."""
    todo = [prompt for prompt in prompts if prompt not in answers]
    with tqdm(
        desc="ask", total=len(prompts), initial=len(prompts) - len(todo), unit=" prompts", delay=1
    ) as bar:

        async def request_answer(prompt: str) -> None:
            answer = await chat.complete(prompt, 0)
            saved.append({"prompt": prompt, "answer": answer.text, "fault": answer.fault})
            answers[prompt] = answer
            bar.update()

        async with chat:
            await client.for_each(todo, request_answer, concurrency)


def _results(model: str, items: Sequence[Item], answers: dict[str, Answer]) -> dict:
    """The scores of every item and of all together, with each prompt, answer and its fault.

    An unfinished answer without a word of text has no score (None), neither alone nor in the
    shares.
    """
    rows = [_result(item, answers) for item in items]
    questions = [question for row in rows for question in row["questions"]]
    recited = [row["recitation"] for row in rows]
    scored = [each for each in recited if each["correct"] is not None]
    words = sum(each["words"] for each in scored)
    faults = collections.Counter(each["fault"] for each in (*recited, *questions) if each["fault"])
    return {
        "model": model,
        "recited": sum(each["correct"] for each in scored) / words if words else None,
        "recited_whole": _share([each["whole"] for each in recited]),
        "answered": _share([question["right"] for question in questions]),
        "faults": dict(faults),
        "items": rows,
    }


def _share(scores: Sequence[bool | None]) -> float | None:
    """The share of True among the scores that are not None; None where all are."""
    counted = [score for score in scores if score is not None]
    return sum(counted) / len(counted) if counted else None


def _result(item: Item, answers: dict[str, Answer]) -> dict:
    recite, *question_prompts = item.prompts
    correct, words = recited_words(item, answers[recite].text)
    if not _has_text(answers[recite]):
        correct = None
    questions = [
        {
            "prompt": prompt,
            "answer": answers[prompt].text,
            "fault": answers[prompt].fault,
            "expected": list(question.answers),
            "right": is_right(question, answers[prompt].text)
            if _has_text(answers[prompt])
            else None,
        }
        for prompt, question in zip(question_prompts, item.questions, strict=True)
    ]
    return {
        "title": item.title,
        "recited": None if correct is None else correct / words,
        "answered": _share([question["right"] for question in questions]),
        "recitation": {
            "prompt": recite,
            "answer": answers[recite].text,
            "fault": answers[recite].fault,
            "expected": item.text[len(item.opening) :].strip(),
            "correct": correct,
            "words": words,
            "whole": None if correct is None else correct == words,
        },
        "questions": questions,
    }


def _has_text(answer: Answer) -> bool:
    """Whether an answer can be scored; one that ends in thoughts, or was cut off before its first
    word, says nothing about what the model knows."""
    return answer.fault != "unfinished" or bool(clean_text(answer.text))
