"""Lines of named values, for a notebook: a sequence of dictionaries, or a data frame."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from kstore_jax.errors import UserError


class Records(Sequence[dict[str, Any]]):
    """Lines with the same columns; each is a dictionary.

    Attributes:
      columns: the values of each column by name, as long as there are lines.

    >>> records = Records({"seed": [0, 1], "value": [0.5, None]})
    >>> len(records), records[1]
    (2, {'seed': 1, 'value': None})
    """

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray]):
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "dict[str, Any] | Records":
        if isinstance(index, slice):
            return Records({name: column[index] for name, column in self.columns.items()})
        line = range(len(self))[index]  # an IndexError beyond the last one
        found = {name: column[line] for name, column in self.columns.items()}
        return {name: x.item() if isinstance(x, np.generic) else x for name, x in found.items()}

    def __repr__(self) -> str:
        return f"<{len(self):,} lines: {', '.join(self.columns)}>"

    def to_pandas(self) -> Any:
        """Returns the lines as a `pandas.DataFrame`.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]  # optional
        except ModuleNotFoundError:
            raise UserError("to_pandas: needs pandas; `pip install pandas` brings it") from None
        return pandas.DataFrame(
            {
                name: column.tolist() if isinstance(column, np.ndarray) else column
                for name, column in self.columns.items()
            }
        )
