"""`knit admin install` and `knit admin upgrade`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated

import typer

from knit_cli.admin import charts
from knit_cli.admin.charts import ChartSource
from knit_cli.admin.handout import write_handout
from knit_cli.admin.helm import releases
from knit_cli.admin.installing.installation import Wishes, install
from knit_cli.admin.reach import wait_for_api
from knit_cli.commands.admin.options import (
    Administration,
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, say

app = typer.Typer()

Timeout = Annotated[
    str, typer.Option(metavar="SPAN", help="How long each chart may take to be ready.")
]
Charts = Annotated[
    str | None,
    typer.Option(
        "--charts",
        metavar="PLACE",
        help="Folder, oci://… or URL with charts (default: $CHART_REPOSITORY_ROOT, else knit's).",
    ),
]
ChartVersion = Annotated[
    str | None,
    typer.Option(metavar="VERSION", help="Version of the charts ($CHART_VERSION)."),
]
Repair = Annotated[
    bool,
    typer.Option("--repair", help="No other helm is at work: repair what one left behind."),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="The settings folder of what is installed is lost: use this."),
]


@app.command("install")
def install_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    charts_from: Charts = None,
    chart_version: ChartVersion = None,
    timeout: Timeout = "10m",
    repair: Repair = False,
    take_over: TakeOver = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Install knit as the settings folder says, or bring an installation in line with it.

    It may be repeated at any time, also after it was cut. At its end the handouts for users are
    written.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose, remember=False)
    wishes = _wishes(invocation, charts_from, chart_version, timeout)
    wishes = replace(wishes, force_repair=repair, take_over=take_over)
    _install(work, wishes, as_json=as_json)


@app.command("upgrade")
def upgrade_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    charts_from: Charts = None,
    chart_version: ChartVersion = None,
    timeout: Timeout = "10m",
    repair: Repair = False,
    take_over: TakeOver = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upgrade an installation to this knit's version, with the settings folder as it is.

    Runs go on meanwhile. The same as `install`, but only where knit is installed.
    """
    invocation = invocation_of(context)
    work = administration(invocation, settings, namespace, kubeconfig, verbose, remember=False)
    wishes = _wishes(invocation, charts_from, chart_version, timeout)
    wishes = replace(wishes, force_repair=repair, take_over=take_over)
    if charts.APP not in releases.find_releases(work.cluster):
        raise BadInput(
            f"knit is not installed in namespace {work.cluster.namespace}",
            advice="run `knit admin install`, or name the namespace (--namespace)",
        )
    _install(work, wishes, as_json=as_json)


def _wishes(
    invocation: Invocation,
    charts_from: str | None,
    chart_version: str | None,
    timeout: str,
) -> Wishes:
    variables = invocation.surroundings.variables
    root = charts_from or variables.get("CHART_REPOSITORY_ROOT") or None
    if root is not None and "://" not in root:
        root = str(invocation.path(root).absolute())
    if not re.fullmatch(r"([0-9]+[hms])+", timeout):
        raise typer.BadParameter("write it like 10m or 1h30m", param_hint="--timeout")
    host, path = variables.get("IMAGE_REPOSITORY_HOST"), variables.get("REPOSITORY")
    repository = "/".join(one.strip("/") for one in (host, path) if one) or None
    version = chart_version or variables.get("CHART_VERSION") or None
    return Wishes(
        source=ChartSource.of(root, version),
        timeout=timeout,
        image_repository=repository,
        quiet=invocation.quiet,
    )


def _install(work: Administration, wishes: Wishes, *, as_json: bool) -> None:
    folder, cluster = work.folder, work.cluster
    seconds = install(folder, cluster, wishes)
    if not wishes.quiet:
        spent = ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items())
        say(f"installed in {sum(seconds.values()):.1f} s: {spent}")
    say(f"the first administrator's token is in {folder.bootstrap_token}")
    api_root = _write_handout(work)
    answers = None if api_root is None else _wait_for(work, api_root)
    if as_json:
        print_json(
            {
                "seconds": seconds,
                "apiRoot": api_root,
                "answers": answers,
                "handouts": str(folder.handouts),
            }
        )


def _wait_for(work: Administration, api_root: str) -> bool:
    """Says that knit is ready as soon as it answers, or that it does not answer here.

    That is no failure either: this machine need not be one from which users come.
    """
    reason = wait_for_api(work.folder, work.cluster.variables, api_root, say)
    if reason is None:
        say(f"knit is ready: the API answers at {api_root}")
        return True
    say(
        f"the API does not answer from this machine at {api_root}: {reason}; all its pods are "
        "ready, so ask it from where users are, or see what `knit admin doctor` finds"
    )
    return False


def _write_handout(work: Administration) -> str | None:
    """Writes the handouts and gives the address of the API; None: it is not known.

    That is no failure: the API may be reached by a balancer that is made afterwards.
    """
    try:
        api_root = write_handout(work.folder, work.cluster)
    except CliError as error:
        say(f"there are no handouts: {error.reason or error.summary}; {error.advice}")
        return None
    say(f"what users need is in {work.folder.handouts}")
    return api_root
