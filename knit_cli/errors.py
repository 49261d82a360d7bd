"""The errors that a user of `knit` can meet, and how they are printed.

CliError                exit 1
├─ BadInput             a flag's value or a file that cannot be used
├─ ProfileProblem       no profile, or an unusable one
├─ NotLoggedIn          a login has ended
├─ ApiUnreachable       the API does not respond, or not in time
│  └─ ConnectionCut     no connection could be made, or it broke
├─ ApiRefused           the API responded with 4xx
├─ ApiBroken            the API responded with 5xx, or not as knit's API does
└─ TransferFailed       the content of a Data could not be transferred

Wrong use of the command line itself (exit 2) is Typer's: commands raise `typer.BadParameter`.
"""

from __future__ import annotations

import re

EXIT_FAILURE = 1

# Text from servers and file names must not contain control sequences for the terminal.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]")  # how Python represents such a byte of a file name


class CliError(Exception):
    """An error that the user can understand: what failed, why, and what to do.

    Args:
        summary: what failed, one line.
        reason: why, usually one line.
        advice: what to do next, one line.
        see: a URL, or the id of something to look at.
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
    """There is no profile, or it is unusable."""


class NotLoggedIn(CliError):
    """A login at the identity provider has ended, or there is none."""


class ApiUnreachable(CliError):
    """The API does not respond, or not in time; or the identity provider."""


class ConnectionCut(ApiUnreachable):
    """No connection could be made, or it broke before the response was complete.

    `safe_to_retry`: the API cannot have executed the request.
    `retry_after`: seconds that the API asked to wait; None: not stated.
    """

    safe_to_retry = False
    retry_after: float | None = None


class ApiRefused(CliError):
    """The API responded with 4xx; `status` is the HTTP status.

    `retry_after`: seconds that the API asked to wait; None: not stated.
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
    """The API responded with 5xx, or the response is not one of knit's API."""


class TransferFailed(CliError):
    """The content of a Data could not be transferred."""


def render(error: CliError) -> str:
    """Formats the error for stderr: what, why, what to do, where to look."""
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
    """Replaces control characters except line ends by `?`.

    A byte of a file name that is not UTF-8 is shown as `\\xe9`.
    """
    text = _NOT_UTF8.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return _CONTROL.sub("?", text)
