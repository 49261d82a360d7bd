"""Tells what is the machine's or its owner's trouble from a bug of knit, in words."""

import errno
from collections.abc import Mapping

from knit_cli.errors import BadInput, CliError

_ADVICE: Mapping[int, str] = {
    errno.EACCES: "see that you may use it, and every folder above it",
    errno.EPERM: "see that you may do this here",
    errno.ENOSPC: "make room on the disk it is on, and try again",
    errno.EDQUOT: "make room below your quota, and try again",
    errno.EROFS: "use a place that can be written to",
    errno.EMFILE: "raise the number of files that may be open (ulimit -n), and try again",
    errno.ENFILE: "end programs that hold many files open, and try again",
    errno.ENOMEM: "end other programs, or raise the limit (ulimit -v), and try again",
    errno.EAGAIN: "raise the number of processes you may have (ulimit -u), and try again",
    errno.EIO: "look at the disk or the terminal it is on",
    errno.EBADF: "start knit with stdin, stdout and stderr open; /dev/null will do",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "look at the links on the way to it",
    errno.ENOTDIR: "look at the path: something on the way is no folder",
    errno.ENOENT: "look at the path",
}
_USUAL_ADVICE = "look at what it names, and try again"
_NO_THREAD = "can't start new thread"  # how Python says it, without a kind of its own


def explained(error: Exception) -> CliError | None:
    """Gives the error in words; None: it is a bug."""
    match error:
        case OSError():
            place = f": {error.filename}" if error.filename else ""
            return CliError(
                f"{error.strerror or error}{place}",
                advice=_ADVICE.get(error.errno or 0, _USUAL_ADVICE),
            )
        case UnicodeEncodeError() if any("\udc80" <= one <= "\udcff" for one in error.object):
            return not_utf8(error.object)
        case MemoryError():
            return CliError("there is not enough memory", advice=_ADVICE[errno.ENOMEM])
        case RuntimeError() if str(error) == _NO_THREAD:
            return CliError("no more threads can be started", advice=_ADVICE[errno.EAGAIN])
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
        reason=f"stdout: {error.strerror or error}",
        advice=_ADVICE.get(error.errno or 0, _USUAL_ADVICE),
    )
