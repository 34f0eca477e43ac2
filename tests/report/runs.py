"""Small finished runs for the tests of the report, and their pages read back."""

import copy
import csv
import html
import io
import json
import pathlib
import re
import urllib.parse
from typing import Any

from kstore_jax.config.fields import as_dict
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import SCHEMA
from kstore_jax.pipeline.stages import Cache
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


def a_row(dataset="single", seed=0, qa=0.031, recall=0.998, trained=0.993, probe=0.05):
    """A row of `results.json`; P-probing has no values after an attribute is stated."""
    probed = {a: range(6 if "permute" in dataset else i + 1) for i, a in enumerate(ATTRIBUTES)}
    levels = {"first": dict.fromkeys(ATTRIBUTES, 0.041), "whole": dict.fromkeys(ATTRIBUTES, 0.012)}
    p_first = {a: [probe if p in probed[a] else None for p in range(6)] for a in ATTRIBUTES}
    q_first = {a: [probe] for a in ATTRIBUTES}
    return {
        "dataset": dataset,
        "seed": seed,
        "people": 400,
        "attributes": {name: name.replace("_", " ") for name in ATTRIBUTES},
        "mixed": {},
        "exposures": 287.4,
        "parameters": 1_065_728,
        "vocabulary": 2031,
        "readouts": {
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
            "p_probe": {"first": p_first, "whole": without_date(p_first), "baseline": levels},
            "q_probe": {"first": q_first, "whole": without_date(q_first), "baseline": levels},
        },
        "code": ["b5ec04e05fc84dfd3e0d83a1e7a4a6f0b1b2c3d4"],
        "seconds": 701.2,
        "seconds_by_stage": {"shards": 2.2, "pretrain": 402.1, "qa": 1.9},
    }


SINGLE = a_row()
SHUFFLED = a_row("multi5+permute", qa=0.864, recall=1.0, probe=0.93)
CONTRAST = (SINGLE, SHUFFLED)


def without(field):
    """The row of `single` without a field."""
    return {name: value for name, value in SINGLE.items() if name != field}


def changed(row, *path, **values):
    """A copy of a row with other values in the dictionary at a path of keys below `readouts`."""
    row = copy.deepcopy(row)
    part = row["readouts"]
    for key in path:
        part = part.setdefault(key, {})
    part.update(values)
    return row


PROVENANCE = {
    "versions": {"jax": "0.10.2"},
    "python": "3.11.7",
    "platform": "Linux",
    "devices": ["cpu:0"],
    "git": "0123abc",
    "git_dirty": True,
}


def a_config(row, **pretrain) -> dict[str, Any]:
    """The configuration of a row, as `config.json` has it."""
    config: dict[str, Any] = as_dict(Experiment())
    config["seed"] = row["seed"]
    config["data"]["variant"] = row["dataset"]
    config["model"].update(layers=4, heads=4, width=128, dtype="bfloat16")
    config["pretrain"].update(pretrain)
    return config


def parsed(*rows, **pretrain):
    return [parse(a_config(row, **pretrain)) for row in rows]


def a_run(folder: pathlib.Path, rows=CONTRAST, configs: Any = "of the rows", metrics=True):
    """The files of a finished run that a report reads.

    Args:
      configs: rows of `config.json`, which is not written for None.
      metrics: whether the stages of pretraining have metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "rows": rows, "provenance": [PROVENANCE]}
    (folder / "results.json").write_text(json.dumps(content))
    if configs == "of the rows":
        configs = [a_config(row) for row in rows]
    if configs is None:
        return folder
    (folder / "config.json").write_text(json.dumps({"rows": configs}))
    for config in configs if metrics else ():
        cache = Cache(folder / "stages")
        stage = cache.folder(ExperimentGraph(parse(config), cache).pretrain)
        stage.mkdir(parents=True, exist_ok=True)
        lines = [{"step": s, "loss": 7 / s, "seconds": s} for s in range(1, 30)]
        (stage / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
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
    numbers = paper.published(dataset, setting)
    assert numbers is not None
    return numbers


def published_beside(group: Group) -> paper.Published:
    """The paper's numbers for the dataset of a group."""
    assert group.published is not None
    return group.published
