"""Errors that a user can fix, reported as one line, and exit statuses of the `kstore` command."""

import difflib
import errno
import io
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
)
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
_LOWER = (
    "lower batch_size or raise grad_accum_steps of the training, or lower pretrain.seq_len, "
    "model.width or model.layers"
)


class UserError(Exception):
    """Bad input: the message is one line and names the field or file; exit status 2, or another
    one where it is given."""

    status = 2

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        if status is not None:
            self.status = status


class DamagedFileError(UserError):
    """A file that kstore wrote was changed, truncated or removed; exit status 1."""

    status = 1


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived; finished work is saved.

    A KeyboardInterrupt is no Exception, and event loops let it pass. The exit status is 75, "try
    again" (EX_TEMPFAIL of sysexits.h).
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
    Output is UTF-8.

    Returns: 0 done; 2 bad input; 1 a damaged file; 130 interrupted; 75 stopped by SIGTERM; 128 + N
    where signal N killed a worker; 141 where the reader of the output went away.

    Raises:
      Exception: any error that the user cannot fix.
    """
    for stream in (sys.stdout, sys.stderr):  # whatever the locale says
        if isinstance(stream, io.TextIOWrapper):
            errors = "surrogateescape" if stream is sys.stdout else "backslashreplace"
            stream.reconfigure(encoding="utf-8", errors=errors)
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

    User errors keep their status; errors of the operating system name the file, also where a
    library wraps them; a lack of memory names the fields to lower.
    """
    if isinstance(error, UserError):
        return UserError(str(error), error.status)
    if isinstance(error, OSError) and (error.filename or error.strerror):
        return UserError(
            f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror), 2
        )
    if refusal := system_refusal(error):
        path = re.search(r"/[^\s\":;]+", str(error))
        where = f"{path[0]}: " if path else ""
        return UserError(f"{where}{refusal}; finished files are kept", 2)
    if (shortage := memory_shortage(error)) is not None:
        return UserError(f"not enough memory ({shortage}); {_LOWER}", 2)
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
    return UserError(f"{type(error).__name__}: {first}", 1)


def system_refusal(error: BaseException) -> str | None:
    """What the operating system says where it could not read or write a file, such as `No space
    left on device`; None where an error has another cause.

    ArrayRecord, TensorStore and Orbax wrap it in errors of their own, often as text.
    """
    for cause in _causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        for refusal in _REFUSALS:
            if code == refusal or os.strerror(refusal).lower() in str(cause).lower():
                return os.strerror(refusal)
    return None


def memory_shortage(error: BaseException) -> str | None:
    """The first line of the error where memory ran out; None where an error has another cause."""
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or _OUT_OF_MEMORY.search(str(cause)):
            return next(iter(str(cause).splitlines()), type(cause).__name__)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it wraps or followed, each once."""
    seen, todo = set(), [error]
    while todo:
        if id(each := todo.pop()) not in seen:
            seen.add(id(each))
            yield each
            inside = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
            todo += [cause for cause in inside if cause is not None]


def _print_error(message: str, status: int) -> int:
    print(f"kstore: {' '.join(message.split())}", file=sys.stderr)
    return status
