"""The charts of the page, and the same charts as figures for print."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from kstore_jax.charts.drawing import Chart, stacked
from kstore_jax.charts.nouns import shared_noun, with_noun
from kstore_jax.charts.pictures import SUFFIXES, picture
from kstore_jax.errors import UserError, nearest, one_line_error
from kstore_jax.files import write_bytes
from kstore_jax.readouts.base import READOUTS, Readout
from kstore_jax.readouts.measured import Measured
from kstore_jax.report import agreement, charts, curves, grids, series, trained_people
from kstore_jax.report.groups import Group, distinct, exposures_a_step, training_of
from kstore_jax.report.groups import groups as group_rows
from kstore_jax.report.results import read_results

_T = TypeVar("_T")


def kinds(run: pathlib.Path, rows: Sequence[str] = ()) -> dict[str, Chart]:
    """The figures of a run by kind, such as `answers` or `p-probing`, in the order of the page. All
    charts of a kind make one figure.

    Args:
      rows: datasets, or names or labels of rows, whole or the beginning of one alone; each with all
        its seeds, side by side in this order. Empty: all rows.

    Raises:
      UserError: the run has no results, or not one such row.
    """
    groups = group_rows(distinct(read_results(run).rows))
    chosen = dict.fromkeys(i for name in rows for i in _numbers(groups, name))
    if rows:
        groups = [groups[i] for i in chosen]
    found: dict[str, list[Chart]] = {}
    for drawn in charts_of(groups).values():
        for chart in drawn:
            found.setdefault(re.sub(r"-\d+$", "", chart.name), []).append(chart)
    return {kind: stacked(kind, drawn) for kind, drawn in found.items()}


def _numbers(groups: Sequence[Group], name: str) -> list[int]:
    """The numbers of the groups of a name."""
    names = [{g.label, g.dataset, *(row.name for row in g.rows)} - {""} for g in groups]
    if exact := [i for i, own in enumerate(names) if name in own]:
        return exact
    begin = [i for i, own in enumerate(names) if any(each.startswith(name) for each in own)]
    if len(begin) != 1:
        several = "several rows begin with" if begin else "no row has the name"
        of = ", ".join(groups[i].label for i in begin or range(len(groups)))
        raise UserError(f"--rows: {several} {name!r}; expected one of {of}")
    return begin


def draw(run: pathlib.Path, kind: str, rows: Sequence[str], out: pathlib.Path) -> None:
    """Writes the figure of a kind for print to `out`, whose suffix says how: .svg, .png or .pdf.

    Args:
      rows: as for `kinds`.

    Raises:
      UserError: there is no such kind or row, or the suffix is another one; nothing is written.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out: expected a file that ends with {_ENDS}, got {out.name!r}")
    figures = kinds(run, rows)
    if kind not in figures:
        has = ", ".join(figures) or "none"
        raise UserError(f"--kind: {kind!r} is none{nearest(kind, figures)}; this run has {has}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, picture(figures[kind].printed_svg, out.suffix))


_ENDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def charts_of(groups: Sequence[Group]) -> dict[str, list[Chart]]:
    """The charts of each section."""
    noun = shared_noun(group.noun for group in groups)
    drawn = {
        "agreement": [charts.scatter(each) for each in agreement.agreements(groups)],
        "stored": _stored(groups),
        "lora": [charts.lora(i, grid) for i, grid in enumerate(grids.of(groups))],
        "series": [
            *(curves.along(i, each) for i, each in enumerate(series.of(groups))),
            *(trained_people.chart(i, each) for i, each in enumerate(trained_people.of(groups))),
        ],
        **{r.name: drawn_by(r, r.charts, measured_by(groups, r)) for r in readouts_in_order()},
        "losses": _losses(groups),
    }
    return {
        name: [dataclasses.replace(one, note=with_noun(one.note, noun)) for one in of_section]
        for name, of_section in drawn.items()
    }


def readouts_in_order() -> list[Readout]:
    """All readouts in the order of the page: of finetuned models first, of training alone last."""
    every = READOUTS.entries().values()
    return sorted(every, key=lambda r: (not r.has_stage, r.reads != "finetuned", r.name))


def drawn_by(
    readout: Readout, draw: Callable[[Sequence[Measured]], list[_T]], groups: Sequence[Measured]
) -> list[_T]:
    """The charts or tables of a readout. A readout may be a plug-in, and its error names it."""
    try:
        return draw(groups)
    except Exception as error:
        cause = one_line_error(error)
        raise UserError(f"readouts.{readout.name}: {cause}", cause.status) from error


def measured_by(groups: Sequence[Group], readout: Readout) -> list[Measured]:
    """The results of a readout in every group that has them."""
    if not readout.has_stage:
        return _dynamics(groups)
    measured = [group.measured(readout.name, i) for i, group in enumerate(groups)]
    return [each for each in measured if each]


def _stored(groups: Sequence[Group]) -> list[Chart]:
    """Bits beside answers, of the groups that have both; no chart of one group alone."""
    both = [group for group in groups if group.has("capacity", "qa")]
    return [charts.stored_and_answered(both)] if len(both) > 1 else []


def _losses(groups: Sequence[Group]) -> list[Chart]:
    """The pretraining losses of all rows; no chart without any."""
    drawn = []
    for which, group in enumerate(groups):
        for row in group.rows:  # a logarithmic axis has no zero
            if lines := [line for line in row.losses if line["loss"] > 0]:
                steps, losses = ([line[name] for line in lines] for name in ("step", "loss"))
                pace = exposures_a_step(lines)
                drawn.append(curves.Curve(group.label, which, row.seed, pace, steps, losses))
    return [curves.losses(drawn)] if drawn else []


def _dynamics(groups: Sequence[Group]) -> list[Measured]:
    """The rows that were measured while they were pretrained."""
    measured = []
    for which, group in enumerate(groups):
        if rows := [row for row in group.rows if row.evaluations]:
            seeds = tuple(row.seed for row in rows)
            results = tuple(map(training_of, rows))
            measured.append(
                Measured(which, group.label, group.wording, seeds, results, noun=group.noun)
            )
    return measured
