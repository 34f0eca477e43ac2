"""Compares what `same_side.py` left in two folders: of the base and of the tree."""

import collections
import json
import pathlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import same_tables
from benchmarks.same_programs import compare_programs, read_programs

Found = Iterator[tuple[str, str]]  # (`equal`, `note` or `difference`, line)
_MOST = 5  # differences of one thing that are listed
_EMPTY, _ABSENT = ({}, []), object()


def compare(base: pathlib.Path, tree: pathlib.Path, sweeps: Iterable[str]) -> Found:
    """Compares all that two sides computed.

    Yields: (`equal`, `note` or `difference`, line).
    """
    yield from compare_events(*(_lines(side / "events.jsonl") for side in (base, tree)))
    yield from compare_programs(read_programs(base / "ir"), read_programs(tree / "ir"))
    for sweep in sweeps:
        for verdict, line in _compare_sweep(base / sweep, tree / sweep):
            yield verdict, f"{sweep}: {line}"


def _lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare_events(base: Sequence[dict], tree: Sequence[dict]) -> Found:
    """Compares initial parameters and batches, in their order."""
    for kind, name in (("initial", "initial parameters"), ("batch", "batches")):
        sides = [
            [array for event in side if event["kind"] == kind for array in event["arrays"]]
            for side in (base, tree)
        ]
        counts = [len(side) for side in sides]
        if not all(counts):
            yield "difference", f"{name}: recorded {counts[0]} arrays of the base, {counts[1]} here"
        elif sides[0] == sides[1]:
            yield "equal", f"{name} ({counts[0]} arrays)"
        elif _counted(sides[0]) == _counted(sides[1]):
            yield "equal", f"{name} ({counts[0]} arrays), in another order"
        else:
            pairs = enumerate(zip(*sides, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(counts))
            theirs, ours = (_described(side[at : at + 1]) for side in sides)
            many = f"{counts[0]} arrays in the base, {counts[1]} here"
            yield "difference", f"{name}: {many}; array {at} is {theirs} there, {ours} here"


def _counted(arrays: list) -> collections.Counter:
    return collections.Counter(map(json.dumps, arrays))


def _described(arrays: list) -> str:
    return "; ".join(f"{kind} {shape} {digest[:12]}" for kind, shape, digest in arrays) or "absent"


def _compare_sweep(base: pathlib.Path, tree: pathlib.Path) -> Found:
    """Compares the results of a sweep and all its stages, by their kind and order."""
    yield from _compare_results(base / "results.json", tree / "results.json")
    stages = [_stages(side / "stages") for side in (base, tree)]
    for kind in {**stages[0], **stages[1]}:
        theirs, ours = (side.get(kind, []) for side in stages)
        if not theirs and kind in same_tables.ADDED:
            continue
        if len(theirs) != len(ours):
            yield "difference", f"{kind}: {len(theirs)} stages in the base, {len(ours)} here"
            continue
        yield from _compare_kind(kind, [*zip(theirs, ours, strict=True)])


def _stages(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Returns kind -> folders of its stages, in the order in which they were begun."""

    def begun(stage: pathlib.Path) -> int:
        return min(path.stat().st_mtime_ns for path in stage.iterdir() if path.is_file())

    found: dict[str, list[pathlib.Path]] = {}
    for stage in sorted((p for p in folder.iterdir() if (p / "result.json").exists()), key=begun):
        kind = stage.name.rpartition("-")[0]
        found.setdefault(same_tables.KINDS.get(kind, kind), []).append(stage)
    return found


def _compare_kind(kind: str, pairs: list[tuple[pathlib.Path, pathlib.Path]]) -> Found:
    """Compares the stages of one kind: their dataset, checkpoints, metrics and result."""
    counted: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for i, (base, tree) in enumerate(pairs):
        there = f"{kind} {i}" if len(pairs) > 1 else kind
        parts = (
            ("values", _of_json(kind, base / "result.json", tree / "result.json")),
            ("metrics", _of_metrics(base / "metrics.jsonl", tree / "metrics.jsonl")),
            ("files", _of_dataset(base / "dataset", tree / "dataset")),
            ("arrays in checkpoints", _of_checkpoints(base / "checkpoints", tree / "checkpoints")),
        )
        for what, (count, differences) in parts:
            counted[what] += count
            wrong += [f"{there}: {line}" for line in differences]
    many = "; ".join(f"{count} {what}" for what, count in counted.items() if count)
    yield from _verdict(f"{len(pairs)} x {kind} ({many})", wrong)


def _verdict(what: str, wrong: list[str]) -> Found:
    if not wrong:
        yield "equal", what
    for line in wrong[:_MOST]:
        yield "difference", line
    if len(wrong) > _MOST:
        yield "difference", f"{what}: {len(wrong) - _MOST} more"


def _compare_results(base: pathlib.Path, tree: pathlib.Path) -> Found:
    """Compares every row of results.json, and the rest of that file."""
    sides = [json.loads(path.read_text(encoding="utf-8")) for path in (base, tree)]
    rows = [side.pop("rows") for side in sides]
    if len(rows[0]) != len(rows[1]):
        yield "difference", f"results.json: {len(rows[0])} rows in the base, {len(rows[1])} here"
    values, differences = 0, []
    for i, (theirs, ours) in enumerate(zip(*rows, strict=False)):
        count, wrong = compare_values(theirs, ours, "row")
        values += count
        differences += [f"results.json, row {i}: {line}" for line in wrong]
    count, wrong = compare_values(sides[0], sides[1], "summary")
    differences += [f"results.json: {line}" for line in wrong]
    yield from _verdict(f"results.json ({len(rows[0])} rows, {values + count} values)", differences)


def compare_values(base: Any, tree: Any, root: str) -> tuple[int, list[str]]:
    """Compares two JSON values, each path under its new name, without those that are ignored.

    Returns: how many values were compared, and a line for each that differs or is on one side.
    """
    sides = [dict(_flat(side, root)) for side in (base, tree)]
    wrong = []
    for path in {**sides[0], **sides[1]}:
        theirs, ours = (side.get(path, _ABSENT) for side in sides)
        if (theirs in _EMPTY and ours is _ABSENT) or (ours in _EMPTY and theirs is _ABSENT):
            continue
        if ours is _ABSENT:
            wrong.append(f"{path}: in the base alone; same_tables.RESULTS has no new name for it")
        elif theirs is _ABSENT:
            wrong.append(f"{path}: in the tree alone; same_tables.RESULTS has no old name for it")
        elif json.dumps(theirs) != json.dumps(ours):
            wrong.append(f"{path}: {theirs!r} in the base, {ours!r} here")
    return len(sides[0]), wrong


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) under new names; an empty container is a leaf."""
    path = renamed(path, same_tables.RESULTS)
    if any(_below(pattern).fullmatch(path) for pattern in same_tables.IGNORED):
        return
    if value in _EMPTY or not isinstance(value, dict | list):
        yield path, value
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _flat(one, f"{path}.{key}")


def renamed(path: str, table: dict[str, str]) -> str:
    """Returns a path with the name that a table has for it, or the path itself.

    >>> renamed("row.qa.mean", {"*.qa": "*.qa_test"})
    'row.qa_test.mean'
    """
    for old, new in table.items():
        if match := _below(old).fullmatch(path):
            *stars, below = match.groups()
            for star in stars:
                new = new.replace("*", star, 1)
            return new + below
    return path


def _below(pattern: str) -> re.Pattern[str]:
    """Matches the paths at and below a pattern, whose `*` are groups, as is what lies below."""
    return re.compile(re.escape(pattern).replace(r"\*", r"([^.]+)") + r"((?:\..*)?)")


def _of_json(root: str, base: pathlib.Path, tree: pathlib.Path) -> tuple[int, list[str]]:
    theirs, ours = (json.loads(path.read_text(encoding="utf-8")) for path in (base, tree))
    count, wrong = compare_values(theirs, ours, root)
    return count, [f"{base.name}: {line}" for line in wrong]


def _of_metrics(base: pathlib.Path, tree: pathlib.Path) -> tuple[int, list[str]]:
    if not base.exists() and not tree.exists():
        return 0, []
    sides = [_lines(path) if path.exists() else [] for path in (base, tree)]
    if len(sides[0]) != len(sides[1]):
        return 0, [f"{base.name}: {len(sides[0])} lines in the base, {len(sides[1])} here"]
    total, wrong = 0, []
    for i, (theirs, ours) in enumerate(zip(*sides, strict=True)):
        count, lines = compare_values(theirs, ours, "metrics")
        total += count
        wrong += [f"{base.name}, line {i + 1}: {line}" for line in lines]
    return total, wrong


def _of_dataset(base: pathlib.Path, tree: pathlib.Path) -> tuple[int, list[str]]:
    """Compares the files of a dataset byte for byte, and its manifest by its values."""
    sides = [
        {str(path.relative_to(side)): path for path in sorted(side.rglob("*")) if path.is_file()}
        for side in (base, tree)
    ]
    wrong = [f"dataset/{name}: on one side alone" for name in sorted(sides[0].keys() ^ sides[1])]
    both = [name for name in sides[0] if name in sides[1]]
    for name in both:
        if name == "manifest.json":
            wrong += _of_json("manifest", sides[0][name], sides[1][name])[1]
        elif sides[0][name].read_bytes() != sides[1][name].read_bytes():
            wrong.append(f"dataset/{name}: the bytes differ")
    return len(both), wrong


def _of_checkpoints(base: pathlib.Path, tree: pathlib.Path) -> tuple[int, list[str]]:
    """Compares every array of every checkpoint, bit for bit."""
    sides = [
        {p.name: p for p in side.iterdir() if p.name.isdecimal()} if side.exists() else {}
        for side in (base, tree)
    ]
    if sides[0].keys() != sides[1].keys():
        steps = [", ".join(sorted(side, key=int)) or "none" for side in sides]
        return 0, [f"checkpoints of steps {steps[0]} in the base, {steps[1]} here"]
    total, wrong = 0, []
    for step in sorted(sides[0], key=int):
        arrays = [read_checkpoint(side[step]) for side in sides]
        for name in {**arrays[0], **arrays[1]}:
            theirs, ours = (side.get(name) for side in arrays)
            if line := _array_difference(theirs, ours):
                wrong.append(f"checkpoint {step}, {name}: {line}")
        total += len(arrays[0])
    return total, wrong


def _array_difference(base: np.ndarray | None, tree: np.ndarray | None) -> str:
    """Returns in words how two arrays differ, nothing where they are bit for bit the same."""
    if base is None or tree is None:
        return f"in the {'tree' if base is None else 'base'} alone"
    if (base.dtype, base.shape) != (tree.dtype, tree.shape):
        kinds = [f"{side.dtype} {side.shape}" for side in (base, tree)]
        return f"{kinds[0]} in the base, {kinds[1]} here"
    if base.tobytes() == tree.tobytes():
        return ""
    apart = np.abs(base.astype(np.float64) - tree.astype(np.float64))
    return f"{np.count_nonzero(apart)} of {apart.size} numbers differ, by {apart.max():.3g} at most"


def read_checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint: name of the tree and path in it -> array."""
    import jax
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trees = ocp.load_checkpointables(str(folder.absolute()))
    return {
        same_tables.CHECKPOINTS.get(name, name) + jax.tree_util.keystr(path): np.asarray(leaf)
        for name, tree in trees.items()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
