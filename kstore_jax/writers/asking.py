"""`kstore ask`: what a model can recite, and what it can be asked for (Part 3.1, section 1).

Of a model behind a server: for each item of a file, does it go on with the text from its opening,
and does it answer questions about it. Of a model of our own: does it complete the biographies, and
does it answer questions about the people held out. Both are shares, side by side.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

from tqdm import tqdm

from kstore_jax.errors import UserError
from kstore_jax.files import write_json
from kstore_jax.report.groups import groups, read_results
from kstore_jax.report.summary import percent
from kstore_jax.writers import client, journal
from kstore_jax.writers.matching import Form, normalised
from kstore_jax.writers.prompts import tidy

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
_FIELDS = ("prompt", "answer", "fault")
_ARTICLES = {"a", "an", "the"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and every answer that counts as right."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Item:
    """A text, how it begins, and questions about it."""

    title: str
    text: str
    opening: str
    questions: tuple[Question, ...]

    @property
    def prompts(self) -> list[str]:
        """What the model is asked: to go on with the text, then each question."""
        asked = [ANSWER.format(question=q.question) for q in self.questions]
        return [RECITE.format(opening=self.opening), *asked]


def read_items(path: pathlib.Path) -> list[Item]:
    """The items of a JSONL file (`passages/README.md` says what a line holds); UserError names the
    line and what is wrong with it."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other ends
    except FileNotFoundError:
        raise UserError(f"--items: {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--items: {path}: cannot be read as UTF-8 text ({error})") from None
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"--items: {path}:{number}"
            item = _item(line, where)
            if item.title in items:
                raise UserError(f"{where}: another item has the title {item.title!r}")
            items[item.title] = item
    if not items:
        raise UserError(f"--items: {path}: holds no item")
    return list(items.values())


def _item(line: str, where: str) -> Item:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    title, text, opening = (_string(found, name, where) for name in ("title", "text", "opening"))
    if not text.startswith(opening) or not normalised(text[len(opening) :]):
        raise UserError(f"{where}: text: expected to begin with opening and to go on after it")
    questions = found.get("questions")
    if not isinstance(questions, list) or not questions:
        raise UserError(f"{where}: questions: expected a list of at least one")
    return Item(title, text, opening, tuple(_question(each, where) for each in questions))


def _question(found, where: str) -> Question:
    question = _string(found, "question", where)
    answers = found.get("answers")
    if not isinstance(answers, list) or not answers:
        raise UserError(f"{where}: answers: expected a list of at least one")
    for answer in answers:
        if not isinstance(answer, str) or not _plain(answer):
            raise UserError(f"{where}: answers: expected strings with words, got {answer!r}")
    return Question(question, tuple(answers))


def _string(found, name: str, where: str) -> str:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str) or not _is_text(value):
        raise UserError(f"{where}: {name}: expected a string, got {value!r}")
    return value


