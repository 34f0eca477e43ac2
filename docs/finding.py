"""Draws `finding.svg`, the picture of README, from the quickstart's table in `results.md`: run
`python docs/finding.py`."""

import pathlib
import re

from kstore_jax.charts.bars import Level, Levels
from kstore_jax.charts.drawing import COLOURS, Chart
from kstore_jax.charts.shares import shares_chart
from kstore_jax.report.paper import printed

FOLDER = pathlib.Path(__file__).parent
NOTE = "Exact match in %; a bar is the mean of three seeds."
COLOUR_OF = {"single": COLOURS[0], "multi5+permute": COLOURS[1]}
ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "company", "company_city")


def table() -> list[dict[str, str]]:
    """The rows of the first table of the quickstart, by the heads of its columns, without those of
    seed 0, which was in view while the recipe was made."""
    text = (FOLDER / "results.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\|.*\|$", text.partition("## The quickstart")[2], re.M)
    heads, _, *rows = (line.strip("| ").split(" | ") for line in lines[:10])
    named = [dict(zip(heads, row, strict=True)) for row in rows]
    return [row for row in named if row["seed"] != "0"]


def finding(rows: list[dict[str, str]]) -> Chart:
    """Answers about held-out people by attribute: bars are means over the seeds."""
    groups = [Levels(name, colour, levels(name, rows)) for name, colour in COLOUR_OF.items()]
    labels = {name: name.replace("_", " ") for name in ATTRIBUTES}
    return shares_chart("finding", "answers about people held out", groups, labels, NOTE)


def levels(dataset: str, rows: list[dict[str, str]]) -> list[Level]:
    """The mean with the range over the seeds, each seed, and the paper's shares."""
    seeds = [
        {name: float(row[name.replace("_", " ")]) / 100 for name in ATTRIBUTES}
        for row in rows
        if row["dataset"] == dataset
    ]
    each = {name: [seed[name] for seed in seeds] for name in ATTRIBUTES}
    means = {name: sum(shares) / len(shares) for name, shares in each.items()}
    ends = {name: (min(shares), max(shares)) for name, shares in each.items()}
    paper = printed(dataset)
    assert paper is not None
    return [
        Level("run", means, whose="mean of the seeds", ends=ends, interval="range"),
        *(Level("seed", seed, whose=f"seed {number}") for number, seed in enumerate(seeds, 1)),
        Level("paper", paper.qa),
    ]


if __name__ == "__main__":
    path = FOLDER / "finding.svg"
    path.write_text(finding(table()).printed_svg, encoding="utf-8")
    print(path)
