"""The metrics of a running training: metrics.jsonl and the progress bar."""

import collections
import json
import os
import pathlib
import resource
import time
from collections.abc import Callable
from typing import Self

import jax

from kstore_jax.errors import DamagedFileError
from kstore_jax.files import errors_named, write_text
from kstore_jax.train import flops as flop_counts
from kstore_jax.train.config import TelemetryConfig
from kstore_jax.train.distributed import is_first
from kstore_jax.train.progress import ProgressBar
from kstore_jax.train.timing import PHASES, PhaseTimer, goodput
from kstore_jax.train.trackers import Trackers

METRICS = "metrics.jsonl"
_RATE_REPORTS = 16  # reports over which tokens/s is averaged
_LINE_BYTES = 4096  # more than a line needs
_FIELDS = {"step", "loss", "seconds"}


class Telemetry:
    """Writes a line of `metrics.jsonl` a report, and shows step, loss, tokens/s and time left.

    Other processes read a stage's progress from this file. The first line of a resumed training
    replaces the lines after its checkpoint; their time counts as `lost`. Of several processes the
    first one reports.

    A line has:

    - `step`, of `steps`; the mean `loss` since the previous line; the `learning_rate` of the last
      step; `grad_norm`, the mean norm of the gradient before clipping; `tokens_per_s`.
    - `seconds` of training over all restarts, `spent` by phase (`timing.PHASES`), an equal share
      each of models trained together; `goodput`: the share spent on steps that were not repeated.
    - `memory_bytes`: the peak of the fullest device, or of the process.
    - `mfu_full` and `mfu_causal`, where the data sheet of the device is known.
    - `skipped` steps so far and the `evaluation`, where there are some.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str,
        first: int,
        steps: int,
        step_tokens: int,
        token_flops: tuple[int, int] | None,
        timer: PhaseTimer,
        config: TelemetryConfig,
        num_models: int = 1,
    ):
        self._step_tokens = step_tokens
        self._folder, self._config, self._profiling = folder, config, False
        self._timer, self._together = timer, num_models
        self._mfu = _mfu(token_flops)
        silent = not is_first()
        path = folder / METRICS if not silent else pathlib.Path(os.devnull)
        lines = read_metrics(path)
        resumed = [line for line in lines if line["step"] <= first]
        self._seconds = resumed[-1]["seconds"] if resumed else 0.0
        before, spent = (some[-1].get("spent", {}) if some else {} for some in (resumed, lines))
        self._spent = dict.fromkeys(PHASES, 0.0) | before
        self._spent["lost"] += sum(spent.values()) - sum(before.values())
        self._trackers = Trackers(TelemetryConfig() if silent else config, folder, resumed)
        self._path, self._resumed, self._file = (
            path,
            resumed,
            path.open("a", encoding="utf-8") if silent else None,
        )
        self._bar = ProgressBar(name, total=steps, initial=first, disable=silent or None)
        self._marks = collections.deque([(first, time.perf_counter())], maxlen=_RATE_REPORTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        if self._profiling:
            jax.profiler.stop_trace()
        if self._file:
            self._file.close()
        self._bar.close()
        self._trackers.close()

    def profiled(self, step: int, count: int, train: Callable, *inputs):
        """Runs `train(*inputs)`, the steps step .. step + count - 1, under the profiler where the
        configuration says so; waits for the first and last profiled steps."""
        first = self._config.profile_from
        last = first + self._config.profile_steps
        if step < last and step + count > first and not self._profiling:
            jax.block_until_ready(inputs)
            jax.profiler.start_trace(self._folder / "profile")
            self._profiling = True
        outputs = train(*inputs)
        if self._profiling and step + count >= last:
            jax.block_until_ready(outputs)
            jax.profiler.stop_trace()
            self._profiling = False
        return outputs

    def report(
        self,
        step: int,
        steps: int,
        loss: float | None,
        learning_rate: float,
        grad_norm: float | None,
        skipped: int,
        evaluation: dict,
    ) -> None:
        """Logs the steps since the last report.

        Args:
          loss: mean over them, None where all were skipped.
          learning_rate: of the last of them.
          grad_norm: the mean norm of their gradients before clipping, None where all were skipped.
          skipped: steps skipped since the training began.
          evaluation: metrics of the model after them, {} where it was not evaluated.
        """
        now = time.perf_counter()
        _, then = self._marks[-1]
        self._seconds += (now - then) / self._together
        oldest, long_ago = self._marks[0]
        rate = (step - oldest) * self._step_tokens / (now - long_ago)
        self._marks.append((step, now))
        line = {
            "step": step,
            "steps": steps,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "tokens_per_s": round(rate),
            "seconds": round(self._seconds, 3),
            "spent": {
                part: round(self._spent[part] + seconds / self._together, 3)
                for part, seconds in self._timer.seconds.items()
            },
            "memory_bytes": peak_memory(),
        }
        line["goodput"] = round(goodput(line["spent"]), 4)
        line |= {name: round(rate * flops, 4) for name, flops in self._mfu.items()}
        line |= {"skipped": skipped} if skipped else {}
        line |= {"evaluation": evaluation} if evaluation else {}
        self._append(line)
        self._bar.show(line)
        self._trackers.write(line)

    def _append(self, line: dict) -> None:
        """Appends a line; the first one replaces the lines after the checkpoint, atomically."""
        if self._file:
            with errors_named(self._path):
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
        else:
            write_text(
                self._path, "".join(json.dumps(one) + "\n" for one in (*self._resumed, line))
            )
            self._file = self._path.open("a", encoding="utf-8")


def peak_memory() -> int:
    """Peak bytes of the fullest device, or of the process where devices do not report it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(one.get("peak_bytes_in_use", 0) for one in stats) or of_process


def _mfu(token_flops: tuple[int, int] | None) -> dict[str, float]:
    """The share of all devices' peak that one token a second takes, by both definitions."""
    peak = flop_counts.data_sheet_peak(jax.devices()[0])
    if token_flops is None or peak is None:
        return {}
    total = peak[0] * jax.device_count()
    return dict(zip(("mfu_full", "mfu_causal"), (x / total for x in token_flops), strict=True))


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


def _is_line(line: object) -> bool:
    """Whether a line has the numbers of every line; a loss that is not finite is None."""
    if not isinstance(line, dict) or not line.keys() >= _FIELDS:
        return False
    spent = line.get("spent", {})
    if not isinstance(spent, dict):
        return False
    numbers = (line["step"], line.get("steps", 0), line["seconds"], line["loss"] or 0.0)
    return all(isinstance(number, int | float) for number in (*numbers, *spent.values()))


def _lines(path: pathlib.Path, content: bytes) -> list[dict]:
    try:
        lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
        if all(_is_line(line) for line in lines):
            return lines
    except (ValueError, RecursionError):
        pass
    raise DamagedFileError(f"{path}: damaged; remove it and run again")
