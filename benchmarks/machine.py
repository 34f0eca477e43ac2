"""What distinguishes machines: the processor, one matrix product in each library, and memory.

    pip install -e .[bench]
    python -m benchmarks.machine --json [--threads=2]

Every library lives in a process of its own, on the first `threads` processors. The best of several
rounds counts: other programs can only slow a machine down.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

LIBRARIES = {"JAX": "jax", "NumPy": "numpy", "PyTorch": "torch"}
DTYPES = ("float32", "bfloat16")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_ROUNDS = 7
_SIZE = 1024  # of the product's square matrices
_BYTES = 2**28  # of the array that is copied: more than any cache
_LONGEST_S = 600.0


def describe(threads: int) -> dict:
    """Returns `processor`, `cores`, `flags` (those of `FLAGS` that it has), `product_gflop_s` of
    each installed library and dtype, and `copy_gb_s`, bytes read and written by a copy."""
    products = {
        library: _in_process(library, threads)
        for library, package in LIBRARIES.items()
        if importlib.util.find_spec(package)
    }
    return {
        **_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "product_gflop_s": products,
        "copy_gb_s": _in_process("copy", threads),
    }


def _processor() -> dict:
    """The name of the processor and its flags, from /proc/cpuinfo; empty where there is none."""
    path = pathlib.Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    first = text.partition("\n\n")[0]
    pairs = dict([part.strip() for part in line.split(":", 1)] for line in first.splitlines())
    has = pairs.get("flags", "").split()
    return {
        "processor": pairs.get("model name", ""),
        "cache": pairs.get("cache size", ""),
        "flags": [flag for flag in FLAGS if flag in has],
    }


def _in_process(what: str, threads: int) -> dict[str, float] | float:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    command = (sys.executable, "-m", "benchmarks.machine", f"--work={what}", f"--threads={threads}")
    output = subprocess.run(
        command, env=environment, check=True, timeout=_LONGEST_S, capture_output=True
    ).stdout
    return json.loads(output)


def _work(what: str, threads: int) -> dict[str, float] | float:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if what == "copy":
        source = np.ones(_BYTES // 8)
        target = np.empty_like(source)
        return round(2 * _BYTES / _best_s(lambda: np.copyto(target, source)) / 1e9, 1)
    dtypes = DTYPES[:1] if what == "NumPy" else DTYPES  # NumPy has no bfloat16
    flop = 2 * _SIZE**3
    return {dtype: round(flop / _best_s(_product(what, dtype)) / 1e9, 1) for dtype in dtypes}


def _product(library: str, dtype: str) -> Callable[[], object]:
    """One product of two square matrices; its sums are float32 in JAX."""
    x = np.random.default_rng(0).standard_normal((_SIZE, _SIZE)).astype(np.float32)
    if library == "NumPy":
        return lambda: x @ x
    if library == "PyTorch":
        import torch

        y = torch.tensor(x, dtype=getattr(torch, dtype))
        return lambda: y @ y
    import jax
    import jax.numpy as jnp

    y = jnp.asarray(x, dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return lambda: product(y).block_until_ready()


def _best_s(call: Callable[[], object]) -> float:
    """Seconds of a call, the best of several rounds after the first."""
    times = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(_work(given.work, given.threads)))
        return
    found = describe(given.threads)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<16} {value}")


if __name__ == "__main__":
    main()
