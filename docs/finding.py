"""Draws `finding.svg`, the picture of README, from the quickstart's table in `results.md`: run
`python docs/finding.py`."""

import pathlib
import re

from kstore_jax.charts.bars import WORD_A_LINE
from kstore_jax.charts.drawing import COLOURS, INK, PAPER, PERCENT, Chart
from kstore_jax.report.paper import printed

FOLDER = pathlib.Path(__file__).parent
COLOUR_OF = {"single": COLOURS[0], "multi5+permute": COLOURS[1]}
ATTRIBUTES = ("birth date", "birth city", "university", "major", "company", "company city")


def table() -> list[dict[str, str]]:
    """The rows of the first table of the quickstart, by the heads of its columns."""
    text = (FOLDER / "results.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\|.*\|$", text.partition("## The quickstart")[2], re.M)
    heads, _, *rows = (line.strip("| ").split(" | ") for line in lines[:8])
    return [dict(zip(heads, row, strict=True)) for row in rows]


def finding(rows: list[dict[str, str]]) -> Chart:
    """Answers about held-out people by attribute: bars are means over the seeds."""
    values = []
    for dataset in COLOUR_OF:
        seeds = [row for row in rows if row["dataset"] == dataset]
        paper = printed(dataset)
        assert paper is not None
        for attribute in ATTRIBUTES:
            shares = [float(row[attribute]) for row in seeds]
            theirs = 100 * paper.qa[attribute.replace(" ", "_")]
            marks = {"mean": [sum(shares) / len(shares)], "seed": shares, "paper": [theirs]}
            values += [
                {"dataset": dataset, "attribute": attribute, "mark": mark, "accuracy": share}
                for mark, each in marks.items()
                for share in each
            ]
    place = {
        "x": {
            "field": "attribute", "type": "nominal", "sort": None, "title": None,
            "axis": {"labelExpr": WORD_A_LINE},
        },
        "xOffset": {"field": "dataset", "sort": None},
        "y": {"field": "accuracy", **PERCENT},
        "color": {
            "field": "dataset", "type": "nominal", "sort": None,
            "scale": {"domain": [*COLOUR_OF], "range": [*COLOUR_OF.values()]},
            "legend": {"symbolType": "square"},
        },
    }  # fmt: skip
    point = {"type": "point", "fill": PAPER, "opacity": 1}
    looks = {
        "mean": {"type": "bar"},
        "seed": {**point, "color": INK, "size": 14, "strokeWidth": 1},
        "paper": {**point, "color": INK, "shape": "diamond", "size": 45, "strokeWidth": 1.2},
    }
    layers = []
    for mark, look in looks.items():
        encoding = {name: x for name, x in place.items() if name != "color" or mark == "mean"}
        filtered = [{"filter": {"field": "mark", "equal": mark}}]
        layers.append({"transform": filtered, "mark": look, "encoding": encoding})
    return Chart(
        name="finding",
        title="Answers about people held out, in %",
        alt="Answers about people held out: few for single, most for multi5+permute.",
        spec={"width": 480, "height": 190, "data": {"values": values}, "layer": layers},
        columns=("dataset", "attribute", "mark", "accuracy"),
        rows=[tuple(value.values()) for value in values],
        legend="Bar: mean of three seeds; circle: a seed; diamond: paper.",
    )


if __name__ == "__main__":
    path = FOLDER / "finding.svg"
    path.write_text(finding(table()).printed_svg, encoding="utf-8")
    print(path)
