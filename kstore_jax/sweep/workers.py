"""Computes rows in worker processes of this machine, each bound to its share of the cores.

A worker is `python -m kstore_jax.sweep.workers WORKDIR ROW CACHE`. It ends when the process that
started it ends in any way, because its standard input closes.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from kstore_jax.config.fields import as_dict
from kstore_jax.errors import Stopped, UserError, run_guarded
from kstore_jax.files import read_json, write_json
from kstore_jax.pipeline.cores import usable_cores
from kstore_jax.pipeline.experiment import parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.train import preemption
from kstore_jax.train.progress import ProgressBar
from kstore_jax.train.telemetry import METRICS, last_metrics

_POLL_SECONDS = 0.5
_SECONDS_TO_STOP = 120.0  # until a worker is killed; its checkpoint may wait for a compilation


def write_experiments(workdir: pathlib.Path, waiting: dict[int, ExperimentGraph]) -> None:
    """Writes the experiment of each waiting row, by number, for its worker to read."""
    folder = workdir / "workers"
    folder.mkdir(exist_ok=True)
    for row, graph in waiting.items():
        write_json(folder / f"row-{row}.json", as_dict(graph.experiment))


def run_in_processes(
    workdir: pathlib.Path, waiting: dict[int, ExperimentGraph], workers: int
) -> dict[int, UserError]:
    """Computes the rows `waiting`, by number, at most `workers` at a time; shows their progress.

    `write_experiments` has written their experiments before.

    A row's share of the cores depends on `workers` alone, not on the number of waiting rows: XLA's
    sums depend on the number of threads, and a resumed sweep has to end as an undisturbed one.

    Returns: the errors of failed rows, by number, with the exit statuses of their workers.

    Raises:
      UserError: a worker was killed; its status has the signal. The others are stopped.
      Stopped: a worker got SIGTERM. The others are stopped.
    """
    folder = workdir / "workers"
    todo, failed, running = list(waiting), {}, {}
    free_cores = _shares_of_cores(workers)
    bars = {row: RowProgress(graph, place) for place, (row, graph) in enumerate(waiting.items())}
    with contextlib.ExitStack() as at_end:
        stop_requested = at_end.enter_context(preemption.defer_sigterm())
        at_end.callback(_stop, running)
        for bar in bars.values():
            at_end.callback(bar.close)
        while todo or running:
            if stop_requested():
                raise Stopped
            while todo and free_cores:
                row, cores = todo.pop(0), free_cores.pop()
                running[row] = _start(workdir, row, waiting[row].cache, cores), cores
            time.sleep(_POLL_SECONDS)
            for row, (process, cores) in list(running.items()):
                bars[row].show()
                if process.poll() is not None:
                    process.communicate()  # closes its standard input
                    del running[row]
                    free_cores.append(cores)
                    if process.returncode in (Stopped.status, -signal.SIGTERM):
                        raise Stopped
                    if process.returncode:
                        failed[row] = _worker_error(folder / f"row-{row}.log", process.returncode)
                    if process.returncode < 0:
                        raise failed[row]
    return failed


def _stop(running: dict[int, tuple[subprocess.Popen, set[int]]]) -> None:
    """Ends workers; each writes a checkpoint first."""
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_STOP)
        process.kill()
        process.communicate()


def _shares_of_cores(workers: int) -> list[set[int]]:
    """The usable cores in equal shares; with fewer cores than workers, shares of one overlap."""
    cores = usable_cores()
    size = max(1, len(cores) // workers)
    return [{cores[(i * size + k) % len(cores)] for k in range(size)} for i in range(workers)]


def _start(workdir: pathlib.Path, row: int, cache: Cache, cores: set[int]) -> subprocess.Popen:
    is_first = os.getcwd() == sys.path[0]  # true under -m, not under the command kstore
    python = [sys.executable, *(() if is_first else ("-P",))]
    arguments = map(str, (workdir, row, cache.root))
    command = [*python, "-m", "kstore_jax.sweep.workers", *arguments]
    with (workdir / "workers" / f"row-{row}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores)
    return process


def _worker_error(log: pathlib.Path, status: int) -> UserError:
    """The last error of a worker, with its status, or 128 + N where signal N killed it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    messages = [line.removeprefix("kstore: ") for line in lines if line.startswith("kstore: ")]
    end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    message = messages[-1] if messages and status > 0 else f"a worker {end}"
    return UserError(f"{message} (its output: {log})", status if status > 0 else 128 - status)


class RowProgress:
    """Shows the current training of a row, from the metrics its worker writes."""

    def __init__(self, graph: ExperimentGraph, position: int):
        """Draws the bar on line `position` below the cursor."""
        self._label = graph.experiment.label
        self._cache = graph.cache
        self._unfinished = list(graph.stages)
        interval = 0.1 if sys.stderr.isatty() else 30.0
        self._bar = ProgressBar(self._label, position=position, mininterval=interval)

    def show(self) -> None:
        """Shows the newest metrics of the first unfinished stage."""
        while self._unfinished and self._cache.result(self._unfinished[0]) is not None:
            del self._unfinished[0]
        if not self._unfinished:
            return
        stage = self._unfinished[0]
        if (line := last_metrics(self._cache.folder(stage) / METRICS)) is not None:
            self._bar.show(line, f"{self._label}: {stage.kind}")

    def close(self) -> None:
        self._bar.close()


def _end_with_parent() -> None:
    """Ends this process when its standard input closes."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main() -> None:
    """Computes one row of the sweep in WORKDIR."""
    preemption.handle_sigterm()
    workdir, row, cache = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    experiment = parse(read_json(workdir / "workers" / f"row-{row}.json"))
    Runner(ExperimentGraph(experiment, Cache(cache))).run()


if __name__ == "__main__":
    sys.exit(run_guarded(main))
