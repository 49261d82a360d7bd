"""`knit admin status`: shows what is installed."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from knit_cli.admin.status import as_json as status_as_json
from knit_cli.admin.status import find_status, shown
from knit_cli.commands.admin.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.commands.watching import Every, Watch, watch
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json

app = typer.Typer()


@app.command("status")
def status_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    again: Watch = False,
    every: Every = 5.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show releases, what is ready, versions, certificates, and from within: Runs and workers.

    The exit code is 1 if something is not ready or needs attention. It is JSON when piped, with
    --watch one line each time.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    if again:
        watch(
            lambda: find_status(work.folder, work.cluster),
            shown,
            status_as_json,
            every=every,
            lines=as_json,
        )
    status = find_status(work.folder, work.cluster)
    if as_json or not sys.stdout.isatty():
        print_json(status_as_json(status))
    else:
        Console().print(shown(status))
    if not status.is_ready:
        raise typer.Exit(1)
