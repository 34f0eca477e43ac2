"""Measures the rate of `kstore rewrite`, with a server on loopback that answers at once.

    pip install -e .[ask]
    python -m benchmarks.rewrite --json [--texts=100000] [--concurrency=64] [--wrong=0.05]

The command and the server (tests/writers/chat_server.py) are two processes that share the cores.

- The rate counts all answers, rejected ones too, from the first in the journal to the last.
- Memory is the peak of the command during the first tenth of the texts, and overall.
- `cpu_us_an_answer` is the processor time of the command; it holds beside other programs too.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

from tests.writers import chat_server

_CONFIG = """
from kstore_jax.pipeline.experiment import default

def get_config():
    config = default()
    config.data.variant = "single"
    return config
"""


def measure(texts: int, concurrency: int, **server: float) -> dict:
    """Rewrites one biography of each of `texts` people."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "config.py").write_text(_CONFIG, encoding="utf-8")
        with chat_server.running(**server) as address:
            started = time.perf_counter()
            command = [
                *(sys.executable, "-m", "kstore_jax.cli", "rewrite", f"--server={address}"),
                *(f"--config={folder}/config.py", f"--config.world.people={texts}"),
                *(f"--model={chat_server.MODEL}", f"--out={folder}/out"),
                f"--concurrency={concurrency}",
            ]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                progress = _watch(process, folder / "out" / "journal.jsonl", texts // 10)
                assert process.stdout is not None
                output = process.stdout.read().decode()
            used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the server is still running
            if process.returncode:
                raise RuntimeError(f"kstore rewrite: status {process.returncode}")
    rejected = re.search(r"([\d,]+) rejected", output)
    assert rejected is not None, output
    return {
        "texts": texts,
        "concurrency": concurrency,
        **progress,
        "seconds_in_all": round(time.perf_counter() - started, 1),
        "cpu_us_an_answer": round((used.ru_utime + used.ru_stime) * 1e6 / progress["answers"]),
        "rejected": int(rejected[1].replace(",", "")),
        "cores": len(os.sched_getaffinity(0)),
    }


def _watch(process: subprocess.Popen, path: pathlib.Path, tenth: int) -> dict:
    """Measures, while the journal grows, the number and rate of answers and the process's memory.

    Args:
      tenth: the number of answers after which the early peak of memory is taken.
    """
    answers = early = peak = read = 0
    samples: list[tuple[float, int]] = []  # time, answers
    while True:
        running = process.poll() is None
        if path.exists() and path.stat().st_size > read:
            with path.open("rb") as file:
                file.seek(read)
                new = file.read()
            read, answers = read + len(new), answers + new.count(b"\n")
            samples.append((time.perf_counter(), answers))
        peak = max(peak, _peak_memory(process.pid))
        early = early or (peak if answers >= tenth else 0)
        if not running:
            break
        time.sleep(0.1)
    (first, answers_at_first), (last, _) = samples[0], samples[-1]
    return {
        "answers": answers,
        "answers_per_s": round((answers - answers_at_first) / (last - first)),
        "peak_memory_mib_at_a_tenth": early,
        "peak_memory_mib": peak,
    }


def _peak_memory(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) // 1024 if peak else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--wrong", type=float, default=0.05, help="share of wrong texts")
    flags = parser.parse_args()
    result = measure(flags.texts, flags.concurrency, wrong=flags.wrong)
    lines = (f"{name:<28} {value}" for name, value in result.items())
    print(json.dumps(result) if flags.json else "\n".join(lines))


if __name__ == "__main__":
    main()
