"""Small finished runs for the tests of the report, and their pages read back."""

import copy
import csv
import dataclasses
import html
import io
import json
import pathlib
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

from kstore_jax.config.fields import identity
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.row import SCHEMA, Row
from kstore_jax.report import page as report
from kstore_jax.report import paper
from kstore_jax.report.groups import Group
from tests.world.bundled import ATTRIBUTES


def shares(value, names=ATTRIBUTES):
    """A share for each name, and their mean."""
    each = {name: value + 0.0013 * i for i, name in enumerate(names)}
    return {"mean": sum(each.values()) / len(each), **each}


def without_date(table):
    """A table without the birth date, which has no probe of whole values."""
    return {name: table[name] for name in ATTRIBUTES[1:]}


def a_row(
    dataset="single", seed=0, qa=0.031, recall=0.998, trained=0.993, probe=0.05, **fields: Any
) -> Row:
    """A row of `results.json`; P-probing has no values after an attribute is stated.

    Args:
      fields: of its configuration, `__` for the dot.
    """
    probed = {a: range(6 if "permute" in dataset else i + 1) for i, a in enumerate(ATTRIBUTES)}
    levels = {"first": dict.fromkeys(ATTRIBUTES, 0.041), "whole": dict.fromkeys(ATTRIBUTES, 0.012)}
    p_first = {a: [probe if p in probed[a] else None for p in range(6)] for a in ATTRIBUTES}
    q_first = {a: [probe] for a in ATTRIBUTES}
    readouts = {
        "recall": {
            "whole": {**shares(recall - 0.01), "mean": recall},
            "first": shares(recall),
        },
        "qa": {
            "extraction": {
                "train": {"exact": {**shares(trained), "mean": trained}, "first": shares(0.9)},
                "test": {"exact": {**shares(qa), "mean": qa}, "first": shares(qa)},
                "wordings": {
                    "train": [],
                    "test": [shares(qa - shift) for shift in (0.0, 0.005, 0.011, 0.02)],
                },
                "baseline": {**shares(0.02), "mean": 0.027},
                "baseline_first": shares(0.041),
            }
        },
        "examples": examples(dataset),
        "p_probe": {"first": p_first, "whole": without_date(p_first), "baseline": levels},
        "q_probe": {"first": q_first, "whole": without_date(q_first), "baseline": levels},
    }
    return Row(
        name="",
        config=a_config(dataset, seed, **fields),
        plugins=[],
        plugin_folders=[],
        attributes={name: name.replace("_", " ") for name in ATTRIBUTES},
        exposures=287.4,
        parameters=1_065_728,
        vocabulary=2031,
        readouts=readouts,
        intervals={n: intervals(r) for n, r in readouts.items() if n != "examples"},
        finetune_grid=[],
        losses=[{"step": s, "exposures": 3.0 * s, "loss": 7 / s} for s in range(1, 30)],
        evaluations=[],
        code=["b5ec04e05fc84dfd3e0d83a1e7a4a6f0b1b2c3d4"],
        seconds=701.2,
        seconds_by_stage={"shards": 2.2, "pretrain": 402.1, "qa": 1.9},
        goodput=0.97,
    )


def examples(dataset: str) -> dict:
    """What a row writes about one person held out: one value and one answer wrong."""
    facts = {name: f"the {name}" for name in ATTRIBUTES}
    read = " ".join(f"Ada Ann Abel has {value}." for value in facts.values())
    wrong = read.replace("the major", "Law")
    stated = []
    for name, value in facts.items():
        start = wrong.index(value) if value in wrong else wrong.index("Law")
        end = start + len(value if value in wrong else "Law")
        right = value in wrong
        stated.append(dict(attribute=name, start=start, end=end, truth=value, right=right))
    answers = [
        {
            **{"task": "extraction", "group": name, "question": f"What is {name}? Answer:"},
            **{"answer": value if "permute" in dataset else "Law", "truth": value},
            "right": "permute" in dataset,
        }
        for name, value in facts.items()
    ]
    return {
        "person": {"id": 1, "name": "Ada Ann Abel", "facts": facts},
        "read": read,
        "recited": {"text": wrong, "start": len("Ada Ann Abel"), "facts": stated},
        "answers": answers,
    }


def intervals(result: Any) -> Any:
    """An interval of one point around each share of a result, of 200 people."""
    if isinstance(result, dict):
        return {name: intervals(part) for name, part in result.items()}
    if isinstance(result, list):
        return [intervals(part) for part in result]
    if result is None:
        return None
    low, high = max(result - 0.01, 0.0), min(result + 0.01, 1.0)
    return {"low": low, "high": high, "people": 200, "cases": 1200}


def a_config(dataset: str, seed: int = 0, **fields: Any) -> dict[str, Any]:
    """The configuration of a row: the paper's, for a small model of 400 people."""
    config: dict[str, Any] = identity(Experiment())
    small = {"layers": 4, "heads": 4, "width": 128, "dtype": "bfloat16"}
    sizes = {"seed": seed, "data__variant": dataset, "world__people": 400}
    sizes |= {f"model__{name}": value for name, value in small.items()}
    for field, value in {**sizes, **fields}.items():
        *path, name = field.split("__")
        part = config
        for section in path:
            part = part[section]
        part[name] = value
    return config


SINGLE = a_row()
SHUFFLED = a_row("multi5+permute", qa=0.864, recall=1.0, probe=0.93)
CONTRAST = (SINGLE, SHUFFLED)


def without(field: str) -> dict:
    """The row of `single` as JSON, without a field."""
    return {name: value for name, value in SINGLE.to_json().items() if name != field}


def changed(row: Row, *path, **values) -> Row:
    """A copy of a row with other values in the dictionary at a path of keys below `readouts`."""
    row = copy.deepcopy(row)
    part = row.readouts
    for key in path:
        part = part.setdefault(key, {})
    part.update(values)
    return row


def with_seed(row: Row, seed: int, **fields: Any) -> Row:
    """A copy of a row with another seed, and other fields."""
    return dataclasses.replace(row, config={**row.config, "seed": seed}, **fields)


PROVENANCE = {
    "versions": {"jax": "0.10.2"},
    "python": "3.11.7",
    "platform": "Linux",
    "devices": ["cpu:0"],
    "git": "0123abc",
    "git_dirty": True,
}


def a_run(folder: pathlib.Path, rows: Sequence[Row] = CONTRAST):
    """The file of a finished run that a report reads."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "rows": [row.to_json() for row in rows]}
    (folder / "results.json").write_text(json.dumps({**content, "provenance": [PROVENANCE]}))
    return folder


def write_page(folder: pathlib.Path) -> str:
    """The page of a run folder, written there."""
    return report.write([folder], folder).read_text()


def text_of(page: str) -> str:
    """The words of a page, without tags."""
    body = page[page.index("<body>") :]
    return html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\N{NARROW NO-BREAK SPACE}", " ")


def csv_of(page: str, name: str) -> list[list[str]]:
    """The lines of the CSV that a page links under a name."""
    (href,) = re.findall(
        rf'download="{re.escape(name)}[^"]*"[^>]* href="data:text/csv[^,]*,([^"]*)', page
    )
    return list(csv.reader(io.StringIO(urllib.parse.unquote(href))))


def published(dataset: str, setting: str = paper.THE_16) -> paper.Published:
    """The paper's numbers for a dataset that has some."""
    numbers = paper.printed(dataset, setting)
    assert numbers is not None
    return numbers


def published_beside(group: Group) -> paper.Published:
    """The paper's numbers for the dataset of a group."""
    assert group.published is not None
    return group.published
