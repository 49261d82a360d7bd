"""`knit run`: find, show and stop Runs."""

from typing import Annotated

import typer

from knit_cli.instants import read_duration, read_instant
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.session import api_of

app = typer.Typer()


@app.command("find")
def find_runs(
    context: typer.Context,
    planid: Annotated[
        list[str] | None,
        typer.Option("--planid", "-p", metavar="PLAN_ID", help="Only Runs of it. Repeat."),
    ] = None,
    in_knitid: Annotated[
        list[str] | None,
        typer.Option("--in-knitid", "-i", metavar="KNIT_ID", help="Only Runs that use it. Repeat."),
    ] = None,
    out_knitid: Annotated[
        list[str] | None,
        typer.Option(
            "--out-knitid", "-o", metavar="KNIT_ID", help="Only Runs that make it. Repeat."
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", "-s", help="Only Runs that are running, done, …. Repeat."),
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
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    log: Annotated[bool, typer.Option("--log", help="Show its log instead.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With --log: go on until the Run ends.")
    ] = False,
) -> None:
    """Shows a Run as JSON, or its log."""
    with api_of(invocation_of(context)) as api:
        if not log:
            print_json(api.get_run(run_id))
            return
        with api.open_log(run_id, follow=follow) as stream:
            print_bytes(stream.chunks)


@app.command("stop")
def stop_run(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID")],
    fail: Annotated[
        bool, typer.Option("--fail", "-x", help="Let it end as failed; else as done.")
    ] = False,
) -> None:
    """Asks a Run to end; it does so a little later."""
    with api_of(invocation_of(context)) as api:
        run = api.stop_run(run_id, fail=fail)
    say(f"Run {run_id} is {run.status}; follow it with `knit run show {run_id}`")
