"""Recitation beside answers: the two scores of `kstore ask`, for our own models and as a table."""

import pathlib

from kstore_jax.charts.drawing import percent
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
    """Both scores side by side, one item a line, then all together where `scores` has that."""
    rows = [(row["title"], row["recited"], row["answered"]) for row in scores["items"]]
    if "recited" in scores:
        rows.append(("together", scores["recited"], scores["answered"]))
    width = max(len(name) for name in (scores["model"], *(name for name, *_ in rows)))
    lines = [f"{scores['model']:<{width}}  recited  answered"]
    lines += [f"{name:<{width}}  {_percent(a):>7}  {_percent(b):>8}" for name, a, b in rows]
    if "recited_whole" in scores:
        complete = sum(bool(row["recitation"]["whole"]) for row in scores["items"])
        lines.append(f"{complete} of {len(scores['items'])} texts recited to the end")
    lines += [f"{count} answers {fault}" for fault, count in scores.get("faults", {}).items()]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)
