"""`knit run`: find, show, stop, retry and delete Runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import Duration, Since, read_period
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_data, complete_plan, complete_run, complete_status
from knit_cli.transfer.run_log import copy_log
from knit_cli.views.run import print_history, print_timing, remarks

app = typer.Typer()

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", autocompletion=complete_run)]


def _repeatable(
    flag: str, short: str, metavar: str, text: str, complete: Callable[..., list[tuple[str, str]]]
) -> Any:
    return typer.Option(
        flag, short, metavar=metavar, help=f"{text} Repeat.", autocompletion=complete
    )


Values = list[str] | None
PlanIds = Annotated[
    Values, _repeatable("--planid", "-p", "PLAN_ID", "Only Runs of it.", complete_plan)
]
InputIds = Annotated[
    Values, _repeatable("--in-knitid", "-i", "KNIT_ID", "Only Runs that use it.", complete_data)
]
OutputIds = Annotated[
    Values, _repeatable("--out-knitid", "-o", "KNIT_ID", "Only Runs that make it.", complete_data)
]
Statuses = Annotated[
    Values, _repeatable("--status", "-s", "STATUS", "Only Runs with this status.", complete_status)
]


@app.command("find")
def find_runs(
    context: typer.Context,
    planid: PlanIds = None,
    in_knitid: InputIds = None,
    out_knitid: OutputIds = None,
    status: Statuses = None,
    since: Since = None,
    duration: Duration = None,
) -> None:
    """Show Runs, least recently changed first, as JSON.

    A Run must match one value of each flag that is given.
    """
    start = read_period(since, duration)
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
        bool, typer.Option("--follow", "-f", help="With --log: continue until the Run ends.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Show its history instead; as JSON when piped.")
    ] = False,
    timing: Annotated[
        bool, typer.Option("--timing", help="Show where its time went instead; as JSON when piped.")
    ] = False,
) -> None:
    """Show a Run as JSON, its log, its history or its timing; on a terminal also why it waits."""
    if log + events + timing > 1:
        raise typer.BadParameter(
            "only one of them can be shown at a time", param_hint="--log, --events, --timing"
        )
    with api_of(invocation_of(context)) as api:
        if log:
            copy_log(api, run_id, follow=follow, write=lambda chunk: print_bytes([chunk]))
        elif events:
            _show_history(api, run_id)
        elif timing:
            _show_timing(api, run_id)
        else:
            _show(api, run_id)


def _show_history(api: ApiClient, run_id: str) -> None:
    history = api.run_events(run_id)
    if sys.stdout.isatty():
        print_history(history)
    else:
        print_json(history)


def _show_timing(api: ApiClient, run_id: str) -> None:
    found = api.run_timing(run_id)
    if sys.stdout.isatty():
        print_timing(found)
    else:
        print_json(found)


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
        bool, typer.Option("--fail", "-x", help="End it as failed; otherwise as done.")
    ] = False,
) -> None:
    """Stop a Run; it ends a little later."""
    with api_of(invocation_of(context)) as api:
        run = api.stop_run(run_id, fail=fail)
    say(f"Run {run_id} is {run.status}; follow it with `knit run show {run_id}`")


@app.command("retry")
def retry_run(context: typer.Context, run_id: RunId) -> None:
    """Retry a Run that is done or failed; its outputs are discarded."""
    with api_of(invocation_of(context)) as api:
        api.retry_run(run_id)
    say(f"Run {run_id} will be retried; follow it with `knit run show {run_id}`")


@app.command("rm")
def delete_run(context: typer.Context, run_id: RunId) -> None:
    """Delete a Run and its outputs, unless another Run uses them."""
    with api_of(invocation_of(context)) as api:
        kept = api.delete_run(run_id)
    say(f"Run {run_id} was deleted")
    for volume in kept:
        say(f"the volume {volume} stays as it is: knit had only adopted it")
