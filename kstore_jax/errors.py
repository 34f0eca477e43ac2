"""What goes wrong because of what the user gave or the machine lacks, said in one line."""

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input: the message is one line and names the thing; the command exits with status 2."""

    status = 2


class DamagedFileError(UserError):
    """A file of ours was changed, cut short or is missing; the command exits with status 1."""

    status = 1


class Stopped(BaseException):
    """The process was asked to end by SIGTERM; what was done so far is saved.

    Like KeyboardInterrupt it is no Exception, which others catch.

    The command exits with status 75, "try again" (EX_TEMPFAIL of sysexits.h).
    """

    status = 75


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the valid name nearest to `name`, or the list where none is near."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(valid)}"


def run_guarded(action: Callable[[], None]) -> int:
    """Runs an action; what the user can mend is said in one line.

    Returns: the exit status: 0 done; 2 bad input; 1 a damaged file; 130 interrupted; 75 stopped by
    SIGTERM; 128 + N where signal N killed a worker; 141 where the reader of the output went away.
    """
    try:
        action()
        sys.stdout.flush()
    except Stopped as stopped:
        return _print_error("stopped; the same command goes on from here", stopped.status)
    except BrokenPipeError:  # who read our output wants no more; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _print_error("interrupted; the same command goes on from here", 130)
    except Exception as error:
        if (known := as_user_error(error)) is None:
            raise
        return _print_error(str(known), known.status)
    return 0


def as_user_error(error: Exception) -> UserError | None:
    """What went wrong as what the user can mend, without its traceback; None of other errors."""
    status = 2
    if isinstance(error, UserError):
        said, status = str(error), error.status
    elif isinstance(error, OSError) and (error.filename or error.strerror):
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif _is_full_disk(error):
        where = re.search(r"/[^\s\":;]+", str(error))
        said = f"{where[0]}: " if where else ""
        said += "no space left on device; what was whole before is kept"
    else:
        return None
    found = UserError(said)
    found.status = status
    return found


def one_line_error(error: Exception) -> UserError:
    """An error as one line of text: what the user can mend as it is; of others the first line,
    after their traceback."""
    if (known := as_user_error(error)) is None:
        traceback.print_exception(error)
        first, *_ = str(error).splitlines() or [""]
        known = UserError(f"{type(error).__name__}: {first}")
        known.status = 1
    return known


def _is_full_disk(error: BaseException | None) -> bool:
    """ArrayRecord and Orbax report a full disk as errors of their own, in words."""
    if error is None:
        return False
    inside = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return os.strerror(errno.ENOSPC) in str(error) or any(map(_is_full_disk, inside))


def _print_error(message: str, status: int) -> int:
    print(f"kstore: {' '.join(message.split())}", file=sys.stderr)
    return status
