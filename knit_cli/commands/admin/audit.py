"""`knit admin audit`: shows who has changed what."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from knit_cli.commands.choices import Since
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, say
from knit_cli.session import api_of
from knit_cli.time_flags import read_instant
from knit_cli.views.account import print_audit

app = typer.Typer()

_MOST = 1000


@app.command("audit")
def audit(
    context: typer.Context,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only before this time.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this name, or subject.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST, metavar="N", help="At most so many, the latest.")
    ] = 100,
) -> None:
    """Show who tried to change what, from where, newest first; refused requests too.

    It is JSON when piped. For example, `knit admin audit --since 2026-01-02 --actor ci`.
    """
    begin = None if since is None else read_instant(since, "--since")
    end = None if until is None else read_instant(until, "--until")
    with api_of(invocation_of(context)) as api:
        found, is_more = api.accounts.audit(since=begin, until=end, actor=actor, limit=limit)
    if not sys.stdout.isatty():
        print_json(found)
    elif found:
        print_audit(found)
    else:
        say("there are none")
    if is_more:
        say(f"only the latest {limit} are shown; --limit shows up to {_MOST:,}, --since fewer")
