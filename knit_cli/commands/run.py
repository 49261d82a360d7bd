"""`knit run`: find, show, stop, retry and delete Runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.run_view import print_history, remarks
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_data, complete_plan, complete_run, complete_status
from knit_cli.time_flags import read_duration, read_instant
from knit_cli.transfer.run_log import copy_log

app = typer.Typer()

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", autocompletion=complete_run)]


@app.command("find")
def find_runs(
    context: typer.Context,
    planid: Annotated[
        list[str] | None,
        typer.Option(
            "--planid",
            "-p",
            metavar="PLAN_ID",
            help="Only Runs of it. Repeat.",
            autocompletion=complete_plan,
        ),
    ] = None,
    in_knitid: Annotated[
        list[str] | None,
        typer.Option(
            "--in-knitid",
            "-i",
            metavar="KNIT_ID",
            help="Only Runs that use it. Repeat.",
            autocompletion=complete_data,
        ),
    ] = None,
    out_knitid: Annotated[
        list[str] | None,
        typer.Option(
            "--out-knitid",
            "-o",
            metavar="KNIT_ID",
            help="Only Runs that make it. Repeat.",
            autocompletion=complete_data,
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            "-s",
            metavar="STATUS",
            help="Only Runs that are running, done, …. Repeat.",
            autocompletion=complete_status,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only Runs changed from this time on.")
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="With --since: only for so long, such as 2h45m."),
    ] = None,
) -> None:
    """Shows Runs, oldest change first, as JSON: any value of one flag, but all flags."""
    if duration is not None and since is None:
        raise typer.BadParameter("it needs --since", param_hint="--duration")
    start = read_instant(since, "--since") if since is not None else None
    if duration is not None:
        read_duration(duration, "--duration")
    with api_of(invocation_of(context)) as api:
        found = api.find_runs(
            planid or [], in_knitid or [], out_knitid or [], status or [], start, duration
        )
    print_json(found)


@app.command("show")
def show_run(
    context: typer.Context,
    run_id: RunId,
    log: Annotated[bool, typer.Option("--log", help="Show its log instead.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With --log: go on until the Run ends.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Show its history instead; as JSON when piped.")
    ] = False,
) -> None:
    """Shows a Run as JSON, its log or its history; on a terminal also why it waits."""
    if log and events:
        raise typer.BadParameter("it cannot be combined with --log", param_hint="--events")
    with api_of(invocation_of(context)) as api:
        if log:
            copy_log(api, run_id, follow=follow, write=lambda chunk: print_bytes([chunk]))
        elif events:
            _show_history(api, run_id)
        else:
            _show(api, run_id)


def _show_history(api: ApiClient, run_id: str) -> None:
    history = api.run_events(run_id)
    if sys.stdout.isatty():
        print_history(history)
    else:
        print_json(history)


def _show(api: ApiClient, run_id: str) -> None:
    run = api.get_run(run_id)
    print_json(run)
    if not sys.stdout.isatty():
        return
    for line in remarks(run, api.run_events(run_id)):
        say(line)


@app.command("stop")
def stop_run(
    context: typer.Context,
    run_id: RunId,
    fail: Annotated[
        bool, typer.Option("--fail", "-x", help="Let it end as failed; else as done.")
    ] = False,
) -> None:
    """Asks a Run to end; it does so a little later."""
    with api_of(invocation_of(context)) as api:
        run = api.stop_run(run_id, fail=fail)
    say(f"Run {run_id} is {run.status}; follow it with `knit run show {run_id}`")


@app.command("retry")
def retry_run(context: typer.Context, run_id: RunId) -> None:
    """Lets a Run that is done or failed be done anew; what it made before is discarded."""
    with api_of(invocation_of(context)) as api:
        api.retry_run(run_id)
    say(f"Run {run_id} will be done anew; follow it with `knit run show {run_id}`")


@app.command("rm")
def delete_run(context: typer.Context, run_id: RunId) -> None:
    """Deletes a Run and the Data it made, unless another Run uses them."""
    with api_of(invocation_of(context)) as api:
        api.delete_run(run_id)
    say(f"Run {run_id} is deleted")
