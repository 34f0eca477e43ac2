"""Question answering: exact match on trained and held-out people (Part 3.1, section 2.3)."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.bars import Level
from kstore_jax.charts.drawing import Chart, as_label
from kstore_jax.charts.shares import shares_chart
from kstore_jax.charts.tables import Body, Line, Table, percent_cell
from kstore_jax.config.fields import names, number
from kstore_jax.corpus.examples import SpanExamples, until_end
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.readouts import decode, spans
from kstore_jax.readouts.base import (
    READ_COST,
    READOUTS,
    Context,
    Readout,
    ReadoutConfig,
    write_cases,
)
from kstore_jax.readouts.levels import our_levels, side_by_side
from kstore_jax.readouts.measured import Measured, about, labels_of, means
from kstore_jax.readouts.qa_cases import by_task, task_intervals, task_measurements
from kstore_jax.readouts.qa_hints import answer_tables
from kstore_jax.readouts.shares import Measurements, Share
from kstore_jax.tasks.base import (
    TASKS,
    Items,
    accuracy_by_group,
    majority_baseline,
    majority_guess,
)


@dataclasses.dataclass(frozen=True)
class QAConfig(ReadoutConfig):
    """Answers to the questions about everyone."""

    tasks: tuple = names("extraction")
    """Tasks whose questions are asked."""
    beam_size: int = number(1, 1, 1000)
    """Beams. 1: exact match of greedy decoding, by one forward; more: also by beam search (the
    paper: 4)."""


@READOUTS.register
class QA(Readout):
    """Exact match on trained and held-out people."""

    name = "qa"
    version = 3
    Config = QAConfig
    reads = "finetuned"
    title = "Answers about people held out"
    paragraph = (
        "Pretraining reads the biography of every person. Finetuning trains the questions about "
        "half of them, or about the celebrities if there are any. The charts show the answers "
        "about the others, by attribute. An answer is right when every token is right."
    )

    def check(self, config: QAConfig, experiment: Any) -> None:
        if config.beam_size > 1 and experiment.model.direction == "bidirectional":
            raise UserError(
                f"beam_size: expected 1 for a bidirectional model, got {config.beam_size}"
            )

    def run(self, context: Context, config: QAConfig, folder: pathlib.Path) -> dict:
        """Returns the scores of each task, as `evaluate_task` does, for the finetuned model."""
        scores, cases = evaluate_tasks(context, context.finetuned, config.tasks, config.beam_size)
        write_cases(folder, cases)
        return scores

    def shares(self, result: dict) -> list[Share]:
        """The position of a share in a wording that is not trained is the wording's number."""
        return [
            share
            if share.position is None
            else dataclasses.replace(share, position=share.position + 1)
            for share in super().shares(result)
        ]

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        return [
            found
            for task, columns in by_task(cases).items()
            for found in task_measurements(task, columns)
        ]

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        return {task: task_intervals(columns) for task, columns in by_task(cases).items()}

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        return [table for task, own in _by_task(groups).items() for table in _tables(task, own)]

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        return [_chart(task, own) for task, own in _by_task(groups).items()]

    def work(self, context: Context, texts: Any, config: QAConfig, scale: float) -> float:
        items, questions = context.questions(config.tasks)
        question, answer = questions.tokens.shape[1], questions.positions.shape[-1]
        language = context.table.language
        tokens = max(TASKS[task].num_wordings(language) for task in config.tasks) * question
        if config.beam_size > 1:
            tokens += question + config.beam_size * answer
        if any(each.hint_lengths.any() for each in items):
            tokens += question + answer
        return READ_COST * scale * len(questions) * tokens


