"""The folder of a sweep: which rows it holds, and who may write it."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import filelock

from kstore_jax.config.fields import as_dict, identity, identity_of
from kstore_jax.errors import UserError
from kstore_jax.files import PARTIAL_SUFFIX, read_json, write_json
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.graph import resolve_auto
from kstore_jax.sweep.plan import Plan

_LOCK = ".lock"


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing the files of `workdir` itself; its workers may run."""
    with filelock.FileLock(workdir / _LOCK):
        yield


def claim_workdir(
    workdir: pathlib.Path, plan: Plan, rows: Sequence[Experiment], drop_other_rows: bool = False
) -> None:
    """Makes `workdir` the folder of these rows, which may be more than before.

    A workdir with other rows is refused, since its results are somebody's record. With `drop` its
    other rows are taken out; their stages stay.

    Raises:
      UserError: it holds other rows or other files.
    """
    given = {"rows": [as_dict(experiment) for experiment in rows]}
    check_workdir(workdir, given, drop_other_rows)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock_workdir(workdir):
        if check_workdir(
            workdir, given, drop_other_rows
        ):  # the old page shows rows that are taken out
            (workdir / "report.html").unlink(missing_ok=True)
            (workdir / "results.json").unlink(missing_ok=True)
        write_json(workdir / "config.json", given)
        plan.write(workdir)


def check_workdir(workdir: pathlib.Path, given: dict, drop_other_rows: bool) -> bool:
    """Whether `workdir` holds rows that are not given.

    Raises UserError where these, or other files, forbid to claim it.
    """
    path = workdir / "config.json"
    check_is_folder("--workdir", workdir)
    files = [*workdir.iterdir()] if workdir.exists() else []
    # config.json is checked last: a process that claims the folder meanwhile writes it first
    if not all(map(_is_temporary, files)) and not path.exists():
        raise UserError(f"{workdir} is not empty and holds no run of ours; give another --workdir")
    before = read_json(path, remove=workdir) if path.exists() else {}
    differing = _lost(before, given)
    if differing and not drop_other_rows:
        raise UserError(
            f"{workdir} was made by another configuration ({differing}); give another --workdir, "
            "with --cache to share its stages, or let kstore sweep --drop take out the other rows"
        )
    return bool(differing)


def dropped_rows(workdir: pathlib.Path, rows: Sequence[Experiment]) -> list[str]:
    """The rows of `workdir` that are not among `rows`, by number and label."""
    path = workdir / "config.json"
    before = read_json(path, remove=workdir).get("rows", []) if path.exists() else []
    given = [identity(resolve_auto(row)) for row in rows]
    return [
        f"row {i} ({parse(row).label})"
        for i, row in enumerate(before)
        if all(_first_difference(identity_of(Experiment, row), one) for one in given)
    ]


def check_is_folder(flag: str, path: pathlib.Path) -> None:
    """Raises UserError where `path` cannot be a folder: it, or a folder above it, is a file."""
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise UserError(f"{flag}: {nearest} is no folder")


def _is_temporary(path: pathlib.Path) -> bool:
    return path.suffix == PARTIAL_SUFFIX or path.name == _LOCK


def _lost(before: dict, given: dict) -> str | None:
    """How a row of `before` that is not given differs from the row in its place."""
    old, new = (
        [identity_of(Experiment, row) for row in config.get("rows", [])]
        for config in (before, given)
    )
    for i, row in enumerate(old):
        if row not in new and all(_first_difference(row, other) for other in new):
            if i >= len(new):
                return f"rows: {len(old)} there, {len(new)} given"
            return _first_difference(row, new[i], f".rows.{i}")
    return None


def _first_difference(before, given, path: str = "") -> str | None:
    if isinstance(before, dict) and isinstance(given, dict):
        pairs = ((k, before.get(k), given.get(k)) for k in {**before, **given})
    elif before == given:
        return None
    else:
        return f"{path[1:]}: {before!r} there, {given!r} given"
    differences = (_first_difference(a, b, f"{path}.{name}") for name, a, b in pairs)
    return next(filter(None, differences), None)
