"""What is told about a training while it runs: metrics.jsonl and the progress bar."""

import collections
import contextlib
import functools
import json
import os
import pathlib
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Self

import jax
from tqdm import tqdm

from kstore_jax.errors import DamagedFileError
from kstore_jax.files import write_text
from kstore_jax.train import flops as peaks
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.distributed import is_first
from kstore_jax.train.timing import PARTS, Clock, goodput
from kstore_jax.train.trackers import sinks

METRICS = "metrics.jsonl"
_RATE_REPORTS = 16  # tokens/s is the mean over so many reports
_LINE_BYTES = 4096  # more than a line has
_FIELDS = {"step", "loss", "seconds"}
_HEEDED = ("JAX_", "XLA_", "LIBTPU_")


class Telemetry:
    """Writes a line of `metrics.jsonl` a report, and shows step, loss, tokens/s and time left.

    The file is where others read the progress of a stage from. With its first line a training that
    resumes replaces those written after the checkpoint it resumes from; what they tell of is `lost`
    from then on. Of several processes the first reports.

    A line has the `step`, of `steps`, the mean `loss` since the line before, `tokens_per_s`, the
    `seconds` of training so far and by part where they were `spent` (`clock.PARTS`), over all
    restarts, of models trained together each its equal share; of these the `goodput`, the share
    that went to steps which were done once; `memory_bytes`, the most that was in use of the fullest
    device, or of the process; `mfu_full` and `mfu_causal` where the device's peak is known from its
    data sheet; and where there were some, the steps `skipped` so far and the `evaluation`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str,
        first: int,
        steps: int,
        step_tokens: int,
        token_flops: tuple[int, int] | None,
        clock: Clock,
        watch: TelemetryConfig,
        together: int = 1,
    ):
        self._step_tokens = step_tokens
        self._folder, self._watch, self._profiling = folder, watch, False
        self._clock, self._together = clock, together
        self._mfu = _mfu(token_flops)
        silent = not is_first()
        path = folder / METRICS if not silent else pathlib.Path(os.devnull)
        told = read_metrics(path)
        kept = [line for line in told if line["step"] <= first]
        self._seconds = kept[-1]["seconds"] if kept else 0.0
        earlier, all_told = (lines[-1].get("spent", {}) if lines else {} for lines in (kept, told))
        self._spent = dict.fromkeys(PARTS, 0.0) | earlier
        self._spent["lost"] += sum(all_told.values()) - sum(earlier.values())
        self._sinks = [] if silent else sinks(watch, folder, kept)
        self._path, self._kept, self._file = path, kept, path.open("a") if silent else None
        self._bar = tqdm(total=steps, initial=first, desc=name, unit="step", disable=silent or None)
        self._marks = collections.deque([(first, time.perf_counter())], maxlen=_RATE_REPORTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
        if self._file:
            self._file.close()
        self._bar.close()
        for sink in self._sinks:
            sink.close()

    def profiled(self, step: int, count: int, train: Callable, *inputs):
        """`train(*inputs)`, which is steps step .. step + count - 1, profiled where that was asked
        for; what a profile begins and ends with is waited for."""
        first, last = self._watch.profile_from, self._watch.profile_from + self._watch.profile_steps
        if step < last and step + count > first and not self._profiling:
            jax.block_until_ready(inputs)
            jax.profiler.start_trace(self._folder / "profile")
            self._profiling = True
        found = train(*inputs)
        if self._profiling and step + count >= last:
            jax.block_until_ready(found)
            jax.profiler.stop_trace()
            self._profiling = False
        return found

    def report(
        self, step: int, steps: int, loss: float | None, skipped: int, evaluation: dict
    ) -> None:
        """Tells of the steps since the last report.

        Args:
          loss: its mean over them, None where all were skipped.
          skipped: how many steps were skipped since the training began.
          evaluation: figures of the model after them, {} where it was not evaluated.
        """
        now = time.perf_counter()
        before, then = self._marks[-1]
        self._seconds += (now - then) / self._together
        oldest, long_ago = self._marks[0]
        rate = (step - oldest) * self._step_tokens / (now - long_ago)
        self._marks.append((step, now))
        line = {
            "step": step,
            "steps": steps,
            "loss": loss,
            "tokens_per_s": round(rate),
            "seconds": round(self._seconds, 3),
            "spent": {
                part: round(self._spent[part] + seconds / self._together, 3)
                for part, seconds in self._clock.seconds.items()
            },
            "memory_bytes": peak_memory(),
        }
        line["goodput"] = round(goodput(line["spent"]), 4)
        line |= {name: round(rate * flops, 4) for name, flops in self._mfu.items()}
        line |= {"skipped": skipped} if skipped else {}
        line |= {"evaluation": evaluation} if evaluation else {}
        self._append(line)
        told = "no loss" if loss is None else f"loss {loss:.3f}"
        told += f", {skipped} skipped" if skipped else ""
        self._bar.set_postfix_str(f"{told}, {rate:,.0f} tokens/s", refresh=False)
        self._bar.update(step - before)
        for sink in self._sinks:
            sink.write(line)

    def _append(self, line: dict) -> None:
        """The first line replaces what came after the lines kept, both at once."""
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        else:
            write_text(self._path, "".join(json.dumps(one) + "\n" for one in (*self._kept, line)))
            self._file = self._path.open("a")


def peak_memory() -> int:
    """Bytes: of the fullest device, or of the process where the devices do not tell."""
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(stats.get("peak_bytes_in_use", 0) for stats in told) or of_process


def _mfu(token_flops: tuple[int, int] | None) -> dict[str, float]:
    """What a token a second is of all devices' peak, by both definitions."""
    known = peaks.data_sheet(jax.devices()[0])
    if token_flops is None or known is None:
        return {}
    most = known[0] * jax.device_count()
    return dict(zip(("mfu_full", "mfu_causal"), (x / most for x in token_flops), strict=True))


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The whole lines of a metrics file; a last line cut short by a kill is left out.

    Raises:
      DamagedFileError: a line is not what `Telemetry` writes.
    """
    return _lines(path, path.read_bytes()) if path.exists() else []


def last_metrics(path: pathlib.Path) -> dict | None:
    """The last whole line of a metrics file, None where there is none; the rest is not read."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LINE_BYTES))
        end = file.read()
    last = [b"", *end.split(b"\n")][-2]
    return _lines(path, last + b"\n")[0] if last else None


