"""`knit admin freeze` and `knit admin thaw`: brings an installation to rest, and back to work."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.admin.audit_pruning import who
from knit_cli.admin.freezing import freeze, thaw
from knit_cli.admin.freezing.script import NAME, script, write_script
from knit_cli.commands.admin.options import (
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
    refuse_both,
)
from knit_cli.invocation import invocation_of
from knit_cli.output import print_text, say

freezing = typer.Typer()
thawing = typer.Typer()

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]


@freezing.command("freeze")
def freeze_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    fail: Annotated[
        bool, typer.Option("--fail", help="End Runs that have a container now, as failed.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Let them finish, however long it takes (the default).")
    ] = False,
    script_file: Annotated[
        str,
        typer.Option("--script", metavar="FILE", help="Where the script that thaws is written."),
    ] = NAME,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Bring knit to rest: no user gets in, no Run begins, then API, workers and registry end.

    Database and Temporal stay up, and nothing changes them any more. How many pods there were is
    remembered in the cluster; `knit admin thaw`, on any machine, brings them back, as does the
    script, which is also printed. A freeze that was cut is completed by the next. A backup of knit
    needs no freeze, nor does `knit dev`: `knit dev down` stops all of that.
    """
    refuse_both(fail, wait, ("--fail", "--wait"))
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    if dry_run:
        for line in freeze.foreseen(work.cluster, fail=fail):
            print_text(line)
        return
    path = invocation.path(script_file).absolute()
    with work.folder.sole_user():
        by = who(work.cluster)
        parts, record = freeze.begin(work.cluster, by)
        text = script(work.cluster, parts, record)
        write_script(path, text)
        say(f"to undo it, also in between: knit admin thaw, or {path}")
        freeze.freeze(work.cluster, parts, record, freeze.Freeze(fail=fail, by=by, tell=say))
    print_text(text.rstrip("\n"))
    say("knit is frozen: API, workers and registry are at 0, and nothing is under way")


@thawing.command("thaw")
def thaw_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long each part may take to be ready.")
    ] = "10m",
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Bring a frozen knit back to work, with as many pods as it had.

    Runs that the freeze has ended stay failed: `knit run retry` begins them anew. Those that waited
    go on by themselves.
    """
    work = administration(invocation_of(context), settings, namespace, kubeconfig, verbose)
    if dry_run:
        for line in thaw.foreseen(work.cluster) or ["it is not frozen"]:
            print_text(line)
        return
    with work.folder.sole_user():
        if thaw.thaw(work.cluster, timeout=timeout, tell=say):
            say("knit is back at work")
        else:
            say(f"the knit in namespace {work.cluster.namespace} is not frozen")
