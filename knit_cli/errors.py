"""The tree of errors a user of `knit` can meet, and how one of them is written.

CliError                exit 1
├─ BadInput             a flag's value or a file that cannot be used
├─ ProfileProblem       no profile, or one that cannot work
├─ ApiUnreachable       nobody answers at the API's address, or not in time
│  └─ ConnectionCut     no connection came about, or it broke
├─ ApiRefused           the API answered with 4xx
├─ ApiBroken            the API answered with 5xx, or not as knit's API does
└─ TransferFailed       bytes or files of a Data could not be moved

Wrong use of the command line itself (exit 2) is Typer's: commands raise `typer.BadParameter`.
"""

from __future__ import annotations

import re

EXIT_FAILURE = 1

# A server's text or a file's name must not be able to steer the terminal.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # how Python keeps such a byte of a file's name


class CliError(Exception):
    """Something went wrong that the user can understand: what, why, and what to do now.

    Args:
        summary: what could not be done, one line.
        reason: why, usually one line.
        advice: what to do next, one line.
        see: a URL, or the id of a thing to look at.
    """

    exit_code = EXIT_FAILURE

    def __init__(
        self,
        summary: str,
        *,
        reason: str | None = None,
        advice: str | None = None,
        see: str | None = None,
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.reason = reason
        self.advice = advice
        self.see = see


class BadInput(CliError):
    """A flag's value or a file cannot be used; nothing was sent."""


class ProfileProblem(CliError):
    """There is no profile, or it cannot work."""


class ApiUnreachable(CliError):
    """Nobody answers at the API's address, or not in time."""


class ConnectionCut(ApiUnreachable):
    """No connection came about, or it broke before the whole answer was there.

    `harmless`: the API cannot have done what was asked for, so that it may be asked again.
    `retry_after`: not before so many seconds; None: nobody has said so.
    """

    safe_to_retry = False
    retry_after: float | None = None


class ApiRefused(CliError):
    """The API answered with 4xx; `status` is the HTTP status.

    `retry_after`: after so many seconds it may be another answer; None: the API did not say so.
    """

    retry_after: float | None = None

    def __init__(
        self,
        summary: str,
        *,
        status: int,
        reason: str | None = None,
        advice: str | None = None,
        see: str | None = None,
    ) -> None:
        super().__init__(summary, reason=reason, advice=advice, see=see)
        self.status = status


class ApiBroken(ApiRefused):
    """The API answered with 5xx, or with something that knit's API does not say."""


class TransferFailed(CliError):
    """The bytes or files of a Data could not be moved."""


def render(error: CliError) -> str:
    """Gives the lines for stderr: what, why, what to do, where to look; readable without colour."""
    parts = {
        "error": error.summary,
        "reason": error.reason,
        "hint": error.advice,
        "see": error.see,
    }
    lines = [f"{name}: {_indented(text)}" for name, text in parts.items() if text]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return printable(text.strip()).replace("\n", "\n    ")


def printable(text: str) -> str:
    """Gives the text with control characters, but not line ends, replaced by `?`.

    A byte of a file's name that is not UTF-8 is shown as `\\xe9`.
    """
    text = _NOT_UTF8.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return _CONTROL.sub("?", text)