def _lines(path: pathlib.Path, content: bytes) -> list[dict]:
    try:
        lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
        if all(line.keys() >= _FIELDS for line in lines):
            return lines
    except (ValueError, AttributeError):
        pass
    raise DamagedFileError(f"{path}: damaged; remove it and run again")


def provenance() -> dict:
    """Versions, flags, devices and the state of the code, for a report.

    `peak` is what MFU is told of: FLOP/s of one device and where the figure is from, None for a
    device that is in no table. `flags` are the variables of the environment that JAX and XLA heed.
    `git` is the commit of our own files, None where git does not track them, whoever's repository
    they lie in.
    """
    known = peaks.data_sheet(jax.devices()[0])
    ours = _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is not None
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "peak": dict(zip(("flops", "source"), known, strict=True)) if known else None,
        "flags": {name: x for name, x in sorted(os.environ.items()) if name.startswith(_HEEDED)},
        "git": _git("rev-parse", "HEAD") if ours else None,
        "git_dirty": ours and bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Of this package, and of all it requires, by itself or through others, that is installed."""
    found, names = {}, ["kstore_jax"]
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            package = metadata.distribution(name)
            found[package.name] = package.version
            required = (re.match(r"[\w.-]+", one)[0] for one in package.requires or ())
            names += dict.fromkeys(other for other in required if other not in names)
    return dict(sorted(found.items()))


def code_version(told: dict) -> str:
    """The git commit in a `provenance`, or the version of the package where there is none."""
    if told["git"] is None:
        return f"kstore_jax {told['versions']['kstore_jax']}"
    return told["git"] + "-dirty" * told["git_dirty"]


def _git(*arguments: str) -> str | None:
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
