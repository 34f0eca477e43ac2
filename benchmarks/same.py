"""Whether the working tree computes exactly what another commit computes, whatever was renamed.

    python -m benchmarks.same BASE [--fast] [--cache-dir=DIR]

Checks BASE out, copies the tree, and runs the same experiments with both, a core each. `--fast`
runs tiny ones: GPT, BERT, questions mixed in, celebrities, a grid of finetuning, two models
pretrained together, fresh text. Without it the quickstart and one row of configs/datasets.py
follow. Compares datasets byte for byte, initial parameters, batches, the lowered text of training
steps, every checkpoint bit for bit, losses and results. Names that differ between the two sides
are in `same_tables.py`. What BASE computed is kept in the cache folder, so the next call runs the
tree alone. Exit status: 0 where all is equal, 1 where something differs, 2 where there is no such
BASE.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

from benchmarks import same_tables
from benchmarks.same_compare import compare

TREE = pathlib.Path(__file__).resolve().parents[1]
_SIDE = pathlib.Path(__file__).with_name("same_side.py")
_VERSIONS = ("flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "tokenizers")
# Compiles in half the time. Both sides have it, so what differs does so without optimization, too.
_FAST_FLAGS = "--xla_backend_optimization_level=0"
_LAST_LINES = 15  # of the log of a side that failed


class SideError(Exception):
    """A side did not end with status 0."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument("--fast", action="store_true", help="the smallest experiments alone")
    parser.add_argument("--cache-dir", type=pathlib.Path, default=_default_cache())
    parser.add_argument("--keep", type=pathlib.Path, help="folder for what the tree computed")
    arguments = parser.parse_args()
    try:
        commit = _commit(arguments.base)
    except ValueError as error:
        print(f"same: {error}", file=sys.stderr)
        return 2
    sweeps = same_tables.FAST if arguments.fast else same_tables.FULL
    if arguments.fast:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FAST_FLAGS}".strip()
    differs = False
    with tempfile.TemporaryDirectory() as folder:
        temporary = pathlib.Path(folder)
        base_results = arguments.cache_dir / f"{commit[:12]}-{_key(sweeps)}"
        ours = arguments.keep or temporary / "tree"
        try:
            run_sides(commit, base_results, ours, sweeps, temporary)
        except SideError as error:
            print(f"differs: {error}")
            return 1
        for verdict, line in compare(base_results, ours, sweeps):
            differs |= verdict == "difference"
            print(f"{'differs' if verdict == 'difference' else verdict}: {line}", flush=True)
    print(f"{'DIFFERENT from' if differs else 'the same as'} {commit[:12]}")
    return int(differs)


def _default_cache() -> pathlib.Path:
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "kstore_jax_same"


def _commit(name: str) -> str:
    """Returns the hash of a commit; ValueError where there is none of that name."""
    command = ["git", "-C", str(TREE), "rev-parse", "--verify", "--quiet", "--end-of-options"]
    done = subprocess.run(
        [*command, f"{name}^{{commit}}"], capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise ValueError(f"BASE: expected a commit of {TREE}, got {name!r}")
    return done.stdout.strip()


def _key(sweeps: dict) -> str:
    """Hashes what the numbers of a side depend on beside its commit."""
    versions = [f"{name} {metadata.version(name)}" for name in _VERSIONS]
    machine = [sys.version, platform.node(), platform.machine(), os.environ.get("XLA_FLAGS", "")]
    parts = [json.dumps(sweeps), _SIDE.read_text(encoding="utf-8"), *versions, *machine]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def run_sides(
    commit: str,
    base_results: pathlib.Path,
    ours: pathlib.Path,
    sweeps: dict,
    temporary: pathlib.Path,
) -> None:
    """Runs the tree, and the base unless `base_results` is there, each on a core of its own.

    Raises:
      SideError: a side failed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    with contextlib.ExitStack() as stack:
        copied = _copied(temporary / "copy")
        sides = {"tree": stack.enter_context(_running(copied, ours, sweeps, cores[-1]))}
        if not base_results.exists():
            checkout = stack.enter_context(_worktree(commit, temporary / "checkout"))
            base_results.parent.mkdir(parents=True, exist_ok=True)
            made = pathlib.Path(
                stack.enter_context(tempfile.TemporaryDirectory(dir=base_results.parent))
            )
            theirs = made / "side"
            sides["base"] = stack.enter_context(_running(checkout, theirs, sweeps, cores[0]))
            _wait("base", sides["base"], theirs)
            with contextlib.suppress(OSError):  # another process kept it meanwhile
                theirs.rename(base_results)
        _wait("tree", sides["tree"], ours)


def _copied(folder: pathlib.Path) -> pathlib.Path:
    """Copies the working tree, so that edits made meanwhile do not reach the experiments."""
    command = ["git", "-C", str(TREE), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run([*command, "--exclude-standard"], check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (TREE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / name, folder / name)
    return folder


@contextlib.contextmanager
def _worktree(commit: str, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Checks a commit out into a folder until the context ends."""
    git = ["git", "-C", str(TREE), "worktree"]
    add = [*git, "add", "--quiet", "--detach", str(folder), commit]
    subprocess.run(add, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True)


@contextlib.contextmanager
def _running(
    checkout: pathlib.Path, out: pathlib.Path, sweeps: dict, core: int
) -> Iterator[subprocess.Popen]:
    """Starts a side; ends it with the context."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    out = out.resolve()
    spec = {"tree": str(checkout), "out": str(out), "core": core}
    spec |= {"fields": same_tables.FIELDS, "moved": same_tables.MOVED, "sweeps": sweeps}
    (out / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    environment = {
        "JAX_PLATFORMS": "cpu",
        **os.environ,
        "PYTHONPATH": str(checkout),
        "JAX_DUMP_IR_TO": str(out / "ir"),
        "MPLBACKEND": "Agg",
    }
    command = [sys.executable, "-P", str(_SIDE), str(out / "spec.json")]
    with (out / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(name: str, process: subprocess.Popen, out: pathlib.Path) -> None:
    if status := process.wait():
        lines = (
            (out / "log").read_text(errors="replace", encoding="utf-8").splitlines()[-_LAST_LINES:]
        )
        log_tail = "\n".join(f"    {line}" for line in lines)
        raise SideError(f"the experiments of the {name} ended with status {status}:\n{log_tail}")


if __name__ == "__main__":
    sys.exit(main())
