"""`knit admin handout`: writes what users need."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.admin.handout import write_handout
from knit_cli.admin.installing.preparation import check_api_root
from knit_cli.commands.admin.options import (
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.invocation import invocation_of
from knit_cli.output import print_text, say

app = typer.Typer()


@app.command("handout")
def handout_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="A name or address by which users reach it, the preferred one first "
            "(default: all of the server certificate). Repeat.",
        ),
    ] = None,
    api_root: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The address for users; it is remembered."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write what users need, replacing what is there: a profile, and the registry's CA for docker.

    Prints the folder.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    if api_root is not None:
        work.folder.write(work.folder.api_root, f"{check_api_root(api_root)}\n")
    written = write_handout(work.folder, work.cluster, host or ())
    say(f"the API is at {written}")
    print_text(str(work.folder.handouts))
