"""The folder of a sweep: the rows it holds, and the processes that may write it."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import filelock

from kstore_jax.config.fields import as_dict, identity, identity_of
from kstore_jax.errors import UserError
from kstore_jax.files import PARTIAL_SUFFIX, read_json, reading, write_json
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import resolve_auto, with_steps
from kstore_jax.sweep.plan import Plan

_LOCK = ".lock"
_CONFIG = "config.json"


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from writing the files of `workdir` itself; its workers may run."""
    with filelock.FileLock(workdir / _LOCK):
        yield


def claim_workdir(
    workdir: pathlib.Path, plan: Plan, rows: Sequence[Experiment], drop_other_rows: bool = False
) -> None:
    """Makes `workdir` the folder of these rows: the rows it holds already, and new ones.

    With `drop_other_rows` its other rows are removed; their stages stay.

    Raises:
      UserError: as `check_workdir`.
    """
    check_workdir(workdir, rows, drop_other_rows)
    workdir.mkdir(parents=True, exist_ok=True)
    with lock_workdir(workdir):
        if check_workdir(workdir, rows, drop_other_rows):  # results and page have removed rows
            (workdir / "report.html").unlink(missing_ok=True)
            (workdir / "results.json").unlink(missing_ok=True)
        write_json(workdir / _CONFIG, _config_of(rows))
        plan.write(workdir)


def check_workdir(workdir: pathlib.Path, rows: Sequence[Experiment], drop_other_rows: bool) -> bool:
    """Returns whether `workdir` holds other rows than these.

    Raises:
      UserError: it holds other rows, whose results somebody may need, without `drop_other_rows`;
        or it holds other files, or is a file.
    """
    check_is_folder("--workdir", workdir)
    files = [*workdir.iterdir()] if workdir.exists() else []
    # config.json is looked for last: a process that claims the folder meanwhile writes it first
    if not all(map(_is_temporary, files)) and not (workdir / _CONFIG).exists():
        raise UserError(f"{workdir} is not empty and holds no run; choose another --workdir")
    difference = _removed_row_difference(_read_config(workdir), _config_of(rows))
    if difference and not drop_other_rows:
        raise UserError(
            f"{workdir} was made by another configuration ({difference}); choose another "
            "--workdir, with --cache to share its stages, or remove its other rows with "
            "kstore sweep --drop"
        )
    return bool(difference)


def dropped_rows(workdir: pathlib.Path, rows: Sequence[Experiment]) -> list[str]:
    """Returns the rows of `workdir` that are not among `rows`, by number and label."""
    new = [identity(resolve_auto(with_steps(row))) for row in rows]
    return [
        f"row {i} ({_label(row)})"
        for i, row in enumerate(_read_config(workdir).get("rows", []))
        if all(_first_difference(identity_of(Experiment, row), other) for other in new)
    ]


def _label(row: dict) -> str:
    return row.get("name") or f"{row['data']['variant']}, seed {row['seed']}"


def check_is_folder(flag: str, path: pathlib.Path) -> None:
    """Raises UserError where `path` cannot be a folder: it, or a folder above it, is a file."""
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise UserError(f"{flag}: {nearest} is not a folder")


def _config_of(rows: Sequence[Experiment]) -> dict[str, Any]:
    """The content of `config.json`."""
    return {"rows": [as_dict(experiment) for experiment in rows]}


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / _CONFIG
    if not path.exists():
        return {}
    content = read_json(path, workdir, {"rows": list})
    with reading(path, f"remove {workdir} and run again"):
        for row in content["rows"]:
            identity_of(Experiment, row)
    return content


def _is_temporary(path: pathlib.Path) -> bool:
    return path.suffix == PARTIAL_SUFFIX or path.name == _LOCK


def _removed_row_difference(old_config: dict, new_config: dict) -> str | None:
    """How the first old row that is not among the new rows differs from the new row in its place;
    None where the new rows have every old one."""
    old, new = (
        [identity_of(Experiment, row) for row in config.get("rows", [])]
        for config in (old_config, new_config)
    )
    for i, row in enumerate(old):
        if row not in new and all(_first_difference(row, other) for other in new):
            if i >= len(new):
                return f"rows: {len(old)} in the workdir, {len(new)} in the configuration"
            return _first_difference(row, new[i], f".rows.{i}")
    return None


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first field that differs, with both values. A readout that an old row does not name is no
    difference: it is newer than the row, and only adds a stage."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = old if path.endswith(".readouts") else {**old, **new}
        pairs = ((name, old.get(name), new.get(name)) for name in names)
    elif old == new:
        return None
    else:
        return f"{path[1:]}: {old!r} in the workdir, {new!r} in the configuration"
    differences = (_first_difference(a, b, f"{path}.{name}") for name, a, b in pairs)
    return next(filter(None, differences), None)
