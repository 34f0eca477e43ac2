"""What is told about a training while it runs: metrics.jsonl and the progress bar."""

import collections
import json
import pathlib
import platform
import subprocess
import time
from importlib import metadata
from typing import Self

import jax
from tqdm import tqdm

METRICS = "metrics.jsonl"
_RATE_REPORTS = 16  # tokens/s is the mean over so many reports


class Telemetry:
    """Writes a line of `metrics.jsonl` a report, and shows step, loss, tokens/s and time left.

    The file is where others read the progress of a stage from. A training that resumes first drops
    the lines written after the checkpoint it resumes from.
    """

    def __init__(self, folder: pathlib.Path, name: str, first: int, steps: int, step_tokens: int):
        self._step_tokens = step_tokens
        path = folder / METRICS
        kept = [line for line in read_metrics(path) if line["step"] <= first]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._seconds = kept[-1]["seconds"] if kept else 0.0
        self._file = path.open("a")
        self._bar = tqdm(total=steps, initial=first, desc=name, unit="step", disable=None)
        self._marks = collections.deque([(first, time.perf_counter())], maxlen=_RATE_REPORTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._bar.close()

    def report(self, step: int, steps: int, loss: float) -> None:
        """`loss` is the mean over the steps since the last report."""
        now = time.perf_counter()
        before, then = self._marks[-1]
        self._seconds += now - then
        oldest, long_ago = self._marks[0]
        rate = (step - oldest) * self._step_tokens / (now - long_ago)
        self._marks.append((step, now))
        line = {
            "step": step,
            "steps": steps,
            "loss": loss,
            "tokens_per_s": round(rate),
            "seconds": round(self._seconds, 3),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s", refresh=False)
        self._bar.update(step - before)


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The whole lines of a metrics file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]


def provenance() -> dict:
    """Versions, devices and the state of the code, for a report."""
    names = ("kstore_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "versions": {name: metadata.version(name) for name in names},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "git": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def _git(*arguments: str) -> str | None:
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
