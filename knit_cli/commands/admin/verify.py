"""`knit admin verify`: compares database, Temporal and volumes, and says how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from knit_cli.admin.verification import Report, beside_dev, on_cluster, read
from knit_cli.commands.admin.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.commands.status import NEEDS_ATTENTION
from knit_cli.dev.dev_folder import DevFolder
from knit_cli.errors import printable
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, print_text

app = typer.Typer()


@app.command("verify")
def verify_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    dev: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Verify the stack of `knit dev` whose state is there: .knit/dev."
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what needs no decision, and loses nothing.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What is younger is left alone.")
    ] = 60.0,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare database, Temporal and volumes; say of each disagreement how to mend it.

    Found are lost edges of the lineage, Runs without a workflow and the reverse, Data without
    their volume and the reverse, transfers and pods that are left over. The exit code is 3 if
    anything was found, also if it was mended.
    """
    invocation = invocation_of(context)
    arguments = [f"--grace={grace:g}", *(["--repair"] if repair else [])]
    if dev is not None:
        folder = DevFolder(invocation.path(dev))
        lines = beside_dev(folder, invocation.surroundings.variables, arguments)
    else:
        lines = _installed(invocation, settings, namespace, kubeconfig, verbose, arguments)
    report = Report()
    for finding in read(lines, report):
        if not as_json:
            print_text(
                printable(f"✘ {finding['check']}: {finding['subject']}: {finding['message']}")
            )
            print_text(printable(f"    cure: {finding['cure']}"))
    if as_json:
        print_json(report.as_json())
    else:
        _show_rest(report, repair)
    if report.findings:
        raise typer.Exit(NEEDS_ATTENTION)


def _installed(
    invocation: Invocation,
    settings: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    verbose: bool,
    arguments: list[str],
) -> Iterator[str]:
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    return on_cluster(work.cluster, arguments)


def _show_rest(report: Report, repair: bool) -> None:
    for step in report.repaired:
        print_text(printable(f"✔ {step}"))
    for step in report.not_repaired:
        print_text(printable(f"✘ not mended: {step}"))
    counted = ", ".join(f"{count:,} {what}" for what, count in (report.counted or {}).items())
    findings = len(report.findings)
    print_text(f"compared: {counted or 'nothing is there'}; {findings:,} findings")
    if not repair and any("repair" in one for one in report.findings):
        print_text("some of it is mended by: knit admin verify --repair")
