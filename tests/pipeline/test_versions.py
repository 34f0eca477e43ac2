"""Every kind of stage computes the recorded numbers, or its version has to be raised.

`python -m tests.pipeline.test_versions WORKDIR` prints the numbers of the tiny sweep in WORKDIR
(`tests/conftest.py`) for `recorded_results.json`.
"""

import json
import math
import pathlib
import sys

import pytest

from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import read_graphs
from kstore_jax.pipeline.stages import BOOKKEEPING, Stage
from kstore_jax.train.telemetry import METRICS, read_metrics

RECORDED = pathlib.Path(__file__).with_name("recorded_results.json")
VERSIONS = {
    "shards": "DATASET_VERSION in kstore_jax/pipeline/graph.py",
    "pretrain": "VERSION in kstore_jax/pipeline/pretrain.py",
    "recall": "version in kstore_jax/readouts/recall.py",
    "capacity": "version in kstore_jax/readouts/capacity.py",
    "finetune": "VERSION in kstore_jax/pipeline/finetune.py",
    "examples": "version in kstore_jax/readouts/examples.py",
    "qa": "version in kstore_jax/readouts/qa.py",
    "p_probe": "version in kstore_jax/readouts/p_probe.py",
    "q_probe": "version in kstore_jax/readouts/q_probe.py",
}
RELATIVE, ABSOLUTE = 1e-3, 0.02
"""Rounding may change losses, and with them one or two answers of a share."""


def numbers(graph: ExperimentGraph, stage: Stage) -> dict[str, float | str]:
    """The version of a stage, every loss of its training, every number of its result and the
    digests of its dataset."""
    folder = graph.cache.folder(stage)
    values: dict[str, float | str] = {"version": stage.version}
    for line in read_metrics(folder / METRICS):
        values[f"loss at step {line['step']}"] = line["loss"]
    _flatten("", graph.cache.require(stage), values)
    if stage.kind in graph.datasets:
        for part in json.loads((folder / "dataset" / "manifest.json").read_text())["parts"]:
            values[f"SHA-256 of {part['name']}"] = part["sha256"]
    return values


_WRITTEN = ("recited", "answer")
"""Texts of a model; rounding may change where they go on."""


def _flatten(path: str, value, values: dict[str, float | str]) -> None:
    """Adds every leaf of nested lists and dictionaries to `values`, except times, digests and the
    texts of models."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in (*BOOKKEEPING, *_WRITTEN):
                _flatten(f"{path}{name}.", inner, values)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _flatten(f"{path}{i}.", inner, values)
    elif value is not None:
        values[path.removesuffix(".")] = value


def difference(recorded: dict, computed: dict) -> str | None:
    """The first value that is not the recorded one, as text."""
    for name in dict.fromkeys([*recorded, *computed]):
        before, now = recorded.get(name), computed.get(name)
        absolute = 0.0 if name.startswith("loss") or name == "version" else ABSOLUTE
        if isinstance(before, int | float) and isinstance(now, int | float):
            equal = math.isclose(before, now, rel_tol=RELATIVE, abs_tol=absolute)
        else:
            equal = before == now
        if not equal:
            return f"{name}: recorded {before}, computed {now}"
    return None


def check(graph: ExperimentGraph, recorded: dict) -> None:
    """Fails at the first stage, parents before children, whose numbers are not as recorded."""
    for stage in graph.stages:
        if wrong := difference(recorded[stage.kind], numbers(graph, stage)):
            pytest.fail(
                f"{stage.kind} computes other numbers than recorded ({wrong}); if intended, "
                f"raise {VERSIONS[stage.kind]} and record again, as {pathlib.Path(__file__).name} "
                "says"
            )


@pytest.mark.parametrize("row", [0, 1], ids=["single", "multi2+permute"])
def test_every_stage_computes_the_recorded_numbers(finished, row):
    check(read_graphs(finished)[row], json.loads(RECORDED.read_text())[row])


def test_a_changed_number_names_the_stage_and_the_version_to_raise(finished):
    recorded = json.loads(RECORDED.read_text())[0]
    last = max(name for name in recorded["p_probe"] if name.startswith("loss"))
    recorded["p_probe"][last] *= 1.01
    recorded["q_probe"][last] *= 1.01
    with pytest.raises(pytest.fail.Exception, match=r"^p_probe computes.*readouts/p_probe\.py"):
        check(read_graphs(finished)[0], recorded)


if __name__ == "__main__":
    graphs = read_graphs(pathlib.Path(sys.argv[1]))
    rows = [{stage.kind: numbers(graph, stage) for stage in graph.stages} for graph in graphs]
    json.dump(rows, sys.stdout, indent=1)
