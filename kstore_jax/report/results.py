"""Reads and checks `results.json` and `config.json` of a finished run."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Collection, Sequence

from kstore_jax.config.registry import MissingPlugin, import_plugins
from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.results import SCHEMA
from kstore_jax.readouts.base import READOUTS
from kstore_jax.tasks.base import TASKS


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
      rows: rows of `results.json`, as `pipeline.results.result_row` returns them.
      configs: the configuration of each row; None where `config.json` lacks it.
      stages: the folder of the stages.
      provenances: of the stages, as `provenance.provenance` returns them.
      failed: number and name of each row that failed.
      missing: a line for each plug-in of the run that is not there.
    """

    rows: list[dict]
    configs: list[Experiment] | None
    stages: pathlib.Path
    provenances: list[dict]
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def read_results(run: pathlib.Path) -> Results:
    """`results.json`, checked; its stages are in `run` unless it names another folder. Imports the
    plug-ins of the run that can be imported.

    Raises:
      UserError: the file is missing or has no rows, or a plug-in fails.
      DamagedFileError: it is not as `sweep.run` wrote it.
    """
    path = run / "results.json"
    try:
        results = _parse(run, path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no results here; run `kstore run` first") from None
    except UnicodeDecodeError:
        raise _damaged(path, "not text") from None
    except KeyError as error:
        raise _damaged(path, f"{error.args[0]} is missing") from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, error) from None
    if not results.rows:
        raise UserError(f"{path}: no results here; run `kstore run` first")
    return results


def _damaged(path: pathlib.Path, fault: object) -> DamagedFileError:
    return DamagedFileError(f"{path}: damaged ({fault}); `kstore run` writes it again")


def _parse(run: pathlib.Path, text: str) -> Results:
    content = json.loads(text)
    if content["rows"] and (schema := content.get("schema", 1)) != SCHEMA:
        raise UserError(
            f"{run / 'results.json'}: schema {schema}, expected {SCHEMA}; `kstore sweep` with the "
            "configuration of the run writes it again"
        )
    config_rows = _read_config_rows(run)
    missing = _import_plugins(config_rows)
    for row in content["rows"]:
        _check_row(row)
    failed = {int(row["row"]): str(row["name"]) for row in content.get("failed", ())}
    readable = [_known_part(row, missing) if missing else row for row in config_rows]
    return Results(
        rows=list(content["rows"]),
        configs=_parse_configs(readable, content["rows"], failed),
        stages=run / content.get("stages", "stages"),
        provenances=[dict(one) for one in content.get("provenance", ())],
        failed=tuple(f"row {i} ({name})" for i, name in failed.items()),
        missing=tuple(f"{e}; its results are in results.json only" for e in missing.values()),
    )


def _read_config_rows(run: pathlib.Path) -> list[dict]:
    """The rows of `config.json`; none where it is missing or damaged."""
    try:
        return [
            dict(row)
            for row in json.loads((run / "config.json").read_text(encoding="utf-8"))["rows"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _import_plugins(config_rows: Sequence[dict]) -> dict[str, MissingPlugin]:
    """Imports the plug-ins of all rows; returns the errors of those that are not there."""
    missing = {}
    for row in config_rows:
        for name in row.get("plugins", ()):
            try:
                import_plugins([name], row.get("plugin_folders", ()))
            except MissingPlugin as error:
                missing[name] = error
    return missing


def _known_part(row: dict, missing: Collection[str]) -> dict:
    """A row of `config.json` without missing plug-ins, and without unknown readouts and tasks."""
    readable = {
        section: {name: fields for name, fields in row.get(section, {}).items() if name in registry}
        for section, registry in (("readouts", READOUTS), ("tasks", TASKS))
    }
    return {**row, **readable, "plugins": [name for name in row["plugins"] if name not in missing]}


def _parse_configs(
    config_rows: Sequence[dict], rows: Sequence[dict], failed: Collection[int]
) -> list[Experiment] | None:
    """The configuration of each row that did not fail; None where `config.json` has other rows."""
    try:
        configs = [parse(row) for i, row in enumerate(config_rows) if i not in failed]
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
    names = [(config.data.variant, config.seed) for config in configs]
    return configs if names == [(row["dataset"], row["seed"]) for row in rows] else None


def _check_row(row: dict) -> None:
    _check_text("name", row.get("name", ""))
    _check_text("dataset", row["dataset"])
    for name in ("seed", "people", "parameters", "vocabulary", "exposures", "seconds"):
        _check_number(name, row[name])
    for name, value in row["seconds_by_stage"].items():
        _check_number(f"seconds_by_stage.{name}", value)
    for name, label in row["attributes"].items():
        _check_text(f"attributes.{name}", label)
    _check_share("goodput", row.get("goodput", 0.0))
    _check_mixed(row["mixed"])
    for code in row.get("code", ()):
        _check_text("code", code)
    for name, result in row["readouts"].items():
        _check_numbers(f"readouts.{name}", result)
        if name in READOUTS:
            for column, share in READOUTS[name].numbers(result).items():
                if share is not None:
                    _check_share(f"readouts.{name}: {column}", share)


def _check_numbers(name: str, value: object) -> None:
    """Raises ValueError where a number in a nested value is not finite."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_numbers(f"{name}.{key}", part)
    elif isinstance(value, list):
        for part in value:
            _check_numbers(name, part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, got {value!r}")


def _check_mixed(beside: dict) -> None:
    if "rewritten" in beside:
        _check_text("mixed.rewritten", beside["rewritten"])
    if "celebrities" in beside:
        _check_number("mixed.celebrities", beside["celebrities"])
        _check_share("mixed.celebrity_share", beside["celebrity_share"])
        _check_text("mixed.celebrity_variant", beside["celebrity_variant"])
    if "text" in beside:
        _check_share("mixed.text_share", beside["text_share"])
    _check_share("mixed.qa_share", beside.get("qa_share", 0.0))


def _check_share(name: str, value: object) -> None:
    if not 0.0 <= _check_number(name, value) <= 1.0:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {value!r}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {value!r}")


def _check_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    return value
