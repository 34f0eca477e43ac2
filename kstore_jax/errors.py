"""What goes wrong because of what the user gave, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one line and names the thing; the command exits with status 2."""

    status = 2


class DamagedFileError(UserError):
    """A file of ours was changed, cut short or is missing; the command exits with status 1."""

    status = 1


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the valid name nearest to `name`, or the list where none is near."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(valid)}"
