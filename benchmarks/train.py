"""Training steps of kstore_jax and of PyTorch programs, side by side on this machine.

    pip install -e .[bench]
    python -m benchmarks.train --json [--rounds=5] [--beside]
    python -m benchmarks.train --json --layers=12 --width=768 --heads=12 --window=512 --batch=32 \
        --vocabulary=50304 --device=gpu --compile --dtype=bfloat16

Every competitor lives in a process of its own and waits while another is measured; a round measures
each once, in turn, so that what disturbs the machine disturbs all. Tokens a second are medians over
the rounds; a ratio is the median of the ratios within a round. With more runnable threads than
processors the figures say who waits worse, not who computes faster: use a machine of one's own.
`--beside` measures that too: one processor is kept busy by a loop. `machine` in the output
describes the machine (`benchmarks/machine.py`).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks import machine
from benchmarks.shape import Shape

OURS = "kstore_jax"
PEERS = ("PyTorch GPT", "Hugging Face GPT-2")
DTYPES = ("float32", "bfloat16")
_SECONDS = 2.0  # that one measurement should take
DISPATCH = 5  # steps a call of ours; on a CPU each call touches its memory anew, which takes time
_PAUSE = 0.3  # between measurements: threads of the one before stop waiting for work


def training_steps(name: str, shape: Shape, dtype: str):
    """The competitor: `run(calls)` gives seconds, of `steps_a_call` steps each; `parameters` is how
    many numbers are trained."""
    if name == OURS:
        from kstore_jax.bench.train import TrainingSteps
        from kstore_jax.model import transformer
        from kstore_jax.pipeline.experiment import Pretrain

        sizes = {field: getattr(shape, field) for field in ("vocabulary", "layers", "heads")}
        ours = transformer.Shape(width=shape.width, dtype=dtype, **sizes)
        batch = {"batch_size": shape.batch, "seq_len": shape.window}
        return TrainingSteps(ours, Pretrain(**batch, steps_per_call=DISPATCH))
    from benchmarks import peers

    network = peers.GPT if name == PEERS[0] else peers.HuggingFace
    return peers.TrainingSteps(network, shape, dtype)


def work(name: str, shape: Shape, dtype: str) -> None:
    """The process of one competitor: reads how many calls to run, answers in seconds."""
    if shape.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: shape.threads])
    steps = training_steps(name, shape, dtype)
    steps.run(2)
    tokens = steps.steps_a_call * shape.batch * shape.window
    ready = {"parameters": steps.parameters, "call_s": steps.run(2) / 2, "call_tokens": tokens}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(steps.run(int(line))), flush=True)


class Competitor:
    """A process that runs training steps when asked to."""

    def __init__(self, name: str, shape: Shape, dtype: str):
        self.name, self.dtype = name, dtype
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train", *_as_flags(shape), f"--work={name}:{dtype}"],
            env=_environment(shape),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        ready = self._answer()
        self.parameters = ready["parameters"]
        self._calls = max(1, round(_SECONDS / ready["call_s"]))
        self._tokens = self._calls * ready["call_tokens"]

    def tokens_per_s(self) -> float:
        time.sleep(_PAUSE)
        self._process.stdin.write(f"{self._calls}\n")
        self._process.stdin.flush()
        return self._tokens / self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmarks.train: {self.name} in {self.dtype} ended early")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _environment(shape: Shape) -> dict[str, str]:
    """Several competitors share a GPU's memory, and on a CPU none takes the GPU."""
    platform = {"JAX_PLATFORMS": "cpu"} if shape.device == "cpu" else {}
    return {**os.environ, **platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def _as_flags(shape: Shape) -> list[str]:
    given = dataclasses.asdict(shape)
    compiled = ["--compile"] if given.pop("compile") else []
    return [f"--{name}={value}" for name, value in given.items()] + compiled


@contextlib.contextmanager
def busy_processor() -> Iterator[None]:
    """Keeps one processor busy."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def compare(shape: Shape, rounds: int, dtypes: Sequence[str] = DTYPES) -> list[dict]:
    """One row a competitor: name, dtype, tokens_per_s, ratio_to_best_peer of the same dtype."""
    competitors = [Competitor(name, shape, dtype) for dtype in dtypes for name in (OURS, *PEERS)]
    rates = [[each.tokens_per_s() for each in competitors] for _ in range(rounds)]
    for each in competitors:
        each.close()
    names = [(each.name, each.dtype) for each in competitors]
    found = dict(zip(names, zip(*rates, strict=True), strict=True))
    return [row(each.name, each.dtype, each.parameters, found) for each in competitors]


def row(name: str, dtype: str, parameters: int, rates: dict[tuple, tuple]) -> dict:
    """`rates`: (name, dtype) -> tokens/s of every round."""
    own = rates[name, dtype]
    best = max((rates[peer, dtype] for peer in PEERS), key=statistics.median)
    ratios = [a / b for a, b in zip(own, best, strict=True)]
    return {
        "name": name,
        "dtype": dtype,
        "tokens_per_s": round(statistics.median(own)),
        "ratio_to_best_peer": round(statistics.median(ratios), 3),
        "parameters": parameters,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", action="store_true", help="beside a busy processor")
    parser.add_argument("--dtype", choices=DTYPES, help="this one alone: half of the memory")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    for field in dataclasses.fields(Shape):
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
    return parser.parse_args()


def main() -> None:
    given = vars(_arguments())
    as_json, rounds, dtype, worker = (given.pop(x) for x in ("json", "rounds", "dtype", "work"))
    beside = given.pop("beside")
    shape = Shape(**given)
    if worker:
        name, dtype = worker.split(":")
        work(name, shape, dtype)
        return
    this_machine = machine.describe(shape.threads)
    with busy_processor() if beside else contextlib.nullcontext():
        rows = compare(shape, rounds, [dtype] if dtype else DTYPES)
    if as_json:
        conditions = {"shape": given, "rounds": rounds, "beside": beside, "machine": this_machine}
        print(json.dumps({**conditions, "rows": rows}))
        return
    print(json.dumps(this_machine))
    for each in rows:
        row = f"{each['name']:<20} {each['dtype']:<9} {each['tokens_per_s']:>9,} tokens/s"
        print(f"{row}  {each['ratio_to_best_peer']:.2f} of the best peer")


if __name__ == "__main__":
    main()
