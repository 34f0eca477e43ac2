"""Question answering: exact match on trained and held-out people (Part 3.1, section 2.3)."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.bars import MARKS, bar, bar_spec, listed, of_the_paper
from kstore_jax.charts.drawing import Chart, in_percent, picture_name
from kstore_jax.charts.tables import Body, Line, Table, percent_cell
from kstore_jax.config.fields import number
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.readouts import decode, spans
from kstore_jax.readouts.base import READ_COST, READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured, means
from kstore_jax.readouts.probe_data import FIRST_TOKEN_TASKS, person_labels
from kstore_jax.tasks.extraction import accuracy_by_attribute, majority_baseline
from kstore_jax.world.people import ATTRIBUTES
from kstore_jax.world.questions import TRAINED_WORDING


@dataclasses.dataclass(frozen=True)
class QAConfig(ReadoutConfig):
    """Answers to the questions about everyone."""

    beam_size: int = number(1, 1)
    """Beams. 1: exact match of greedy decoding, by one forward; more: also by beam search (the
    paper: 4)."""


@READOUTS.register
class QA(Readout):
    """Exact match on trained and held-out people."""

    name = "qa"
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
        """Returns what `evaluate_questions` does, for the finetuned model."""
        return evaluate_questions(context, context.finetuned, config.beam_size)

    def numbers(self, result: dict) -> dict[str, float | None]:
        return {**result["test"]["exact"], "trained": result["train"]["exact"]["mean"]}

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        return [
            Table(
                "First tokens of the answers",
                _FIRST_NOTE,
                [Body(group.label, group.wording, _first_lines(group)) for group in groups],
            ),
            Table(
                "Answers by beam search",
                "Exact match in %, about people held out. The paper decodes with a beam of 4.",
                [
                    Body(
                        group.label,
                        group.wording,
                        [
                            Line("greedy", group.means("test", "exact")),
                            Line("beam search", group.means("test", "beam"), "ours"),
                        ],
                    )
                    for group in groups
                    if group.has("test", "beam")
                ],
            ),
            Table(
                "Questions in wordings never trained",
                _REWORDED_NOTE,
                [
                    Body(group.label, group.wording, _reworded_lines(group))
                    for group in groups
                    if group.has("wordings", "test")
                ],
                heads=["from wording to wording"],
            ),
        ]

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        return [_chart(group) for group in groups]

    def work(self, context: Context, texts: Any, config: QAConfig, scale: float) -> float:
        questions = context.questions()
        question, answer = questions.tokens.shape[1], questions.positions.shape[-1]
        wordings = context.table.language.questions.shape[1]
        tokens = wordings * question
        if config.beam_size > 1:
            tokens += question + config.beam_size * answer
        return READ_COST * scale * len(questions) * tokens


def evaluate_questions(context: Context, params: Params, beam_size: int) -> dict:
    """Scores a model's answers to the questions about everyone, in every wording.

    Args:
      beam_size: more than 1: the answers of a beam search are scored, too.

    Returns: shares from 0 to 1, by attribute. `train` and `test` people each have `exact` match,
      `first` tokens and, with a beam search, `beam` in the trained wording; `wordings` has their
      exact match in each other wording; `baseline` is the majority guess, and `baseline_first` that
      of the first token.
    """
    questions = context.questions()
    exact, first = _answer_hits(context, params, questions)
    wordings = range(TRAINED_WORDING + 1, context.table.language.questions.shape[1])
    reworded = [_answer_hits(context, params, context.questions(w))[0] for w in wordings]
    hits = {"exact": exact, "first": first}
    if beam_size > 1:
        generated = generate_answers(context, params, questions, beam_size)
        hits["beam"] = decode.exact_match(generated, questions).reshape(exact.shape)
    groups = {"train": context.qa_train_mask, "test": ~context.qa_train_mask}
    scores: dict = {
        group: {name: accuracy_by_attribute(x[members]) for name, x in hits.items()}
        for group, members in groups.items()
    }
    scores["wordings"] = {
        group: [accuracy_by_attribute(x[members]) for x in reworded]
        for group, members in groups.items()
    }
    baseline = majority_baseline(context.everyone.values, context.qa_train_mask)
    return {**scores, "baseline": baseline, "baseline_first": _first_token_baseline(context)}


def _first_token_baseline(context: Context) -> dict[str, float]:
    """The share of held-out people whose answer begins with the most frequent first token of the
    others, for each attribute, and `mean`, their mean."""
    labels, _ = person_labels(context.table, context.everyone, FIRST_TOKEN_TASKS)
    return majority_baseline(labels, context.qa_train_mask)


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
    context: Context, params: Params, questions: SpanExamples
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer is right, and whether its first token is: (everyone, 6) bool both."""
    exact, first = spans.span_hits(context.shape, params, questions)
    return exact.reshape(-1, len(ATTRIBUTES)), first.reshape(-1, len(ATTRIBUTES))


