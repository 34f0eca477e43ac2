"""The work of `kstore facts`."""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from kstore_jax.cli.flags import parse_arguments, require_flags
from kstore_jax.errors import UserError, user_path


def facts(argv: Sequence[str], values: flags.FlagValues) -> None:
    arguments = parse_arguments(argv, values)
    if len(arguments) != 1:
        got = f", got {' '.join(arguments)}" if arguments else ""
        raise UserError(f"facts: expected one table, .csv, .tsv, .jsonl or .parquet{got}")
    require_flags(values, out="a folder such as worlds/films")
    from kstore_jax.corpus.facts import write_world

    def columns(flag: str) -> Any:
        return [column for column in values[flag].value or () if column]

    report = write_world(
        user_path(arguments[0]),
        pathlib.Path(values.out),
        columns("name"),
        columns("attributes"),
        values.noun or "",
        values.separator or "",
    )
    print(report.json() if values.json else report.text())
