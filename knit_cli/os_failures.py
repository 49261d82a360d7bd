"""Explains failures of the operating system or the installation, as opposed to bugs of knit."""

from __future__ import annotations

import errno
from pathlib import Path

from knit_cli.errors import BadInput, CliError
from knit_workflows.domain.os_errors import advice_for, reason_of

_NO_MEMORY = "stop other programs, or raise the limit (ulimit -v), then try again"
_NO_PROCESS = "raise the number of processes you may have (ulimit -u), then try again"
_OPEN_STREAMS = "start knit with stdin, stdout and stderr open; /dev/null will do"
_NO_THREAD = "can't start new thread"  # Python's message; there is no exception class for it


def explain(error: Exception) -> CliError | None:
    """Explains an error; None: it is a bug."""
    match error:
        case OSError():
            return CliError(
                "the operating system refused something that knit needs",
                reason=reason_of(error),
                advice=_advice(error),
            )
        case UnicodeEncodeError() if any("\udc80" <= one <= "\udcff" for one in error.object):
            return not_utf8(error.object)
        case MemoryError():
            return CliError("there is not enough memory", advice=_NO_MEMORY)
        case RuntimeError() if str(error) == _NO_THREAD:
            return CliError("no more threads can be started", advice=_NO_PROCESS)
        case ImportError():
            return CliError(
                "part of knit cannot be loaded",
                reason=str(error),
                advice="reinstall knit with its dependencies",
            )
    return None


def read_text(path: Path, shown: str, *, advice: str) -> str:
    """Reads a file that the user has written, in UTF-8.

    Args:
        path: the file.
        shown: the path as the user wrote it, for messages.
        advice: what to do if it is not text.

    Raises:
        BadInput: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise BadInput(
            f"cannot read {shown}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
    except UnicodeDecodeError as cause:
        raise BadInput(f"{shown} is not text in UTF-8", reason=str(cause), advice=advice) from cause


def not_utf8(text: str) -> BadInput:
    """Gives the error for a name that the file system allows but is not text."""
    return BadInput(
        f"{text} is not UTF-8",
        reason="ids, tags and everything else that knit stores is text in UTF-8",
        advice="write it in UTF-8; only files, also inside a Data, may have any name",
    )


def cannot_write_result(error: OSError) -> CliError:
    """Gives the error for a result that cannot be written to stdout."""
    return CliError(
        "the result cannot be written",
        reason=f"stdout: {reason_of(error)}",
        advice=_advice(error),
    )


def _advice(error: OSError) -> str:
    if error.errno == errno.EBADF:
        return _OPEN_STREAMS
    return advice_for(error, "check this machine's disks, permissions and limits")
