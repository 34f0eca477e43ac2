"""Rows of a sweep, combined by product, zip and chain.

A row is a tuple of (dotted field, value). In keywords `__` stands for the dot. Every function takes
rows and returns rows, so that they can be nested:

>>> sizes = zipped(model__width=[64, 128], pretrain__steps=[100, 200])
>>> product(sizes, seed=[0])  # doctest: +NORMALIZE_WHITESPACE
((('model.width', 64), ('pretrain.steps', 100), ('seed', 0)),
 (('model.width', 128), ('pretrain.steps', 200), ('seed', 0)))
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from kstore_jax.errors import UserError, shown

Row = tuple[tuple[str, Any], ...]
Rows = tuple[Row, ...]


def row(name: str, **fields: Any) -> Rows:
    """Returns one named row; results and page show the name.

    >>> chain(row("default"), row("wide", model__width=1024))
    ((('name', 'default'),), (('name', 'wide'), ('model.width', 1024)))
    """
    return (_merge([(("name", name),), *(((_dotted(f), v),) for f, v in fields.items())]),)


def product(*rows: Rows, **fields: Sequence) -> Rows:
    """Returns every combination of the rows and of the values of fields; the last varies fastest.

    >>> product(data__variant=["single", "multi5"], seed=[0])
    ((('data.variant', 'single'), ('seed', 0)), (('data.variant', 'multi5'), ('seed', 0)))

    Raises:
      ValueError: a combination has a field twice (names are joined instead), or the values of a
        field are not a list, or an empty one.
    """
    return tuple(map(_merge, itertools.product(*rows, *_rows_of(fields))))


def zipped(*rows: Rows, **fields: Sequence) -> Rows:
    """Returns row i of all arguments merged into one, for each i.

    >>> zipped(seed=[0, 1], data__variant=["single", "multi5"])
    ((('seed', 0), ('data.variant', 'single')), (('seed', 1), ('data.variant', 'multi5')))

    Raises:
      ValueError: the arguments differ in length; or as for `product`.
    """
    columns = [*rows, *_rows_of(fields)]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"zipped: expected equal lengths, got {', '.join(map(str, lengths))}")
    return tuple(map(_merge, zip(*columns, strict=True)))


def chain(*rows: Rows) -> Rows:
    """Returns the rows of all arguments, in order.

    >>> chain(product(seed=[0, 1]), product(model__layers=[4]))
    ((('seed', 0),), (('seed', 1),), (('model.layers', 4),))
    """
    return tuple(itertools.chain(*rows))


def _rows_of(fields: dict[str, Sequence]) -> list[Rows]:
    """One row for each value of a field, for each field."""
    columns = []
    for name, values in fields.items():
        field = _dotted(name)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"{field}: expected a list of values, got {values!r}")
        columns.append(tuple(((field, value),) for value in values))
        if not columns[-1]:
            raise ValueError(f"{field}: expected at least one value")
    return columns


def _dotted(field: str) -> str:
    return field.replace("__", ".")


def _merge(rows: Iterable[Row]) -> Row:
    """One row with the fields of several; their names are joined by commas."""
    merged: dict[str, Any] = {}
    for field, value in itertools.chain(*rows):
        if field in merged and field != "name":
            raise ValueError(f"sweep: {field} is set twice, to {merged[field]!r} and {value!r}")
        merged[field] = f"{merged[field]}, {value}" if field in merged else value
    return tuple(merged.items())


def without_fields(fields: Collection[str], rows: Iterable[Row], name: str) -> list[Row]:
    """The distinct rows without `fields`.

    Raises:
      UserError: `rows` are not rows; names the field `name`.
    """
    try:
        pairs = [[(field, _frozen(value)) for field, value in row] for row in rows]
        if not all(isinstance(field, str) for row in pairs for field, _ in row):
            raise TypeError
        remaining = (tuple(pair for pair in row if pair[0] not in fields) for row in pairs)
        return [*dict.fromkeys(remaining)]
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: expected rows of (field, value), as product() and chain() give, got "
            f"{shown(rows)}"
        ) from None


def _frozen(value: Any) -> Any:
    """A value with tuples in place of lists, which have no hash."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
