"""`kstore ask`: whether a server's model recites a text, and uses what it recites.

The model continues a text and answers questions about it (Part 3.1, section 1, scores both for its
own models: `report/recitation.py`); it writes the next and the previous part of a series; it states
a fact, and whether it is even or less than another (Part 3.2, Figs. 5 and 7).
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from kstore_jax.files import write_json
from kstore_jax.intervals import intervals
from kstore_jax.writers import client, journal
from kstore_jax.writers.answers import Answer, with_fault
from kstore_jax.writers.item_files import read_items
from kstore_jax.writers.items import (
    ANSWER,
    RECITE,
    YES_OR_NO,
    Pair,
    Passage,
    Question,
    pairs_of,
    recited_words,
)
from kstore_jax.writers.prompts import clean_text

SAMPLING = {"temperature": 0.0, "max_tokens": 1024}
_RECORD_FIELDS = {"prompt": str, "answer": str, "fault": str}


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
    passages = [item for item in items if isinstance(item, Passage)]
    pairs = pairs_of(items)
    asked = [prompt for passage in passages for prompt in passage.prompts]
    asked += [question.prompt for pair in pairs for question in pair.questions]
    prompts = list(dict.fromkeys(asked))
    with journal.open_journal(folder, config) as saved:
        answers = {
            record["prompt"]: with_fault(Answer(record["answer"], record["fault"]))
            for _, record in journal.read_records(saved.path, _RECORD_FIELDS)
        }
        client.run(_request_answers(chat, saved, prompts, answers, concurrency))
        results = {
            "model": model,
            **_recitations(passages, answers),
            **_pairs(pairs, answers),
            "faults": _faults(answers[prompt] for prompt in prompts),
        }
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


def _faults(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers have each fault."""
    return dict(collections.Counter(answer.fault for answer in answers if answer.fault))


def _recitations(passages: Sequence[Passage], answers: Mapping[str, Answer]) -> dict:
    """The scores of every passage and of all together, with each prompt, answer and its fault.

    An unfinished answer without a word of text has no score (None), neither alone nor in the
    shares. Intervals draw passages, with all their words and questions.
    """
    rows = [_recitation(passage, answers) for passage in passages]
    words, texts, questions = [], [], []
    for row in rows:
        recitation, title = row["recitation"], row["title"]
        texts.append((title, [recitation["whole"]]))
        if (correct := recitation["correct"]) is not None:
            words += [(title, [i < correct]) for i in range(recitation["words"])]
        questions += [(title, [question["right"]]) for question in row["questions"]]
    cases = {"recited": words, "recited_whole": texts, "answered": questions}
    scores = {name: _scores(own)[0] if own else None for name, own in cases.items()}
    return {
        **{name: score and score["share"] for name, score in scores.items()},
        "intervals": {
            name: {end: score[end] for end in ("low", "high")}
            for name, score in scores.items()
            if score
        },
        "items": rows,
    }


def _scores(cases: Sequence[tuple[str, Sequence[bool | None]]]) -> list[dict | None]:
    """The share of True in each column, its interval, and how many answers it is of.

    Args:
      cases: who or what each case is about, which intervals draw, and whether it is right, by
        column; None does not count.

    Returns: for each column `share`, `low`, `high` and `n`; None where nothing counts.
    """
    about, hits = zip(*cases, strict=True)
    scored = np.array([[hit is not None for hit in row] for row in hits])
    right = np.array([[hit is True for hit in row] for row in hits])
    of_columns, _ = intervals(np.array(about), right, scored)
    return [
        own
        and {
            "share": float(column[counted].mean()),
            "low": own["low"],
            "high": own["high"],
            "n": own["cases"],
        }
        for own, column, counted in zip(of_columns, right.T, scored.T, strict=True)
    ]


def _recitation(passage: Passage, answers: Mapping[str, Answer]) -> dict:
    prompt, *_ = passage.prompts
    correct, words = recited_words(passage, answers[prompt].text)
    if not _has_text(answers[prompt]):
        correct = None
    questions = [_answer(question, answers) for question in passage.questions]
    (answered,) = _scores([(passage.title, [question["right"]]) for question in questions])
    return {
        "title": passage.title,
        "recited": None if correct is None else correct / words,
        "answered": answered and answered["share"],
        "recitation": {
            "prompt": prompt,
            "answer": answers[prompt].text,
            "fault": answers[prompt].fault,
            "expected": passage.text[len(passage.opening) :].strip(),
            "correct": correct,
            "words": words,
            "whole": None if correct is None else correct == words,
        },
        "questions": questions,
    }


def _answer(question: Question, answers: Mapping[str, Answer]) -> dict:
    """An answer and whether it is right; None where it cannot be scored."""
    answer = answers[question.prompt]
    return {
        "prompt": question.prompt,
        "answer": answer.text,
        "fault": answer.fault,
        "expected": list(question.answers),
        "right": question.is_right(answer.text) if _has_text(answer) else None,
    }


def _has_text(answer: Answer) -> bool:
    """Whether an answer can be scored; one that ends in thoughts, or was cut off before its first
    word, says nothing about what the model knows."""
    return answer.fault != "unfinished" or bool(clean_text(answer.text))


def _pairs(pairs: Sequence[Pair], answers: Mapping[str, Answer]) -> dict:
    """Every pair with its prompts and answers, and both scores of each kind of pair.

    A kind has the shares of right answers to the `first` and to the `second` question,
    `second_where_first`, the second among those whose first is right, and `guess`, the share that
    the most frequent right answer has, where the second question is answered by yes or no.
    """
    rows, of_kinds = [], {}
    for pair in pairs:
        first = [_answer(question, answers) for question in pair.first]
        row = {
            "kind": pair.kind,
            "questions": list(pair.names),
            "about": pair.about,
            "first": first,
            "second": _answer(pair.second, answers),
        }
        rows.append(row)
        of_kinds.setdefault((pair.kind, pair.names), []).append(row)
    kinds = [
        {"kind": kind, "questions": list(names), **_kind_scores(own)}
        for (kind, names), own in of_kinds.items()
    ]
    return {"kinds": kinds, "pairs": rows}


def _kind_scores(rows: Sequence[dict]) -> dict:
    cases, right_answers = [], []
    for row in rows:
        first, second = _all(each["right"] for each in row["first"]), row["second"]["right"]
        cases.append((row["about"], [first, second, second if first else None]))
        if second is not None:
            right_answers += row["second"]["expected"]
    first, second, where_first = _scores(cases)
    guess = None
    if right_answers and {*right_answers} <= {*YES_OR_NO}:
        guess = max(map(right_answers.count, YES_OR_NO)) / len(right_answers)
    return {"first": first, "second": second, "second_where_first": where_first, "guess": guess}


def _all(scores: Iterable[bool | None]) -> bool | None:
    """Whether all are true; None where no score is false and one is missing."""
    scores = list(scores)
    if False in scores:
        return False
    return None if None in scores else True