def _is_text(value: str) -> bool:
    """Whether a string says something; JSON can spell half a character, which does not."""
    return bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def recited(item: Item, answer: str) -> tuple[int, int]:
    """How many words of the text after its opening an answer gives before the first wrong one, and
    how many there are. Words are compared as in `world/matcher.py`; an answer that repeats the
    opening is read from its end."""
    opening, rest = normalised(item.opening), normalised(item.text[len(item.opening) :])
    said = normalised(tidy(answer))
    if said[: len(opening)] == opening:
        said = said[len(opening) :]
    wrong = (i for i, (a, b) in enumerate(zip(rest, said, strict=False)) if a != b)
    return next(wrong, min(len(rest), len(said))), len(rest)


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer is one of the right ones: the same words, articles left out."""
    return _plain(tidy(answer)) in {_plain(right) for right in question.answers}


def _plain(text: str) -> Form:
    return tuple(word for word in normalised(text) if word not in _ARTICLES)


def ask(
    server: str,
    model: str,
    items_path: pathlib.Path,
    folder: pathlib.Path,
    concurrency: int,
    patience: client.Patience = client.PATIENCE,
) -> dict:
    """Asks a model about every item, leaves the results in `results.json` and returns them.

    Answers are kept in a journal: what was asked before is not asked again.

    Raises:
      UserError: the items cannot be read, the folder was made by another configuration, or the
        server refuses.
      ServerError: the server went away. What it answered is kept.
    """
    items = read_items(items_path)
    described = json.dumps([dataclasses.asdict(item) for item in items])
    config = {
        "model": model,
        "items": hashlib.sha256(described.encode()).hexdigest(),
        "prompts": [RECITE, ANSWER],
        "sampling": SAMPLING,
    }
    talk = client.Chat(server, model, SAMPLING, concurrency, patience)
    prompts = dict.fromkeys(prompt for item in items for prompt in item.prompts)
    with journal.opened(folder, config) as kept:
        answers = {
            record["prompt"]: client.Answer(record["answer"], record["fault"])
            for _, record in journal.records(kept.path, _FIELDS)
        }
        client.run(_ask(talk, kept, list(prompts), answers, concurrency))
        results = _results(model, items, answers)
        write_json(folder / "results.json", results)
    return results


async def _ask(
    talk: client.Chat,
    kept: journal.Journal,
    prompts: list[str],
    answers: dict[str, client.Answer],
    concurrency: int,
) -> None:
    left = [prompt for prompt in prompts if prompt not in answers]
    with tqdm(
        desc="ask", total=len(prompts), initial=len(prompts) - len(left), unit=" prompts", delay=1
    ) as bar:

        async def one(prompt: str) -> None:
            answer = await talk.ask(prompt, 0)
            kept.append({"prompt": prompt, "answer": answer.text, "fault": answer.fault})
            answers[prompt] = answer
            bar.update()

        async with talk:
            await client.spread(left, one, concurrency)


def _results(model: str, items: Sequence[Item], answers: dict[str, client.Answer]) -> dict:
    """What was found, item by item and together; every prompt and answer as it was, with what was
    wrong with the answer (some of `chat.FAULTS`)."""
    rows = [_result(item, answers) for item in items]
    words = sum(row["recitation"]["words"] for row in rows)
    questions = [question for row in rows for question in row["questions"]]
    return {
        "model": model,
        "recited": sum(row["recitation"]["correct"] for row in rows) / words,
        "recited_whole": sum(row["recitation"]["whole"] for row in rows) / len(rows),
        "answered": sum(question["right"] for question in questions) / len(questions),
        "items": rows,
    }


def _result(item: Item, answers: dict[str, client.Answer]) -> dict:
    prompt, *asked = item.prompts
    correct, words = recited(item, answers[prompt].text)
    questions = [
        {
            "prompt": each,
            "answer": answers[each].text,
            "fault": answers[each].fault,
            "expected": list(question.answers),
            "right": is_right(question, answers[each].text),
        }
        for each, question in zip(asked, item.questions, strict=True)
    ]
    return {
        "title": item.title,
        "recited": correct / words,
        "answered": sum(question["right"] for question in questions) / len(questions),
        "recitation": {
            "prompt": prompt,
            "answer": answers[prompt].text,
            "fault": answers[prompt].fault,
            "expected": item.text[len(item.opening) :].strip(),
            "correct": correct,
            "words": words,
            "whole": correct == words,
        },
        "questions": questions,
    }


def of_run(run: pathlib.Path) -> dict:
    """The same two figures of the models of a run: of each, the share of attribute values that it
    completes in the biographies, and that it answers about the people held out.

    Raises:
      UserError: there are no results; DamagedFileError: they are not as they were written.
    """
    found = read_results(run)
    items = [
        {
            "title": f"{group.label}, seed {row['seed']}",
            "recited": row["bio_recall"],
            "answered": row["qa"]["mean"],
        }
        for group in groups(found.rows, found.configs)
        for row in group.rows
    ]
    return {"model": str(run), "items": items}


def table(found: dict) -> str:
    """Recitation and extraction side by side, an item a line, and all together where known."""
    rows = [(row["title"], row["recited"], row["answered"]) for row in found["items"]]
    if "recited" in found:
        rows.append(("together", found["recited"], found["answered"]))
    width = max(len(name) for name in (found["model"], *(name for name, *_ in rows)))
    lines = [f"{found['model']:<{width}}  recited  answered"]
    lines += [f"{name:<{width}}  {percent(a):>7}  {percent(b):>8}" for name, a, b in rows]
    if "recited_whole" in found:
        whole = sum(row["recitation"]["whole"] for row in found["items"])
        lines.append(f"{whole} of {len(found['items'])} texts recited to the end")
    return "\n".join(lines)
