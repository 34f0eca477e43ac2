"""Errors that a user can fix, reported as one line, and exit statuses of the `kstore` command."""

import difflib
import errno
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input: the message is one line and names the field or file; exit status 2."""

    status = 2


class DamagedFileError(UserError):
    """A file that kstore wrote was changed, truncated or removed; exit status 1."""

    status = 1


class Stopped(BaseException):
    """SIGTERM arrived; finished work is saved.

    Like KeyboardInterrupt it is not an Exception, so that `except Exception` does not catch it.
    The exit status is 75, "try again" (EX_TEMPFAIL of sysexits.h).
    """

    status = 75


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns `; did you mean X?` with the valid name nearest to `name`, or the list of valid names
    where none is near; empty where there are none."""
    valid = list(valid)
    if close := difflib.get_close_matches(name, valid, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(valid)}" if valid else ""


def shown(value: object) -> str:
    """Returns `repr(value)` for an error message, cut after 80 characters.

    >>> shown("a" * 200)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    >>> shown(10**5000)
    'a number of 16610 bits'
    """
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to print larger ones
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except Exception:  # a number as above is inside
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}..."


def user_path(text: str) -> pathlib.Path:
    """Returns a path as a person writes it: `~` and `~name` at its beginning are home folders.

    Raises:
      UserError: there is no such user.
    """
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: no such user") from None


def run_guarded(action: Callable[[], None]) -> int:
    """Runs an action, prints errors that the user can fix as one line, and returns an exit status.

    Returns: 0 done; 2 bad input; 1 a damaged file; 130 interrupted; 75 stopped by SIGTERM; 128 + N
    where signal N killed a worker; 141 where the reader of the output went away.

    Raises:
      Exception: any error that the user cannot fix.
    """
    try:
        action()
        sys.stdout.flush()
    except Stopped as stopped:
        return _print_error("stopped; run the same command to resume", stopped.status)
    except BrokenPipeError:  # the reader closed the pipe; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _print_error("interrupted; run the same command to resume", 130)
    except Exception as error:
        if (user_error := as_user_error(error)) is None:
            raise
        return _print_error(str(user_error), user_error.status)
    return 0


def as_user_error(error: Exception) -> UserError | None:
    """Returns an error as one that the user can fix, or None where the user cannot fix it.

    User errors keep their status; errors of the operating system name the file; a full disk is
    recognised also where a library wraps it.
    """
    if isinstance(error, UserError):
        return _user_error(str(error), error.status)
    if isinstance(error, OSError) and (error.filename or error.strerror):
        return _user_error(
            f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), 2
        )
    if _is_full_disk(error):
        path = re.search(r"/[^\s\":;]+", str(error))
        where = f"{path[0]}: " if path else ""
        return _user_error(f"{where}no space left on device; finished files are kept", 2)
    return None


def one_line_error(error: Exception) -> UserError:
    """Returns an error as one line of text.

    An error that the user cannot fix becomes its type and the first line of its message; its
    traceback is printed.
    """
    if (user_error := as_user_error(error)) is not None:
        return user_error
    traceback.print_exception(error)
    first, *_ = str(error).splitlines() or [""]
    return _user_error(f"{type(error).__name__}: {first}", 1)


def _user_error(message: str, status: int) -> UserError:
    error = UserError(message)
    error.status = status
    return error


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk caused an error; ArrayRecord and Orbax wrap it in errors of their own."""
    if error is None:
        return False
    inside = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return os.strerror(errno.ENOSPC) in str(error) or any(map(_is_full_disk, inside))


def _print_error(message: str, status: int) -> int:
    print(f"kstore: {' '.join(message.split())}", file=sys.stderr)
    return status
