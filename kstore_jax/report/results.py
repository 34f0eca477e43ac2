"""Reads and checks `results.json` of a finished run."""

import dataclasses
import json
import pathlib

from kstore_jax.config.registry import MissingPlugin, import_plugins
from kstore_jax.errors import UserError
from kstore_jax.files import reading
from kstore_jax.pipeline.row import SCHEMA, Row, check_share
from kstore_jax.readouts.measured import values_at
from kstore_jax.report.groups import ANSWERS, RECALL, TRAINED_ANSWERS, has


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
      rows: one of each experiment that did not fail.
      provenances: of the stages, as `provenance.provenance` returns them.
      failed: number and name of each row that failed.
      missing: a line for each plug-in of the run that is not there.
    """

    rows: list[Row]
    provenances: list[dict]
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def read_results(run: pathlib.Path) -> Results:
    """`results.json`, checked. Imports the plug-ins of the run that can be imported.

    Raises:
      UserError: the file is missing or has no rows, or a plug-in fails.
      DamagedFileError: it is not as `sweep.run` wrote it.
    """
    path = run / "results.json"
    try:
        with reading(path, "`kstore run` writes it again"):
            results = _parse(run, path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no results here; run `kstore run` first") from None
    if not results.rows:
        raise UserError(f"{path}: no results here; run `kstore run` first")
    return results


def _parse(run: pathlib.Path, text: str) -> Results:
    content = json.loads(text)
    if content["rows"] and (schema := content.get("schema", 1)) != SCHEMA:
        raise UserError(
            f"{run / 'results.json'}: schema {schema}, expected {SCHEMA}; `kstore sweep` with the "
            "configuration of the run writes it again"
        )
    missing: dict[str, MissingPlugin] = {}
    rows = [_read_row(i, row, missing) for i, row in enumerate(content["rows"])]
    failed = {int(row["row"]): str(row["name"]) for row in content.get("failed", ())}
    return Results(
        rows=rows,
        provenances=[dict(one) for one in content.get("provenance", ())],
        failed=tuple(f"row {i} ({name})" for i, name in failed.items()),
        missing=tuple(f"{e}; its results are in results.json only" for e in missing.values()),
    )


def _read_row(number: int, value: object, missing: dict[str, MissingPlugin]) -> Row:
    """A row, checked, whose plug-ins are imported; `missing` gets those that are not there."""
    try:
        row = Row.from_json(value)
        for name in row.plugins:
            try:
                import_plugins([name], row.plugin_folders)
            except MissingPlugin as error:
                missing[name] = error
        _check_shares(row)
    except KeyError as error:
        raise ValueError(f"row {number}: {error.args[0]} is missing") from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"row {number}: {error}") from None
    return row


def _check_shares(row: Row) -> None:
    """Raises an error where a readout's result is not as its `run` returns it, or lacks a share
    that every page shows."""
    row.lines()
    for path in (RECALL, ANSWERS, TRAINED_ANSWERS):
        if has(row, path[0]):
            (share,) = values_at((row.readouts,), path)
            check_share(share, ".".join(("readouts", *path)))