def evaluate_tasks(
    context: Context, params: Params, tasks: Sequence[str], beam_size: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns the scores of each task, as `evaluate_task` does, and the columns of its cases as
    `TASK.COLUMN`."""
    scores, cases = {}, {}
    for task in tasks:
        scores[task], of_task = evaluate_task(context, params, task, beam_size)
        cases |= {f"{task}.{name}": column for name, column in of_task.items()}
    return scores, cases


def evaluate_task(
    context: Context, params: Params, task: str, beam_size: int
) -> tuple[dict, dict[str, np.ndarray]]:
    """Scores a model's answers to the questions of a task about everyone, in every wording.

    Args:
      beam_size: more than 1: the answers of a beam search are scored, too.

    Returns: the scores, and the same by case. Scores are shares from 0 to 1, by group of the task.
      `train`, `test` and, where finetuning leaves some of P_train out, `held_back` people each have
      `exact` match, `first` tokens and, with a beam search, `beam` in the trained wording, and for
      answers that follow a hint `hint`, the share of right hints; `wordings` has their exact match
      in each other wording; `baseline` is the majority guess, and `baseline_first` that of the
      first token. Cases are columns: `person` ids, `group`, `wording`, a column for the people of
      each of the three (`train`, ...), and whether the answer is `exact`, its `first` token right
      and, in the trained wording, the answer by `beam` search; where some answers follow a hint,
      which ones (`hinted`), and whether the `hint` is right; `names` has the groups.
    """
    language = context.table.language
    names = context.group_names(task)
    members = {
        "train": context.qa_train_mask & ~context.held_back_mask,
        "test": ~context.qa_train_mask,
        "held_back": context.held_back_mask,
    }
    members = {half: mask for half, mask in members.items() if half != "held_back" or mask.any()}
    scores: dict = {**{half: {} for half in members}, "wordings": {half: [] for half in members}}
    cases = []
    for wording in range(TASKS[task].num_wordings(language)):
        items = context.items(task, wording)
        examples = context.examples(items)
        halves = {half: items.about(mask) for half, mask in members.items()}
        hits = _answer_hits(context, params, items, examples)
        generated = None
        if beam_size > 1 and not wording:
            generated = generate_answers(context, params, examples, beam_size)
            end = context.vocabulary.end_of_text
            hits["beam"] = right_answers(items.hint_lengths, examples, generated, end)
        _accept(context, params, items, hits, generated)
        cases.append({**_cases(context, items, wording), **halves, **hits})
        if wording:
            for half, chosen in halves.items():
                shares = accuracy_by_group(hits["exact"][chosen], items.groups[chosen], names)
                scores["wordings"][half].append(shares)
            continue
        for half, chosen in halves.items():
            asked = {"hint": chosen & (items.hint_lengths > 0)}
            scores[half] = {
                kind: accuracy_by_group(hit[rows], items.groups[rows], names)
                for kind, hit in hits.items()
                for rows in (asked.get(kind, chosen),)
            }
        first = examples.targets[:, 0, 0]
        scores["baseline"] = majority_guess(items, halves["train"], halves["test"], names)
        scores["baseline_first"] = majority_baseline(
            first, items.groups, halves["train"], halves["test"], names
        )
    columns = {
        name: np.concatenate([part[name] for part in cases if name in part]) for name in cases[0]
    }
    return scores, {**columns, "names": np.array(names)}


def _cases(context: Context, items: Items, wording: int) -> dict[str, np.ndarray]:
    hinted = items.hint_lengths > 0
    return {
        "person": context.everyone.ids[items.people],
        "group": items.groups,
        "wording": np.full(len(items), wording),
        **({"hinted": hinted} if hinted.any() else {}),
    }


def generate_answers(
    context: Context, params: Params, examples: SpanExamples, beam_size: int
) -> np.ndarray:
    """The answers a model gives, (N, K) int32, padded with the end of text.

    A causal model searches with `beam_size` beams; a bidirectional one fills in the masks.
    """
    end = context.vocabulary.end_of_text
    if context.mask_token is not None:
        tokens = spans.predict(context.shape, params, examples)[:, 0]
        return np.where(examples.weights[:, 0] > 0, tokens, end)
    vocab_size = context.vocabulary.size
    return decode.generate(context.shape, params, examples, end, vocab_size, beam_size)


def _answer_hits(
    context: Context, params: Params, items: Items, examples: SpanExamples
) -> dict[str, np.ndarray]:
    """Whether each answer is right (`exact`), whether the first token is (`first`) and, where some
    questions have a hint, whether the whole `hint` is: (N,) bool each."""
    exact, first = (hit[:, 0] for hit in spans.span_hits(context.shape, params, examples))
    if not (hinted := items.hint_lengths > 0).any():
        return {"exact": exact, "first": first}
    lengths, own = items.hint_lengths[hinted], examples.take(hinted)
    generated = generate_answers(context, params, own, beam_size=1)
    exact[hinted] = right_answers(lengths, own, generated, context.vocabulary.end_of_text)
    hint = np.zeros_like(exact)
    beyond = np.arange(generated.shape[1]) >= lengths[:, None]
    hint[hinted] = ((generated == own.targets[:, 0]) | beyond).all(1)
    return {"exact": exact, "first": first, "hint": hint}


def _accept(
    context: Context,
    params: Params,
    items: Items,
    hits: dict[str, np.ndarray],
    generated: np.ndarray | None,
) -> None:
    """Counts other accepted answers as right in `hits`.

    Args:
      generated: (N, K) the answers of a beam search; None: there was none.
    """
    if (accepted := items.accepted) is None:
        return
    examples = context.examples(accepted.items)
    found = _answer_hits(context, params, accepted.items, examples)
    if generated is not None:
        end, texts = context.vocabulary.end_of_text, generated[accepted.of]
        wanted = examples.targets[:, 0], examples.weights[:, 0] > 0
        pairs = zip(texts, *wanted, strict=True)
        same = [np.array_equal(until_end(t, end), until_end(x[w], end)) for t, x, w in pairs]
        found["beam"] = np.array(same)
    for kind, right in found.items():
        hits[kind][accepted.of[right]] = True


def right_answers(
    hint_lengths: np.ndarray, examples: SpanExamples, generated: np.ndarray, end: int
) -> np.ndarray:
    """(N,) bool: whether the generated tokens (N, K) before the end of text are the answer, or end
    with it where it follows a hint.

    Args:
      hint_lengths: (N,) int: tokens of each hint; 0 where there is none.
    """
    hits = decode.exact_match(generated, examples)[:, 0]
    for i in np.flatnonzero(hint_lengths):
        wanted = examples.targets[i, 0][examples.weights[i, 0] > 0][hint_lengths[i] :]
        wanted, text = until_end(wanted, end), until_end(generated[i], end)
        hits[i] = len(text) >= len(wanted) and (text[len(text) - len(wanted) :] == wanted).all()
    return hits


def _by_task(groups: Sequence[Measured]) -> dict[str, list[Measured]]:
    """The groups that have the scores of a task, with those alone as results, by task."""
    tasks = dict.fromkeys(task for group in groups for task in group.results[0])
    return {
        task: [
            dataclasses.replace(
                group.part(task),
                published=group.published if task == "extraction" else {},
            )
            for group in groups
            if group.has(task)
        ]
        for task in tasks
    }


def _tables(task: str, groups: Sequence[Measured]) -> list[Table]:
    suffix = "" if task == "extraction" else f", {as_label(task)}"

    def bodies(lines: Callable[[Measured], list[Line]], *path: str) -> list[Body]:
        return [
            Body(group.label, group.wording, lines(group))
            for group in groups
            if not path or group.has(*path)
        ]

    labels = labels_of(groups)
    return [
        *(answer_tables(suffix, groups, labels) if suffix else ()),
        Table(
            f"First tokens of the answers{suffix}",
            _FIRST_NOTE + _FIRST_PAPER_NOTE * any(map(_published_first, groups)),
            bodies(_first_lines),
            labels=labels,
        ),
        Table(
            f"Answers by beam search{suffix}",
            _BEAM_NOTE,
            bodies(_beam_lines, "test", "beam"),
            labels=labels,
        ),
        Table(
            f"Questions in wordings never trained{suffix}",
            _REWORDED_NOTE,
            bodies(_reworded_lines, "wordings", "test"),
            heads=["from wording to wording"],
            labels=labels,
        ),
    ]


_BEAM_NOTE = "Exact match in %, about people held out."
_FIRST_NOTE = (
    "Accuracy in %. Many values begin with the same token, so the majority guess is higher than "
    "for whole answers."
)
_FIRST_PAPER_NOTE = (
    " The paper prints means of the trained half (Fig. 2 and 11), here of the same finetuning."
)
_REWORDED_NOTE = (
    "Accuracy in %, exact match about people held out. Finetuning trains one wording; here the "
    "same model answers others. Where it answers fewer, what it learned depends in part on the "
    "words of the question. From wording to wording: the lowest and the highest of their means."
)


def _published_first(group: Measured) -> bool:
    return group.published.get("qa_train_first") is not None


def _first_lines(group: Measured) -> list[Line]:
    lines = [
        group.line("trained on", "train", "first"),
        group.line("held out", "test", "first", kind="ours"),
        Line("majority guess", group.means("baseline_first"), "guess"),
    ]
    if _published_first(group):
        theirs = {"mean": group.published["qa_train_first"]}
        lines.append(Line("the paper, trained on", theirs, "paper"))
    return lines


def _beam_lines(group: Measured) -> list[Line]:
    return [
        group.line("greedy", "test", "exact"),
        group.line("beam search", "test", "beam", kind="ours"),
    ]


def _reworded_lines(group: Measured) -> list[Line]:
    wordings = group.means("wordings", "test")
    low, high = (percent_cell(end(each["mean"] for each in wordings)) for end in (min, max))
    single = len(wordings) == 1
    name = "never trained" if single else f"mean of {len(wordings)} never trained"
    return [
        group.line("the trained wording", "test", "exact", before=["–"]),
        Line(name, means(list(wordings)), "ours", ["–" if single else f"{low} to {high}"]),
    ]


def _chart(task: str, groups: Sequence[Measured]) -> Chart:
    """Exact match on people held out by attribute, with the paper's."""

    def levels(group: Measured) -> list[Level]:
        theirs = group.published.get("qa")
        return [
            *our_levels(group, "run", ("test", "exact")),
            Level("guess", group.means("baseline")),
            *([Level("paper", theirs)] if theirs else []),
        ]

    labels = {
        name: group.label_of(name)
        for group in groups
        for name in group.results[0]["test"]["exact"]
        if name != "mean"
    }
    title, plain = about(groups, "answers about people held out"), task == "extraction"
    return shares_chart(
        name="answers" if plain else f"answers-{task}",
        title=title if plain else f"{title}, {as_label(task)}",
        groups=side_by_side(groups, levels),
        labels=labels,
        note="Exact match in %.",
    )
