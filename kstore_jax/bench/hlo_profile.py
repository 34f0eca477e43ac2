"""The time of a compiled program by operations of the model."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax

_SCAN_BODY = r"(?:closed_call|eval_jaxpr)/"  # the names that JAX 0.10 and 0.12 give it
_CONTAINERS = ("while", "call", "conditional")  # their time is the time of the operations inside


def milliseconds_by_operation(
    run: Callable[[], object], compiled: jax.stages.Compiled
) -> dict[str, float]:
    """Runs a compiled program under JAX's profiler and returns its time by operation.

    Returns: milliseconds, the costliest operation first, summed over threads, devices and equal
    blocks. An operation has its name in the model, and `backward` before it where it computes
    gradients; an operation without a name in XLA has the name of its kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    names = operation_names(compiled.as_text() or "")
    spent: collections.Counter = collections.Counter()
    for plane in profile.planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            if on_device and not line.name.startswith(("Stream", "XLA Ops")):
                continue  # the same time once more, by step or module
            for event in line.events:
                operation = dict(event.stats).get("hlo_op", event.name)
                if operation in names or on_device:
                    name = names.get(operation, re.sub(r"[._\d]+$", "", event.name))
                    spent[name] += event.duration_ns / 1e6
    del spent[""]
    return dict(spent.most_common())


def by_kind(milliseconds: dict[str, float], most: int = 10) -> dict[str, float]:
    """Sums the time of operations by kind: the last part of their name, forward and backward
    together, or the name of a kernel.

    Returns: milliseconds of the `most` costliest kinds, and of all `others`.

    >>> spent = {"block/up/dot_general": 3.0, "backward block/up/dot_general": 6.0, "g/add": 1.0}
    >>> by_kind(spent, 1)
    {'dot_general': 9.0, 'others': 1.0}
    """
    kinds: dict[str, float] = collections.defaultdict(float)
    for name, spent in milliseconds.items():
        kinds[name.removeprefix("backward ").rpartition("/")[2]] += spent
    largest = sorted(kinds.items(), key=lambda kind: -kind[1])[:most]
    others = sum(kinds.values()) - sum(spent for _, spent in largest)
    return {name: round(spent, 3) for name, spent in [*largest, ("others", others)]}


def operation_names(text: str) -> dict[str, str]:
    """Returns the operation of the model that each instruction is part of.

    Args:
      text: the optimized HLO of a program.

    Returns: names of operations by instruction; "" for instructions that only contain others.
    """
    names = {}
    for line in text.splitlines():
        instruction = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = .*? ([a-z][a-z-]*)\(", line)
        origin = re.search(r'op_name="([^"]+)"', line)
        if instruction and instruction[2] in _CONTAINERS:
            names[instruction[1]] = ""
        elif instruction and origin:
            names[instruction[1]] = _model_name(origin[1])
    return names


def _model_name(origin: str) -> str:
    """An `op_name` of XLA without the parts that JAX adds, all blocks under one name."""
    path = re.split(_SCAN_BODY, re.sub(r"\w+\(|\)", "", origin))[-1]
    path = re.sub(r"forward/Transformer/|\w+\._\w+/", "", path.strip("/"))
    path = re.sub(r"block_\d+", "block", path)
    return f"backward {path}" if "transpose(" in origin else path
