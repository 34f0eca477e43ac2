"""What every drawing has: legends, labels apart, one decimal, intervals, and files."""

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET
import zlib

import pytest

from kstore_jax.charts import pictures
from kstore_jax.charts.bars import MARKS
from kstore_jax.charts.curves import log_axis
from kstore_jax.charts.drawing import Chart
from kstore_jax.charts.shares import MOST_GROUPS
from kstore_jax.readouts.base import READOUTS
from kstore_jax.report import curves
from kstore_jax.report.groups import groups
from tests.report.runs import CONTRAST, SINGLE, changed, shares
from tests.world.bundled import ATTRIBUTES

CEILING = {kind: dict.fromkeys(ATTRIBUTES, 0.97) for kind in ("first", "whole")}
CHARACTER = 0.53  # of the size of a font: the width of an average character, and a little more


def rows_of(count, seeds=2):
    """Rows of groups with other people and of seeds, with all that a bar chart can show."""
    rows = []
    for group, seed in itertools.product(range(count), range(seeds)):
        row = changed(CONTRAST[group % 2], "q_probe", ceiling=CEILING)
        row = changed(row, "p_probe", ceiling=CEILING)
        test = row.readouts["qa"]["extraction"]["test"]
        test["exact"] = shares(0.3 + 0.01 * seed + 0.02 * group)
        world = {**row.config["world"], "people": 400 + group // 2}
        config = {**row.config, "seed": seed, "world": world}
        rows.append(dataclasses.replace(row, config=config))
    return rows


def charts_of(name, rows, **replaced) -> list[Chart]:
    """The charts of a readout."""
    measured = [group.measured(name, i) for i, group in enumerate(groups(rows))]
    of_readout = [dataclasses.replace(one, **replaced) for one in measured if one]
    return READOUTS[name].charts(of_readout)


def loss(*rates) -> Chart:
    return curves.losses(
        [
            curves.Curve(f"group {i}", i, 0, rate, [*range(1, 400)], [7 / s for s in range(1, 400)])
            for i, rate in enumerate(rates)
        ]
    )


@pytest.fixture(scope="module")
def every() -> list[Chart]:
    return [
        *(c for name in ("qa", "q_probe", "p_probe") for c in charts_of(name, rows_of(2))),
        *charts_of("qa", rows_of(MOST_GROUPS + 2)),
        loss(0.25, 0.25),
    ]


def legend_of(chart: Chart) -> set[str]:
    """The entries of the legend of a drawing."""
    root = ET.fromstring(chart.printed_svg)
    labels = root.iterfind(".//*[@class='mark-text role-legend-label']")
    return {"".join(label.itertext()) for label in labels}


def test_every_mark_has_an_entry_in_the_legend():
    (answers,), (probing,) = (charts_of(name, rows_of(2)) for name in ("qa", "q_probe"))
    both = {"single", "multi5+permute"}
    several = {MARKS[name] for name in ("guess", "range", "seed", "paper")}
    assert legend_of(answers) == both | several
    kinds = {"first token", "whole value", MARKS["ceiling"]}
    assert legend_of(probing) == both | several | kinds
    (alone,) = charts_of("q_probe", [SINGLE])
    ours = {"this run, first token", "this run, whole value"}
    assert legend_of(alone) == ours | {MARKS[name] for name in ("guess", "paper", "interval")}
    assert legend_of(loss(0.1, 0.2)) == {"group 0", "group 1"}
    for chart in (answers, probing, alone):
        drawn = set(re.findall(r"(\w+)_marks", chart.svg)) & set(MARKS)
        assert len(legend_of(chart)) >= len(drawn) > 3


def texts(chart: Chart) -> list[tuple[str, float, float, float, float]]:
    """The words of a drawing and their boxes: left, right, top and bottom in pixels; those that
    stand upright are left out."""
    found = []

    def walk(node, x, y):
        moved = node.get("transform", "")
        if "rotate(-90" in moved:
            return
        for dx, dy in re.findall(r"translate\(([-\d.]+),\s*([-\d.]+)\)", moved):
            x, y = x + float(dx), y + float(dy)
        if node.tag.endswith("}text"):
            size = float(node.get("font-size", "11px").removesuffix("px"))
            spans = [(s.text, i) for i, s in enumerate(node)] or [(node.text, 0)]
            for words, line in spans:
                if not words:
                    continue
                width = CHARACTER * size * len(words)
                left = x - width * {"middle": 0.5, "end": 1}.get(node.get("text-anchor", ""), 0)
                bottom = y + line * (size + 2)
                found.append((words, left, left + width, bottom - 0.75 * size, bottom))
            return
        for child in node:
            walk(child, x, y)

    walk(ET.fromstring(chart.printed_svg), 0.0, 0.0)
    return found


def overlapping(boxes) -> list[tuple[str, str]]:
    return [
        (a[0], b[0])
        for a, b in itertools.combinations(boxes, 2)
        if min(a[2], b[2]) > max(a[1], b[1]) and min(a[4], b[4]) > max(a[3], b[3])
    ]


def test_no_label_lies_on_another(every):
    for chart in every:
        boxes = texts(chart)
        assert len(boxes) > 10
        assert not overlapping(boxes), chart.name
    crowded = dataclasses.replace(every[0], spec={**every[0].spec, "width": 120})
    assert overlapping(texts(crowded))


def test_shares_have_one_decimal(every):
    for chart in every[:-1]:
        labels = re.findall(r'aria-label="([^"]*)"', chart.svg)
        numbers = re.findall(r"[\d.]+(?=\N{NARROW NO-BREAK SPACE}%| to )", " ".join(labels))
        assert numbers
        assert all(re.fullmatch(r"\d+\.\d", number) for number in numbers), chart.name
    cells = [words for words, *_ in texts(every[2]) if words and re.match(r"\d+\.", words)]
    assert cells
    assert all(re.fullmatch(r"\d+\.\d(–\d+\.\d)?", words) for words in cells)


def test_cells_of_several_seeds_show_their_range():
    (maps,) = charts_of("qa", rows_of(MOST_GROUPS + 2))
    assert "30.0–31.0" in maps.svg
    (alone,) = charts_of("qa", rows_of(MOST_GROUPS + 2, seeds=1))
    assert "–31.0" not in alone.svg
    assert "<title" not in alone.svg


def test_one_seed_has_its_interval_over_people():
    interval = {"low": 0.021, "high": 0.048, "people": 200, "cases": 200}
    exact = dict.fromkeys(("mean", *ATTRIBUTES), interval)
    intervals = ({"extraction": {"test": {"exact": exact}}},)
    (chart,) = charts_of("qa", [dataclasses.replace(SINGLE, intervals={})])
    assert MARKS["interval"] not in legend_of(chart)
    group = next(one for g in groups([SINGLE]) if (one := g.measured("qa")))
    (chart,) = READOUTS["qa"].charts([dataclasses.replace(group, intervals=intervals)])
    assert MARKS["interval"] in legend_of(chart)
    assert chart.svg.count("95 % interval 2.1 to 4.8\N{NARROW NO-BREAK SPACE}%") == 2 * 6


def test_exposures_have_an_axis_where_all_lines_gain_as_many():
    for rates in ((0.25, 0.25), (0.25, 0.254)):
        assert "exposures</text>" in loss(*rates).printed_svg
    apart = loss(0.25, 0.5)
    assert "exposures</text>" not in apart.printed_svg
    assert {row[2:4] for row in apart.rows} >= {(399, 99.8), (399, 199.5)}


@pytest.mark.parametrize(
    ("numbers", "ticks"),
    [([7, 0.04], [5, 2, 1, 0.5, 0.2, 0.1, 0.05]), ([5.9, 5.2], [10, 5]), ([1], [2, 1])],
)
def test_a_logarithmic_axis_has_two_ticks_at_least(numbers, ticks):
    axis = log_axis(numbers, "nats")
    assert sorted(axis["axis"]["values"]) == sorted(ticks)
    low, high = axis["scale"]["domain"]
    assert low <= min(*numbers, *ticks)
    assert high >= max(*numbers, *ticks)


def test_files_are_whole_the_same_every_time_and_known_again(every, tmp_path):
    for chart in every:  # several times: a set or a dictionary may have one order by chance
        for _ in range(3):
            assert pictures.pictures(chart.printed_svg) == chart.files, chart.name
    again = every[0].files
    assert [*again] == [*pictures.SUFFIXES]
    ET.fromstring(again[".svg"])
    pdf = again[".pdf"]
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF\s*$", pdf)[0])
    assert pdf[start:].startswith(b"xref")
    offsets = re.findall(rb"(\d{10}) 00000 n", pdf[start:])
    assert all(re.match(rb"\d+ 0 obj", pdf[int(offset) :]) for offset in offsets)
    png, at = again[".png"], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        crc = int.from_bytes(png[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(png[at + 4 : at + 8 + length])
        at += 12 + length
    for suffix, content in again.items():
        path = tmp_path / f"picture{suffix}"
        path.write_bytes(content)
        assert pictures.is_ours(path)
        path.write_bytes(content[:-9] + b" " + content[-9:])
        assert not pictures.is_ours(path)
