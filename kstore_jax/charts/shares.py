"""The shares of several groups by attribute as one chart."""

from collections.abc import Mapping, Sequence

from kstore_jax.charts.bars import MARKS, Level, Levels, bar_spec
from kstore_jax.charts.drawing import Chart, beside, in_percent, percent
from kstore_jax.charts.heat import cell, heat_spec

MOST_GROUPS = 6
"""Groups that bars are drawn of; more make a heat map."""
_WITH_MAPS = ("run", "whole", "paper")


def shares_chart(
    name: str, title: str, groups: Sequence[Levels], labels: Mapping[str, str], note: str
) -> Chart:
    """Bars by attribute, or for more than `MOST_GROUPS` groups a heat map of groups by attribute.

    Args:
      labels: the attributes by name, in order.
    """
    title = f"{groups[0].label}: {title}" if len(groups) == 1 else title[0].upper() + title[1:]
    few = len(groups) <= MOST_GROUPS
    columns = {"mean": "mean", **labels}
    if not any("mean" in level.shares for group in groups for level in group.levels):
        columns.pop("mean")
    return Chart(
        name=name,
        title=title,
        alt=f"{title}. {' '.join(_in_words(group, labels) for group in groups)}",
        spec=bar_spec(groups, labels) if few else _maps(groups, columns),
        columns=("dataset", "shares", *columns.values()),
        rows=[row for group in groups for row in _rows(group, columns)],
        note=note,
    )


def listed(shares: Mapping[str, float | None], labels: Mapping[str, str]) -> str:
    """Shares by attribute in words."""
    return ", ".join(
        f"{label} {percent(x)}" for name, label in labels.items() if (x := shares.get(name))
        is not None
    )  # fmt: skip


def _in_words(group: Levels, labels: Mapping[str, str]) -> str:
    """A sentence about a group, without its seeds."""
    parts = [
        f"{level.name}: {words}"
        for level in group.levels
        if level.mark != "seed" and (words := listed(level.shares, labels))
    ]
    return f"{group.label} – {'; '.join(parts)}."


def _rows(group: Levels, columns: Mapping[str, str]) -> list[tuple]:
    """The rows of the table of values: shares, and below them the ends of their intervals."""
    rows = []
    for level in group.levels:
        of_ends = [
            (f"{level.name}, {MARKS[level.interval]}, {end}", ends)
            for i, end in enumerate(("from", "to"))
            if (ends := {name: both[i] for name, both in level.ends.items()})
        ]
        for name, shares in ((level.name, level.shares), *of_ends):
            cells = [in_percent(shares.get(column)) for column in columns]
            rows.append((group.label, name, *cells))
    return rows


def _maps(groups: Sequence[Levels], columns: Mapping[str, str]) -> dict:
    """Heat maps of groups by attribute: a row for each kind, ours and beside it the paper's."""
    drawn = [level for group in groups for level in group.levels if level.mark in _WITH_MAPS]
    kinds = dict.fromkeys(level.kind for level in drawn)
    whose = dict.fromkeys(level.who for level in drawn)
    return beside(
        [[(_title(who, kind), _map(groups, columns, kind, who)) for who in whose] for kind in kinds]
    )


def _title(who: str, kind: str) -> str:
    return f"{who}, {kind}" if kind else who


def _map(groups: Sequence[Levels], columns: Mapping[str, str], kind: str, who: str) -> dict | None:
    """The shares of a kind that are ours or the paper's; None without any."""
    drawn = [
        (group.label, level)
        for group in groups
        for level in group.levels
        if level.kind == kind and level.who == who and level.mark in _WITH_MAPS
    ]
    if not drawn:
        return None
    ours = who == MARKS["run"]
    lines = [group.label for group in groups]
    if guess := _guess(groups, kind):
        lines.append(guess.name)
        drawn += [(guess.name, guess)] * ours
    cells = [
        cell(line, label, level.shares.get(name), f"{line}, {who}", level.ends.get(name))
        for line, level in drawn
        for name, label in columns.items()
    ]
    return heat_spec(cells, "", lines, "", [*columns.values()], labelled=ours)


def _guess(groups: Sequence[Levels], kind: str) -> Level | None:
    """The mean of the majority guesses of the groups, with the lowest and the highest."""
    each = [
        level.shares
        for group in groups
        for level in group.levels
        if level.mark == "guess" and level.kind == kind
    ]
    shares, ends = {}, {}
    for name in dict.fromkeys(name for one in each for name in one):
        measured = [x for one in each if (x := one.get(name)) is not None]
        if measured:
            shares[name] = sum(measured) / len(measured)
            if percent(min(measured)) != percent(max(measured)):
                ends[name] = min(measured), max(measured)
    return Level("guess", shares, whose="majority guess, mean", ends=ends) if each else None
