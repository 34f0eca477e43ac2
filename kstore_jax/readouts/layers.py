"""P-probing and Q-probing after each block: at what depth is a fact readable at the name?"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kstore_jax.charts.drawing import COLOURS, DASHES, PERCENT, WIDTH, Chart, in_percent, percent
from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.config.fields import flag
from kstore_jax.intervals import intervals_by_column
from kstore_jax.readouts.base import READOUTS, Context, write_cases
from kstore_jax.readouts.measured import Measured, labels_of
from kstore_jax.readouts.p_probe import PProbeConfig, biography_readings, length_read
from kstore_jax.readouts.probe_training import ProbeReadout, probe_tasks, probe_work, train_probe
from kstore_jax.readouts.q_probe import name_readings
from kstore_jax.readouts.shares import Measurements, Share, shares_of
from kstore_jax.tasks.base import accuracy_by_column

_PROBES = {"p_probe": ("P-probing", "layer"), "q_probe": ("Q-probing", "batch")}
_KINDS = {"first": "first token", "whole": "whole value"}


@dataclasses.dataclass(frozen=True)
class LayersConfig(PProbeConfig):
    """P- and Q-probing at every layer: two probes after the embedding and after each block."""

    enabled: bool = flag(False, affects_result=False)
    """Whether it is computed."""


@READOUTS.register
class Layers(ProbeReadout):
    """Trains the probes of `p_probe` and of `q_probe` on a network that ends after n blocks."""

    name = "layers"
    version = 2
    Config = LayersConfig
    title = "Probing every layer: at what depth is the fact readable?"
    paragraph = (
        "The probes of P- and Q-probing read the frozen model after the embedding (0) and after "
        "each block. "
        "P-probing reads just before the first attribute of a biography, Q-probing at the end of "
        "the bare name. Where a curve rises, that block recalls the fact from the name. The last "
        "point is the last layer."
    )

    def run(self, context: Context, config: LayersConfig, folder: pathlib.Path) -> dict:
        """Returns the accuracy by probe, kind of task, number of blocks and attribute, with
        `mean`. `cases.npz` has for each probe `p_probe.person` and, for each number of blocks,
        `p_probe.0` (held-out texts, T) bool; and `names`, of the tasks."""
        tasks = probe_tasks(config, context.table.language)
        cases: dict[str, np.ndarray] = {"names": np.array([" ".join(task) for task in tasks])}
        for probe, (examples, people, num_classes) in (
            ("p_probe", biography_readings(context, config)),
            ("q_probe", name_readings(context, config)),
        ):
            read = examples, people, num_classes
            cases[f"{probe}.person"] = people[~context.in_train[people]]
            for blocks in range(context.shape.layers + 1):
                part = folder / f"{probe}-{blocks}"
                below = _below(context, blocks)
                _, of_probe = train_probe(below, probe, part, config, _PROBES[probe][1], *read)
                cases[f"{probe}.{blocks}"] = of_probe["hits"][:, 0]
        write_cases(folder, cases)
        return _by_path(cases, lambda _, hits, names: accuracy_by_column(hits, names))

    def work(self, context: Context, texts: Any, config: LayersConfig, scale: float) -> float:
        people, language = scale * len(context.people), context.table.language
        entries = config.biographies_per_person or context.variant.biographies_per_person
        longest = length_read(context, texts)
        names = name_readings(context, config)[0].tokens.shape[1]
        whole = probe_work(config, language, longest, people * entries / 2)
        whole += probe_work(config, language, names, people)
        return whole * (context.shape.layers + 1) / 2  # half of the blocks on average

    def shares(self, result: dict) -> list[Share]:
        return shares_of(result)

    def measurements(self, cases: Mapping[str, np.ndarray]) -> list[Measurements]:
        found: list[Measurements] = []
        for t, name in enumerate(cases["names"].tolist()):
            attribute, kind = name.split(" ")
            for column, hits in cases.items():
                probe, _, blocks = column.partition(".")
                if blocks.isdigit():
                    item, person = np.arange(len(hits)), cases[f"{probe}.person"]
                    metric = f"{probe}.{kind}.{blocks}"
                    found.append(Measurements(metric, attribute, None, person, item, hits[:, t]))
        return found

    def intervals(self, cases: Mapping[str, np.ndarray]) -> dict:
        return _by_path(cases, intervals_by_column)

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        """A table for each probe and kind of task, with a line for each depth."""
        tables = []
        for probe, (title, _) in _PROBES.items():
            for kind, what in _KINDS.items():
                bodies = [
                    Body(group.label, group.wording, _lines(group, probe, kind))
                    for group in groups
                    if group.has(probe, kind)
                ]
                heading = f"{title} by layer: {what}"
                note = "Accuracy in %, by the number of blocks below the probe."
                tables.append(Table(heading, note, bodies, labels=labels_of(groups)))
        return tables

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        """The mean accuracy of first tokens over depth, a curve a probe and group."""
        return [_chart(groups)] if groups else []


def _lines(group: Measured, probe: str, kind: str) -> list[Line]:
    depths = group.results[0][probe][kind]
    return [group.line(f"after {blocks} blocks", probe, kind, blocks) for blocks in depths]


def _below(context: Context, blocks: int) -> Context:
    """The same experiment with a network that ends after some blocks, and the final norm."""
    shape = dataclasses.replace(context.shape, layers=blocks)
    params = context.pretrained
    return dataclasses.replace(context, shape=shape, load_pretrained=lambda _: params)


def _by_path(cases: Mapping[str, np.ndarray], summary: Any) -> dict:
    """`summary(person, hits, attributes)` by probe, kind of task and number of blocks."""
    tasks, found = [name.split(" ") for name in cases["names"].tolist()], {}
    for column, hits in cases.items():
        probe, _, blocks = column.partition(".")
        if not blocks.isdigit():
            continue
        for kind in _KINDS:
            chosen = [t for t, (_, of_task) in enumerate(tasks) if of_task == kind]
            names = [tasks[t][0] for t in chosen]
            if names:
                depths = found.setdefault(probe, {}).setdefault(kind, {})
                depths[blocks] = summary(cases[f"{probe}.person"], hits[:, chosen], names)
    return found


def _chart(groups: Sequence[Measured]) -> Chart:
    values, rows, colours, dashes = [], [], {}, {}
    for i, group in enumerate(groups):
        for (probe, (title, _)), dash in zip(_PROBES.items(), ("-", "--"), strict=True):
            curve = f"{group.label}, {title}"
            colours[curve], dashes[curve] = COLOURS[i % len(COLOURS)], DASHES[dash]
            for blocks, shares in group.means(probe, "first").items():
                path = (probe, "first", blocks, "mean")
                spread, share = group.spread(*path), shares["mean"]
                low, high = (spread.low, spread.high) if spread else (share, share)
                text = f"{curve} – after {blocks} blocks: {percent(share)}"
                values.append(
                    {
                        "blocks": int(blocks), "curve": curve, "tooltip": text,
                        "y": 100 * share, "low": 100 * low, "high": 100 * high,
                    }
                )  # fmt: skip
                rows.append((group.label, title, int(blocks), *map(in_percent, (share, low, high))))
    return Chart(
        name="layers",
        title="Probing every layer: first tokens at the name",
        alt="First tokens right by depth. " + " ".join(f"{value['tooltip']}." for value in values),
        spec=_spec(values, colours, dashes),
        columns=("dataset", "probe", "blocks", "mean", "low", "high"),
        rows=rows,
        note="Accuracy in %, a mean over the attributes, by the number of blocks below the probe.",
    )


def _spec(values: list[dict], colours: dict[str, str], dashes: dict[str, list]) -> dict:
    """Curves over depth, with intervals and unseen points with tooltips."""
    curve = {"field": "curve", "type": "nominal", "title": None, "legend": {"columns": 1}}
    x = {
        "field": "blocks", "type": "quantitative", "title": "blocks below the probe",
        "axis": {"tickMinStep": 1, "format": "d"},
    }  # fmt: skip
    domain = {"domain": [*colours]}
    colour = {**curve, "scale": {**domain, "range": [*colours.values()]}}
    dash = {**curve, "scale": {**domain, "range": [*dashes.values()]}}
    y = {"field": "y", **PERCENT}
    ends = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    layers = [
        {
            "mark": {"type": "rule", "aria": False}, "name": "intervals",
            "encoding": {"x": x, **ends, "color": colour},
        },
        {
            "mark": {"type": "line", "aria": False}, "name": "curves",
            "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 40}, "name": "depths",
            "encoding": {
                "x": x, "y": y, "color": colour,
                "description": {"field": "tooltip"},
            },
        },
    ]  # fmt: skip
    return {"width": WIDTH, "height": 210, "data": {"values": values}, "layer": layers}
