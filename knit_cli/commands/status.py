"""`knit status`: what runs, waits and fails, and whether something needs attention."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from knit_cli.commands.watching import Every, Watch, watch
from knit_cli.errors import printable
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, print_text
from knit_cli.session import api_of
from knit_cli.views.status import describe
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.situation import InstallationStatus

app = typer.Typer()

NEEDS_ATTENTION = 3
"""Exit code; 1 is that of a command that has failed."""


@app.command("status")
def show_status(
    context: typer.Context,
    again: Watch = False,
    every: Every = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what runs, waits and fails and why, workers, versions, disk.

    It is JSON when piped, with --watch one line each time. The exit code is 0 if all is well, 3 if
    something needs attention (`problems`), 1 if knit cannot be asked. With a token that is bound to
    projects, Runs are those of their Plans.
    """
    with api_of(invocation_of(context)) as api:
        if again:
            watch(api.status, _rendered, to_wire, every=every, lines=as_json)
        status = api.status()
    if as_json or not sys.stdout.isatty():
        print_json(status)
    else:
        print_text(_text(status))
    if status.problems:
        raise typer.Exit(NEEDS_ATTENTION)


def _text(status: InstallationStatus) -> str:
    return printable("\n".join(describe(status)))


def _rendered(status: InstallationStatus) -> Text:
    return Text(_text(status))
