"""`knit admin prune-audit`: moves old rows of the audit log into a file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from knit_cli.admin.audit_pruning import Pruner
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
from knit_cli.time_flags import read_age

app = typer.Typer()

_YOUNGEST: Final = timedelta(days=30)


@app.command("prune-audit")
def prune_audit_command(
    context: typer.Context,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Rows of requests before that, such as 400d.")
    ],
    archive: Annotated[
        str, typer.Option(metavar="FILE", help="A new file for them, one JSON object per line.")
    ],
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    verbose: Verbose = False,
) -> None:
    """Move old rows of the audit log into a file: archive them, ask, and remove them.

    No token may do that: it is done as the owner of the database's tables. The log keeps a row that
    says who has removed how many rows, and the digest of the archive.
    """
    age = read_age(older_than, "--older-than")
    if age < _YOUNGEST:
        raise BadInput(
            f"--older-than is {older_than}",
            reason=f"the rows of the last {_YOUNGEST.days} days stay",
            advice=f"name an age of {_YOUNGEST.days}d or more",
        )
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    pruner = Pruner(work.cluster, datetime.now(UTC) - age)
    path = invocation.path(archive).absolute()
    with pruner.at_work():
        found = pruner.export(path)
        if not found.rows:
            path.unlink()
            say(f"the audit log has nothing older than {older_than}")
            return
        say(f"{found.rows:,} rows are in {path}; their SHA-256 is {found.sha256}")
        _ask(agreed=yes)
        say(f"{pruner.remove(found):,} rows are removed from the audit log, and that is recorded")


def _ask(*, agreed: bool) -> None:
    if agreed:
        return
    question = "Remove them from the audit log?"
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True):
        return
    raise BadInput(
        "nothing was removed",
        advice="look at the archive, then repeat with --yes, into another file",
    )
