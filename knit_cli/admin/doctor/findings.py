"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from knit_cli.errors import CliError


class State(StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not well, or not for long."""
    PROBLEM = "problem"
    """Something does not work."""
    UNKNOWN = "unknown"
    """It could not be checked."""


@dataclass(frozen=True)
class Finding:
    """One result of one check; `cure` says what to do, unless all is well."""

    check: str
    state: State
    message: str
    cure: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Gives it as JSON for scripts; without a cure there is no such key."""
        found = {"check": self.check, "state": str(self.state), "message": self.message}
        return found if self.cure is None else found | {"cure": self.cure}


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, message)


def warning(check: str, message: str, cure: str) -> Finding:
    """It works, but not well, or not for long."""
    return Finding(check, State.WARNING, message, cure)


def problem(check: str, message: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(check, State.PROBLEM, message, cure)


def unknown(check: str, message: str, cure: str) -> Finding:
    """It could not be checked."""
    return Finding(check, State.UNKNOWN, message, cure)


def words(error: CliError) -> str:
    """Gives what failed and why, in one line."""
    text = f"{error.summary}: {error.reason}" if error.reason else error.summary
    return " ".join(text.split())


def is_ill(findings: Iterable[Finding]) -> bool:
    """Says whether there is a problem among them."""
    return any(one.state == State.PROBLEM for one in findings)
