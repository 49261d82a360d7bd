"""Describes callers, tokens and the audit log for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knit_cli.errors import printable
from knit_workflows.domain.instants import format_instant
from knit_workflows.wire.accounts import AuditEntry, Token, WhoAmI

_SHORT: Final = ("id", "role", "when", "from", "outcome")


def describe_caller(caller: WhoAmI) -> str:
    """Gives one line: who it is, what it may do, where and how long."""
    who = f"{caller.name} ({caller.subject}), role {caller.role}"
    where = f"in {', '.join(caller.projects)}" if caller.projects else ""
    end = f"until {format_instant(caller.expires.astimezone())}" if caller.expires else ""
    return ", ".join(filter(None, (who, where, end)))


def print_tokens(tokens: Iterable[Token]) -> None:
    """Prints tokens to stdout as a table, in their order, with times as on the user's clock."""
    headings = ("id", "name", "role", "projects", "last used", "state")
    _print_table(headings, map(_token_cells, tokens))


def print_audit(entries: Iterable[AuditEntry]) -> None:
    """Prints entries of the audit log to stdout as a table, in the same way."""
    _print_table(("when", "who", "from", "what", "outcome"), map(_audit_cells, entries))


def _token_cells(one: Token) -> Sequence[str]:
    return (
        one.token_id,
        one.name,
        one.role,
        ", ".join(one.projects) or "all",
        _clock(one.last_used_at, "minutes") if one.last_used_at else "never",
        _state(one),
    )


def _state(one: Token) -> str:
    if one.revoked_at is not None:
        by = f" by {one.revoked_by}" if one.revoked_by else ""
        return f"revoked {_clock(one.revoked_at, 'minutes')}{by}"
    if one.expires_at is None:
        return "valid"
    over = one.expires_at <= datetime.now(one.expires_at.tzinfo)
    return f"{'expired' if over else 'valid until'} {_clock(one.expires_at, 'minutes')}"


def _audit_cells(one: AuditEntry) -> Sequence[str]:
    path, rest = one.route, []
    for name, value in one.targets.items():
        place = f"{{{name}}}"
        if place in path:
            path = path.replace(place, value)
        else:
            rest.append(f"{name}={value}")
    what = " ".join((one.method, path, *rest))
    outcome = "unknown" if one.status is None else str(one.status)
    return _clock(one.at, "seconds"), one.actor or "nobody known", one.address, what, outcome


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        # Nothing is cut off; what is short stays in one piece.
        table.add_column(heading, overflow="fold", no_wrap=heading in _SHORT)
    for row in rows:
        table.add_row(*map(Text, map(printable, row)))  # not markup: names may have brackets
    Console(highlight=False).print(table)


def _clock(instant: datetime, precision: str) -> str:
    local = instant.astimezone().replace(tzinfo=None)
    return local.isoformat(" ", timespec=precision)
