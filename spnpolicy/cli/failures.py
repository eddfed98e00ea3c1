"""How an error reaches the user: a few lines and an exit code; a traceback only on request or in a file."""

import errno
import sys
import tempfile
import traceback

from spnpolicy.base.errors import SpnPolicyError

MAX_LINES = 6
MAX_LINE_LENGTH = 400
FAILED = 3
"""Exit code of a run that failed for a reason nobody foresaw."""
IMPOSSIBLE = 6
"""Exit code where every assignment is forbidden, that of numbers that are not finite."""
INTERRUPTED = 130

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def tell(error: Exception, *, command: str | None, show_traceback: bool = False) -> int:
    """Tell the user about an error on stderr, in at most six lines, and return the exit code.

    Args:
        error: what went wrong.
        command: which command failed, for the hint where to find help.
        show_traceback: print the traceback as well.
    """
    if show_traceback:
        traceback.print_exception(error)
    code = exit_code(error)
    lines = _message(error).splitlines() if is_expected(error) else [_unexpected(error, show_traceback)]
    if code == 2:
        lines = [*lines[: MAX_LINES - 1], f"Help: spnpolicy {command + ' ' if command else ''}--help"]
    for number, line in enumerate(lines[:MAX_LINES]):
        prefix = "spnpolicy: " if number == 0 else "    "
        print(prefix + _shortened(line.strip()), file=sys.stderr)
    return code


def exit_code(error: Exception) -> int:
    """Return the exit code of an error, as `spnpolicy --help` lists them."""
    if isinstance(error, OSError):
        return 4 if error.errno in _DISK_ERRORS else 2
    return getattr(error, "exit_code", 2) if is_expected(error) else FAILED


def is_expected(error: Exception) -> bool:
    """Return whether an error is one of ours, or a file that is not there or not ours to touch."""
    # Importing circuits would load torch; if it is not loaded, none of its errors can have been raised.
    circuit_error = getattr(sys.modules.get("circuits"), "CircuitError", SpnPolicyError)
    return isinstance(error, SpnPolicyError | OSError | circuit_error)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}."
    return str(error)


def _unexpected(error: Exception, was_shown: bool) -> str:
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    if isinstance(error, ImportError):
        return f"{what}. Run `spnpolicy doctor` to see what is wrong with the installation."
    if was_shown:
        return f"unexpected {what}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="spnpolicy-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            traceback.print_exception(error, file=file)
        return f"unexpected {what} (a bug; the traceback is in {file.name})"
    except OSError:
        return f"unexpected {what} (a bug; run again with --traceback to see where)"


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_LINE_LENGTH else line[: MAX_LINE_LENGTH - 3] + "..."
