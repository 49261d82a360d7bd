"""`knit admin verify`: compares database, Temporal and volumes, and says how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.contents import check_contents, opened_set
from knit_cli.admin.backup.on_cluster import ClusterInstallation
from knit_cli.admin.backup.watching import Bar
from knit_cli.admin.dev_stack import dev_installation
from knit_cli.admin.verification import VERIFY, Report, beside_dev, on_cluster, read
from knit_cli.commands.admin.options import (
    Administration,
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.commands.admin.recovery.which import State, dev_folder
from knit_cli.commands.status import NEEDS_ATTENTION
from knit_cli.dev.dev_folder import DevFolder
from knit_cli.errors import BadInput, printable
from knit_cli.invocation import Invocation, invocation_of, login_name
from knit_cli.output import print_json, print_text
from knit_workflows.backup.content.checking import Choice, Contents
from knit_workflows.domain.ids import is_id

_MINUTE: Final = 60.0
_DAY: Final = 24 * 3600.0

app = typer.Typer()

Hashes = Annotated[
    bool,
    typer.Option(
        "--hashes", help="Read all volumes too, and compare them with what was read before."
    ),
]
OnlyData = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="ID", help="With --hashes: only this Data. Repeat."),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="N",
        help="With --hashes: begin no volume after N minutes; the next time goes on there.",
    ),
]
Days = Annotated[
    float,
    typer.Option(
        min=0, metavar="N", help="With --hashes: leave out what was compared within N days."
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="DEST", help="With --hashes: compare with the backup there too, by its digests."
    ),
]
SetId = Annotated[
    str | None, typer.Option("--set", metavar="ID", help="Its set (default: the newest).")
]
Accept = Annotated[
    bool, typer.Option("--accept", help="With --data: record what is there now as right.")
]


@app.command("verify")
def verify_command(
    context: typer.Context,
    state: State = None,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what needs no decision, and loses nothing.")
    ] = False,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="What is younger is left alone.")
    ] = 60.0,
    hashes: Hashes = False,
    data: OnlyData = None,
    minutes: Minutes = None,
    days: Days = 0.0,
    against: Against = None,
    set_id: SetId = None,
    accept: Accept = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare database, Temporal and volumes; say of each disagreement how to mend it.

    Found are lost edges of the lineage, Runs without a workflow and the reverse, Data without
    their volume and the reverse, transfers and pods that are left over; with --hashes also Data
    whose content has changed. The exit code is 3 if anything was found, also if it was mended.
    """
    invocation = invocation_of(context)
    by = login_name(invocation.surroundings.variables)
    choice = _choice(hashes, data, minutes, days, against, set_id, by if accept else None)
    folder = dev_folder(invocation, state, named=bool(settings or namespace or kubeconfig))
    where = _Where(invocation, folder, settings, namespace, kubeconfig, verbose)
    report = Report()
    with opened_set(against, set_id, invocation.surroundings.cwd) as in_set:
        arguments = [f"--grace={grace:g}", *(["--repair"] if repair else [])]
        for finding in read(where.verified(arguments), report):
            _show(finding, as_json)
        if choice is not None:
            with where.contents() as source:
                bar = Bar(quiet=invocation.quiet)
                for finding in check_contents(source, choice, bar, in_set, report):
                    _show(finding, as_json)
    if as_json:
        print_json(report.as_json())
    else:
        _show_rest(report, repair)
    if report.findings:
        raise typer.Exit(NEEDS_ATTENTION)


def _choice(
    hashes: bool,
    data: list[str] | None,
    minutes: float | None,
    days: float,
    against: str | None,
    set_id: str | None,
    accepted_by: str | None,
) -> Choice | None:
    """Says which contents are compared; None: none. Raises BadInput for what excludes itself."""
    if not hashes and (data or minutes is not None or days or against or set_id or accepted_by):
        raise BadInput("this is about the content of volumes", advice="give --hashes too")
    if accepted_by is not None and not data:
        raise BadInput("--accept is for single Data", advice="name them: --data ID")
    if accepted_by is not None and against is not None:
        raise BadInput("--accept and --against exclude each other", advice="give one of them")
    if data and days:
        raise BadInput("--data and --days exclude each other", advice="give one of them")
    if set_id is not None and against is None:
        raise BadInput("--set is of a backup", advice="say which: --against DEST")
    for one in data or ():
        if not is_id(one):
            raise BadInput(f"{one!r} is not the id of a Data", advice="knit data find shows them")
    if not hashes:
        return None
    seconds = None if minutes is None else minutes * _MINUTE
    return Choice(tuple(data) if data else None, days * _DAY, seconds, accepted_by)


@dataclass(frozen=True)
class _Where:
    """The installation that is meant: that of `knit dev` in a folder, or one on a cluster."""

    invocation: Invocation
    dev: DevFolder | None
    settings: str | None
    namespace: str | None
    kubeconfig: str | None
    verbose: bool

    def verified(self, arguments: list[str]) -> Iterator[str]:
        """Gives the lines of a verification; raises CliError."""
        if self.dev is not None:
            return beside_dev(self.dev, self.invocation.surroundings.variables, VERIFY, arguments)
        return on_cluster(self._work().cluster, VERIFY, arguments)

    @contextmanager
    def contents(self) -> Iterator[Contents]:
        """Gives its volumes, ready to be read; raises CliError."""
        with ExitStack() as stack:
            stack.enter_context(explained())
            if self.dev is not None:
                yield dev_installation(self.dev)
                return
            cluster = ClusterInstallation(self._work().cluster)
            stack.enter_context(cluster.at_work())
            yield cluster

    def _work(self) -> Administration:
        return administration(
            self.invocation, self.settings, self.namespace, self.kubeconfig, self.verbose
        )


def _show(finding: dict[str, Any], as_json: bool) -> None:
    if not as_json:
        print_text(printable(f"✘ {finding['check']}: {finding['subject']}: {finding['message']}"))
        print_text(printable(f"    cure: {finding['cure']}"))


def _show_rest(report: Report, repair: bool) -> None:
    for step in report.repaired:
        print_text(printable(f"✔ {step}"))
    for step in report.not_repaired:
        print_text(printable(f"✘ not mended: {step}"))
    counted = ", ".join(f"{count:,} {what}" for what, count in (report.counted or {}).items())
    findings = len(report.findings)
    print_text(f"compared: {counted or 'nothing is there'}; {findings:,} findings")
    if not repair and any("repair" in one for one in report.findings):
        print_text("some of it is mended if you repeat the command with --repair")
