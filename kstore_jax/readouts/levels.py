"""The results of a readout as what charts of shares draw."""

from collections.abc import Callable, Sequence
from typing import Any

from kstore_jax.charts.bars import Level, Levels
from kstore_jax.charts.drawing import COLOURS, look
from kstore_jax.readouts.measured import SEEDS, Measured, means, values_at


def our_levels(
    group: Measured, mark: str, path: Sequence[str], kind: str = "", below: Sequence[Any] = ()
) -> list[Level]:
    """Our shares by name: their means over the seeds with intervals, and each seed if several.

    Args:
      path: keys to a dictionary by name.
      below: keys from there to a share.
    """
    names = dict.fromkeys(name for row in group.each(*path) for name in row)
    seeds = [
        {name: values_at((row,), (name, *below))[0] for name in row} for row in group.each(*path)
    ]
    spreads = {name: spread for name in names if (spread := group.spread(*path, name, *below))}
    over_seeds = any(spread.kind == SEEDS for spread in spreads.values())
    ours = Level(
        mark,
        means(seeds),
        kind,
        ends={name: (spread.low, spread.high) for name, spread in spreads.items()},
        interval="range" if over_seeds else "interval",
    )
    each = zip(group.seeds, seeds, strict=True) if len(seeds) > 1 else ()
    return [ours, *(Level("seed", shares, kind, f"seed {seed}") for seed, shares in each)]


def side_by_side(
    groups: Sequence[Measured], levels: Callable[[Measured], Sequence[Level]]
) -> list[Levels]:
    """The levels of each group, in its colour."""
    colours = [look(group.which)[0] for group in groups]
    if len(set(colours)) < len(colours):
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(groups))]
    return [
        Levels(group.label, colour, levels(group))
        for group, colour in zip(groups, colours, strict=True)
    ]
