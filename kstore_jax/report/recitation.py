"""Recitation beside answers: the two scores of `kstore ask`, for our own models and as a table."""

import pathlib
from collections.abc import Sequence

from kstore_jax.charts.drawing import percent, percent_range
from kstore_jax.errors import UserError
from kstore_jax.report.groups import groups
from kstore_jax.report.results import read_results


def run_scores(run: pathlib.Path) -> dict:
    """The two scores of every model of a finished run, in the form of `writers.asking.ask`.

    `recited`: fraction of attribute values that the model completes in the biographies.
    `answered`: fraction of questions about held-out people that it answers (Part 3.1, section 1).

    Raises:
      UserError: the folder has no results, or no row has both scores.
      DamagedFileError: the results are damaged.
    """
    results = read_results(run)
    items = [
        {
            "title": f"{group.label}, seed {row.seed}",
            "recited": row.readouts["recall"]["whole"]["mean"],
            "answered": row.readouts["qa"]["extraction"]["test"]["exact"]["mean"],
        }
        for group in groups(results.rows)
        if group.has("recall", "qa")
        for row in group.rows
    ]
    if not items:
        raise UserError(f"{run}: no row has both readouts, recall and qa")
    return {"model": str(run), "items": items}


def score_table(scores: dict) -> str:
    """The scores side by side: of every text and of all together, then of every kind of pair."""
    parts = [_text_lines(scores)] if scores["items"] else []
    if kinds := scores.get("kinds"):
        parts.append(_kind_lines(scores["model"], kinds))
    lines = "\n\n".join("\n".join(part) for part in parts).splitlines()
    lines += [f"{count} answers {fault}" for fault, count in scores.get("faults", {}).items()]
    return "\n".join(lines)


def _text_lines(scores: dict) -> list[str]:
    rows = [(row["title"], row["recited"], row["answered"]) for row in scores["items"]]
    if "recited" in scores:
        rows.append(("together", scores["recited"], scores["answered"]))
    width = max(len(name) for name in (scores["model"], *(name for name, *_ in rows)))
    lines = [f"{scores['model']:<{width}}  recited  answered"]
    lines += [f"{name:<{width}}  {_percent(a):>7}  {_percent(b):>8}" for name, a, b in rows]
    if "recited_whole" in scores:
        complete = sum(bool(row["recitation"]["whole"]) for row in scores["items"])
        lines.append(f"{complete} of {len(scores['items'])} texts recited to the end")
        ends = {name: (own["low"], own["high"]) for name, own in scores["intervals"].items()}
        if both := [f"{n} {percent_range(*ends[n])}" for n in ("recited", "answered") if n in ends]:
            lines.append(f"intervals together: {', '.join(both)}")
    return lines


def _kind_lines(model: str, kinds: Sequence[dict]) -> list[str]:
    """Both scores of each kind of pair, each with its interval and its number of answers."""
    rows = [[model, "", "first", "", "second", "guess", "second where first is right"]]
    for kind in kinds:
        first, second = kind["questions"]
        rows.append(
            [
                kind["kind"],
                f"{first}:",
                _score(kind["first"]),
                f"{second}:",
                _score(kind["second"]),
                _percent(kind["guess"]),
                _score(kind["second_where_first"]),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _score(score: dict | None) -> str:
    """A share as `3.1 % (2.0 to 4.0 %, n 50)`."""
    if score is None:
        return "–"
    ends = percent_range(score["low"], score["high"])
    return f"{percent(score['share'])} ({ends}, n {score['n']})"


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)