_FIRST_NOTE = (
    "Accuracy in %. Many values begin with the same token, so the majority guess is higher than "
    "for whole answers. The paper prints means of the trained half (Fig. 2a and 11; here for LoRA "
    "of rank 8, and 128 for the embedding)."
)
_REWORDED_NOTE = (
    "Accuracy in %, exact match about people held out. Finetuning trains one wording; here the "
    "same model answers others. Where it answers fewer, what it learned depends in part on the "
    "words of the question. From wording to wording: the lowest and the highest of their means."
)


def _first_lines(group: Measured) -> list[Line]:
    lines = [
        Line("trained on", group.means("train", "first")),
        Line("held out", group.means("test", "first"), "ours"),
        Line("majority guess", group.means("baseline_first"), "guess"),
    ]
    if (theirs := group.published.get("qa_train_first")) is not None:
        lines.append(Line("the paper, trained on", {"mean": theirs}, "paper"))
    return lines


def _reworded_lines(group: Measured) -> list[Line]:
    wordings = group.means("wordings", "test")
    of_each = [wording["mean"] for wording in wordings]
    spread = f"{percent_cell(min(of_each))} to {percent_cell(max(of_each))}"
    name = f"mean of {len(wordings)} never trained"
    return [
        Line("the trained wording", group.means("test", "exact"), before=["–"]),
        Line(name, means(list(wordings)), "ours", [spread]),
    ]


def _chart(group: Measured) -> Chart:
    """Exact match on people held out by attribute, with the paper's."""
    levels = {"run": group.means("test", "exact"), "guess": group.means("baseline")}
    if theirs := group.published.get("qa"):
        levels["paper"] = theirs
    attributes = [name for name in levels["run"] if name != "mean"]
    seeds = [
        (f"seed {seed}", result["test"]["exact"])
        for seed, result in zip(group.seeds, group.results, strict=True)
        if len(group.seeds) > 1
    ]
    values = [
        *(bar(mark, a, shares.get(a)) for mark, shares in levels.items() for a in attributes),
        *(bar("seed", a, shares[a], whose=name) for name, shares in seeds for a in attributes),
    ]
    lines = [*((MARKS[mark], shares) for mark, shares in levels.items()), *seeds]
    rows = [(name, *(in_percent(s.get(name)) for _, s in lines)) for name in ("mean", *attributes)]
    alt = f"{group.label}: exact match on people held out. This run: {listed(levels['run'])}."
    alt += f" Majority guess: {listed(levels['guess'])}." + of_the_paper(levels.get("paper"))
    spec, legend = bar_spec(values, attributes, 40)
    return Chart(
        name=picture_name("answers", group.which, group.label),
        title=f"{group.label}: answers",
        alt=alt,
        spec=spec,
        columns=("", *(name for name, _ in lines)),
        rows=rows,
        legend=legend,
    )
