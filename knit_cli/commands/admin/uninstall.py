"""`knit admin uninstall`: removes an installation, with or without what it keeps."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from knit_cli.admin.installing.removal import Removal, foresee, remove
from knit_cli.commands.admin.options import (
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of
from knit_cli.output import say

app = typer.Typer()

_SHOWN = 20


@app.command("uninstall")
def uninstall_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Also database, images, storage, and ALL DATA: for good."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    verbose: Verbose = False,
) -> None:
    """Remove knit from the cluster: list what goes, ask, and remove it.

    Without --hard only API and workers go; `knit admin install` brings everything back. The
    settings folder and the namespace stay in any case.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose, remember=False)
    foreseen = foresee(work.cluster, hard=hard)
    work.folder.save_namespace(work.cluster.namespace)
    if not foreseen:
        say(f"there is nothing of knit to remove in namespace {work.cluster.namespace}")
        return
    _list(foreseen, work.cluster.namespace, hard=hard)
    _ask(hard=hard, agreed=yes)
    remove(work.folder, work.cluster, foreseen, hard=hard, quiet=invocation.quiet)
    say("knit is gone, with all Data" if hard else "API and workers are gone; all Data stay")


def _list(foreseen: Removal, namespace: str, *, hard: bool) -> None:
    say(f"this goes from namespace {namespace}:")
    for one in foreseen.releases:
        say(f"  release {one}")
    for claim in foreseen.claims[:_SHOWN]:
        say(f"  claim {claim.name} ({claim.size}), with its content")
    if len(foreseen.claims) > _SHOWN:
        say(f"  and {len(foreseen.claims) - _SHOWN:,} more claims, with their content")
    for name in foreseen.objects[:_SHOWN]:
        say(f"  {name}")
    if len(foreseen.objects) > _SHOWN:
        say(f"  and {len(foreseen.objects) - _SHOWN:,} more objects")
    if not hard:
        say("all claims stay: Data, database and images")


def _ask(*, hard: bool, agreed: bool) -> None:
    """Asks on a terminal whether to go on; raises BadInput unless that is agreed."""
    if agreed:
        return
    question = "Remove it, and all Data for good?" if hard else "Remove it?"
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True):
        return
    raise BadInput("nothing was removed", advice="look at the list, then confirm it with --yes")
