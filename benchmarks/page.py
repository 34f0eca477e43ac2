"""Measures the page of many runs: its size, and the seconds to write and to open it.

    python -m benchmarks.page runs/quickstart --runs=50 [--repeat=5] [--json]

The rows of a finished run are repeated, each with another number of finetuning steps, so that each
has tables and charts of its own. Opening lasts from the request to the end of the load event, when
the page is laid out and its script has run. It needs Chromium.
"""

import argparse
import itertools
import json
import pathlib
import shutil
import statistics
import tempfile
import time

from kstore_jax.files import read_json, write_json
from kstore_jax.report import page as report


def multiplied(run: pathlib.Path, runs: int, out: pathlib.Path) -> None:
    """Writes results of `runs` rows to `out`, with the numbers of the rows of `run`."""
    results, rows = read_json(run / "results.json"), []
    for i, row in enumerate(itertools.islice(itertools.cycle(results["rows"]), runs)):
        config = row["config"]
        finetune = {**config["finetune"], "steps": config["finetune"]["steps"] + i}
        rows.append({**row, "config": {**config, "finetune": finetune}})
    write_json(out / "results.json", {**results, "rows": rows})


def opening_seconds(page: pathlib.Path, repeat: int) -> list[float]:
    """The seconds of each of `repeat` openings in one browser, after one to warm up."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
        seconds = []
        for _ in range(repeat + 1):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            seconds.append(tab.evaluate(loaded))
            tab.close()
        browser.close()
    return seconds[1:]


def measure(run: pathlib.Path, runs: int, repeat: int) -> dict:
    """Size, seconds to write, and the median and the slowest seconds to open."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        multiplied(run, runs, out)
        before = time.perf_counter()
        page = report.write([out], out)
        written = time.perf_counter() - before
        opened = opening_seconds(page, repeat)
        return {
            "runs": runs,
            "figures": len(list((out / "figures").iterdir())),
            "megabytes": round(page.stat().st_size / 1e6, 2),
            "write_s": round(written, 1),
            "open_s": round(statistics.median(opened), 2),
            "slowest_open_s": round(max(opened), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    measured = measure(flags.run, flags.runs, flags.repeat)
    if flags.json:
        print(json.dumps(measured))
    else:
        print("\n".join(f"{name:<16} {value:>10,}" for name, value in measured.items()))


if __name__ == "__main__":
    main()
