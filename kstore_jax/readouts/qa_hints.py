"""Tables of the answers of a task: with chance, and with and without a hint (Part 3.2)."""

from collections.abc import Callable, Mapping, Sequence

from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.readouts.measured import Measured
from kstore_jax.tasks.base import HINTED


def answer_tables(
    suffix: str, groups: Sequence[Measured], labels: Mapping[str, str]
) -> list[Table]:
    """The tables of a task other than extraction.

    Args:
      suffix: the end of their titles, which names the task.
      groups: the results of the task.
      labels: titles of columns.
    """
    hinted = [group for group in groups if group.has("test", "hint")]
    return [
        Table(f"Answers{suffix}", _NOTE, _bodies(groups, _answers), labels=labels),
        Table(f"With and without a hint{suffix}", _HINT_NOTE, _bodies(hinted, _hints)),
    ]


_NOTE = (
    "Exact match in %. The majority guess always gives the most frequent answer to the trained "
    "questions. Of an answer after a hint the answer alone has to be right."
)
_HINT_NOTE = (
    "Exact match in %, about people held out. A hint is right where all its values are. Predicted: "
    "h + (1 - h) x majority guess, where h is the share of right hints; a model that answers so "
    "computes rightly from right hints and guesses from wrong ones."
)


def _bodies(groups: Sequence[Measured], lines: Callable[[Measured], list[Line]]) -> list[Body]:
    return [Body(group.label, group.wording, lines(group)) for group in groups]


def _answers(group: Measured) -> list[Line]:
    lines = [
        group.line("trained on", "train", "exact"),
        group.line("held out", "test", "exact", kind="ours"),
        Line("majority guess", group.means("baseline"), "guess"),
    ]
    if group.has("held_back", "exact"):
        lines.insert(1, group.line("of the trained half, held back", "held_back", "exact"))
    return lines


def _hints(group: Measured) -> list[Line]:
    """The questions that are asked in both forms, a column each."""
    exact, hint = group.line("", "test", "exact"), group.line("", "test", "hint")
    guess = Line("", group.means("baseline"))
    asked = [name.removesuffix(HINTED) for name in hint.shares if name.endswith(HINTED)]
    law = {name: _law(h, guess.shares.get(name)) for name, h in hint.shares.items()}
    return [
        _columns("without a hint", exact, asked, "", "ours"),
        _columns("with a hint", exact, asked, HINTED, "ours"),
        _columns("hint right", hint, asked, HINTED),
        _columns("predicted with a hint", Line("", law), asked, HINTED),
        _columns("majority guess", guess, asked, HINTED, "guess"),
    ]


def _columns(name: str, line: Line, asked: Sequence[str], suffix: str, kind: str = "") -> Line:
    """A line with the shares of these questions in one of their forms."""
    columns = {question: question + suffix for question in asked}
    shares = {q: line.shares[own] for q, own in columns.items() if own in line.shares}
    ends = {q: line.ends[own] for q, own in columns.items() if own in line.ends}
    return Line(name, shares, kind, ends=ends)


def _law(right: float | None, guess: float | None) -> float | None:
    """The accuracy of a model that computes rightly from right hints, and guesses otherwise."""
    return None if right is None or guess is None else right + (1 - right) * guess
