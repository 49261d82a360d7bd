"""`knit admin doctor`: checks an installation, and says how to mend what it finds."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.admin.doctor.examination import examine
from knit_cli.admin.doctor.findings import Finding, State, is_ill
from knit_cli.commands.admin.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.errors import printable
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, print_text

app = typer.Typer()

_MARKS = {State.OK: "✔", State.WARNING: "!", State.PROBLEM: "✘", State.UNKNOWN: "?"}


@app.command("doctor")
def doctor_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    within: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long a claim may take to get its volume."),
    ] = 60.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check an installation, or a cluster before one; exit code 1 if there is a problem.

    Checked are the settings folder, helm, the cluster's version, rights, storage (with a real
    claim that is removed again), certificates, what runs, API and registry, and from within: the
    database, Temporal, the clock. Each finding says how to mend it.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    found = []
    for one in examine(work.folder, work.cluster, within=within):
        found.append(one)
        if not as_json:
            _show(one)
    if as_json:
        print_json([one.as_json() for one in found])
    if is_ill(found):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    message = printable(finding.message)
    print_text(f"{_MARKS[finding.state]} {finding.check}: {message}")
    if finding.cure is not None:
        print_text(f"    {finding.state}; cure: {printable(finding.cure)}")
