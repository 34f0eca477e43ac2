"""How fast `kstore rewrite` takes answers from a server on loopback that writes without thinking.

    pip install -e .[ask]
    python -m benchmarks.rewrite --json [--texts=100000] [--concurrency=64] [--wrong=0.05]

The command and the server (tests/chat_server.py) are processes of their own, which share the cores.
The rate is that of answers, refused ones too, from the first one journalled to the last; memory is
the most that the command held by the first tenth of the texts, and in all. Beside other programs
`cpu_us_an_answer`, the processor time of the whole command, says what it could do alone.
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
        (folder / "config.py").write_text(_CONFIG)
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
                followed = _follow(process, folder / "out" / "journal.jsonl", texts // 10)
                said = process.stdout.read().decode()
            used = resource.getrusage(resource.RUSAGE_CHILDREN)  # the server still runs
            if process.returncode:
                raise RuntimeError(f"kstore rewrite: status {process.returncode}")
    return {
        "texts": texts,
        "concurrency": concurrency,
        **followed,
        "seconds_in_all": round(time.perf_counter() - started, 1),
        "cpu_us_an_answer": round((used.ru_utime + used.ru_stime) * 1e6 / followed["answers"]),
        "refused": int(re.search(r"([\d,]+) refused", said)[1].replace(",", "")),
        "cores": len(os.sched_getaffinity(0)),
    }


def _follow(process: subprocess.Popen, path: pathlib.Path, tenth: int) -> dict:
    """Watches the journal grow: answers, how fast they came, and the memory of the process."""
    answers, first, last, early, peak = 0, None, None, 0, 0
    at_first = read = 0
    while True:
        running = process.poll() is None
        with_file = path.exists() and path.stat().st_size > read
        if with_file:
            with path.open("rb") as file:
                file.seek(read)
                new = file.read()
            read, answers, last = read + len(new), answers + new.count(b"\n"), time.perf_counter()
            if first is None:
                first, at_first = last, answers
        peak = max(peak, _peak_memory(process.pid))
        early = early or (peak if answers >= tenth else 0)
        if not running:
            break
        time.sleep(0.1)
    return {
        "answers": answers,
        "answers_per_s": round((answers - at_first) / (last - first)),
        "peak_memory_mib_at_a_tenth": early,
        "peak_memory_mib": peak,
    }


def _peak_memory(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--wrong", type=float, default=0.05, help="share of wrong texts")
    given = parser.parse_args()
    found = measure(given.texts, given.concurrency, wrong=given.wrong)
    print(json.dumps(found) if given.json else "\n".join(f"{k:<28} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
