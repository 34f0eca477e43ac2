"""The rows of a sweep, and how they are put together in a configuration file.

A row is a tuple of (dotted field, value); `__` stands for the dot where a field is a keyword. Every
function gives rows and takes the rows that others gave, so that a product of zips is one line:

>>> sizes = zipped(model__width=[64, 128], pretrain__steps=[100, 200])
>>> product(sizes, seed=[0])  # doctest: +NORMALIZE_WHITESPACE
((('model.width', 64), ('pretrain.steps', 100), ('seed', 0)),
 (('model.width', 128), ('pretrain.steps', 200), ('seed', 0)))
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

Row = tuple[tuple[str, Any], ...]
Rows = tuple[Row, ...]


def row(name: str, **fields: Any) -> Rows:
    """One row with a name, which results and page show; `fields` may be empty.

    >>> chain(row("default"), row("wide", model__width=1024))
    ((('name', 'default'),), (('name', 'wide'), ('model.width', 1024)))
    """
    return (_joined([(("name", name),), *(((_dotted(f), v),) for f, v in fields.items())]),)


def product(*rows: Rows, **fields: Sequence) -> Rows:
    """Every combination of the given rows and of the values of fields, the last varying fastest.

    >>> product(data__variant=["single", "multi5"], seed=[0])
    ((('data.variant', 'single'), ('seed', 0)), (('data.variant', 'multi5'), ('seed', 0)))

    Raises:
      ValueError: a combination has a field twice, but for names, which are joined; or what is given
        for a field is no list, or an empty one.
    """
    return tuple(map(_joined, itertools.product(*rows, *_of_fields(fields))))


def zipped(*rows: Rows, **fields: Sequence) -> Rows:
    """The first of each together, the second of each together, and so on.

    >>> zipped(seed=[0, 1], data__variant=["single", "multi5"])
    ((('seed', 0), ('data.variant', 'single')), (('seed', 1), ('data.variant', 'multi5')))

    Raises:
      ValueError: there are not as many of each; or as for `product`.
    """
    columns = [*rows, *_of_fields(fields)]
    counts = [len(column) for column in columns]
    if len(set(counts)) > 1:
        raise ValueError(f"zipped: expected as many of each, got {', '.join(map(str, counts))}")
    return tuple(map(_joined, zip(*columns, strict=True)))


def chain(*rows: Rows) -> Rows:
    """The rows of each, one after the other.

    >>> chain(product(seed=[0, 1]), product(model__layers=[4]))
    ((('seed', 0),), (('seed', 1),), (('model.layers', 4),))
    """
    return tuple(itertools.chain(*rows))


def _of_fields(fields: dict[str, Sequence]) -> list[Rows]:
    found = []
    for name, values in fields.items():
        field = _dotted(name)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"{field}: expected a list of values, got {values!r}")
        found.append(tuple(((field, value),) for value in values))
        if not found[-1]:
            raise ValueError(f"{field}: expected at least one value")
    return found


def _dotted(field: str) -> str:
    return field.replace("__", ".")


def _joined(rows: Iterable[Row]) -> Row:
    """One row of several, with the names of all."""
    joined: dict[str, Any] = {}
    for field, value in itertools.chain(*rows):
        if field in joined and field != "name":
            raise ValueError(f"sweep: {field} is given twice, {joined[field]!r} and {value!r}")
        joined[field] = f"{joined[field]}, {value}" if field in joined else value
    return tuple(joined.items())
