"""A sweep: a list of configurations over one cache of stages.

Nothing of a sweep lives in memory alone: killed at any moment and started again, it goes on from
the newest checkpoints.
"""

import gc
import itertools
import os
import pathlib
from collections.abc import Sequence

import jax

from kstore_jax.config import Experiment, as_dict
from kstore_jax.errors import UserError
from kstore_jax.files import WRITING, read_json, write_json
from kstore_jax.lab.experiment import Lab, with_dtype
from kstore_jax.lab.results import row
from kstore_jax.lab.stages import Cache, usable_cores
from kstore_jax.lab.workers import run_in_processes
from kstore_jax.train import sinks, stopping
from kstore_jax.train.telemetry import provenance


def claim(workdir: pathlib.Path, rows: Sequence[Experiment]) -> None:
    """Makes `workdir` the folder of these rows; refuses one that was made by others."""
    path = workdir / "config.json"
    plain = (as_dict(experiment) for experiment in rows)
    given = {"rows": [{k: v for k, v in row.items() if k != "mesh"} for row in plain]}
    if path.exists():
        differing = _first_difference(read_json(path, remove=workdir), given)
        if differing:
            raise UserError(
                f"{workdir} was made by another configuration ({differing}); "
                "give another --workdir, or remove it"
            )
        return
    if workdir.exists() and any(p.suffix != WRITING for p in workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and holds no run of ours; give another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, given)


def _first_difference(there, given, path: str = "") -> str | None:
    if isinstance(there, dict) and isinstance(given, dict):
        pairs = ((k, there.get(k), given.get(k)) for k in {**there, **given})
    elif isinstance(there, list) and isinstance(given, list) and len(there) == len(given):
        pairs = zip(itertools.count(), there, given)
    elif isinstance(there, list) and isinstance(given, list):
        return f"{path[1:]}: {len(there)} there, {len(given)} asked for"
    elif there == given:
        return None
    else:
        return f"{path[1:]}: {there!r} there, {given!r} asked for"
    found = (_first_difference(a, b, f"{path}.{name}") for name, a, b in pairs)
    return next(filter(None, found), None)


def default_workers(rows: int) -> int:
    """One worker a row, as far as there are cores; one where an accelerator would be shared."""
    if jax.default_backend() != "cpu":
        return 1
    return min(rows, len(usable_cores()))


def run(
    workdir: pathlib.Path,
    rows: Sequence[Experiment],
    workers: int,
    cache: pathlib.Path | None = None,
) -> list[dict]:
    """Computes every row that is not done, `workers` at a time, and writes `results.json`.

    Args:
      cache: the folder of the stages, which several workdirs may share; `workdir / "stages"` where
        none is given.

    Raises:
      UserError: an experiment is impossible, `workdir` holds something else, or several workers
        would open one accelerator; nothing is written.
      DamagedFileError: a file in `workdir` or `cache` is not as it was written.
      Stopped: the process got SIGTERM; the trainings under way wrote a checkpoint.
    """
    stopping.listen()
    backend = jax.default_backend()
    if workers > 1 and backend != "cpu":
        raise UserError(
            f"workers: expected 1 on {backend}, where each would open every device, got {workers}"
        )
    stages = Cache(cache or workdir / "stages")
    labs = [Lab(with_dtype(experiment), stages) for experiment in rows]
    for lab in labs:
        sinks.check(lab.experiment.telemetry)
        lab.check()
    claim(workdir, [lab.experiment for lab in labs])
    waiting = {f"row-{i}": lab for i, lab in enumerate(labs) if not lab.done}
    workers = min(workers, len(rows))
    if workers > 1 and waiting:
        run_in_processes(workdir, waiting, workers)
    found = [_finished(lab.experiment, stages) for lab in labs]
    # from the workdir, so that a folder with both in it may be moved
    where = os.path.relpath(stages.root.resolve(), workdir.resolve())
    results = {"rows": found, "stages": where, "provenance": provenance()}
    write_json(workdir / "results.json", results)
    return found


def _finished(experiment: Experiment, stages: Cache) -> dict:
    """The row of an experiment, computed here where it is not done, by a Lab that ends with it."""
    gc.collect()  # frees the parameters of the Lab before: its stages and it hold each other
    lab = Lab(experiment, stages)
    lab.run()
    return row(lab)
