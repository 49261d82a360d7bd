"""Tells what is the machine's or its owner's trouble from a bug of knit, in words."""

from __future__ import annotations

import errno

from knit_cli.errors import BadInput, CliError
from knit_workflows.domain.os_errors import advice_for, reason_of

_NO_MEMORY = "end other programs, or raise the limit (ulimit -v), then try again"
_NO_PROCESS = "raise the number of processes you may have (ulimit -u), then try again"
_OPEN_STREAMS = "start knit with stdin, stdout and stderr open; /dev/null will do"
_NO_THREAD = "can't start new thread"  # how Python says it, without a kind of its own


def explain(error: Exception) -> CliError | None:
    """Gives the error in words; None: it is a bug."""
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
                "a part of knit cannot be loaded",
                reason=str(error),
                advice="install knit anew, with all it needs",
            )
    return None


def not_utf8(text: str) -> BadInput:
    """Gives the error about a name that the file system has, but that is no text."""
    return BadInput(
        f"{text} is not UTF-8",
        reason="ids, tags and all else that knit keeps is text in UTF-8",
        advice="write it in UTF-8; files may be called as they like, also inside a Data",
    )


def cannot_write_result(error: OSError) -> CliError:
    """Gives the error about a result that stdout does not take."""
    return CliError(
        "the result cannot be written",
        reason=f"stdout: {reason_of(error)}",
        advice=_advice(error),
    )


def _advice(error: OSError) -> str:
    if error.errno == errno.EBADF:
        return _OPEN_STREAMS
    return advice_for(error, "check this machine's disks, rights and limits")
