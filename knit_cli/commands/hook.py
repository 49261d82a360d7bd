"""`knit hook`: shows lifecycle hooks and what became of their calls, skips one, tests one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from knit_cli.commands.choices import Since, read_period
from knit_cli.errors import BadInput, CliError, printable
from knit_cli.invocation import invocation_of, login_name
from knit_cli.output import print_json, print_text, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_delivery, complete_hook, complete_run
from knit_cli.views.hook import describe
from knit_workflows.wire.hooks.deliveries import MAX_NAME, MAX_REASON, HookSkip

app = typer.Typer()

_MOST = 1000


@app.command("list")
def list_hooks(context: typer.Context) -> None:
    """Show the hooks in force, in the order of their calls, and which worker has read them where.

    `followers` are the workers that follow a hooks file now.
    """
    with api_of(invocation_of(context)) as api:
        hooks = api.hooks.in_force()
    print_json(hooks)
    if hooks.problem:
        say(f"in need of attention: {hooks.problem}")


@app.command("deliveries")
def find_deliveries(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="Only for this Run.", autocompletion=complete_run),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what has neither succeeded nor been skipped.")
    ] = False,
    since: Since = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST, metavar="N", help="At most so many, the latest.")
    ] = 100,
) -> None:
    """Show what became of the calls of hooks, latest first.

    It is JSON when piped. There is one delivery per hook and change of a Run's status. For
    example, what failed for one Run, and what failed lately: `knit hook deliveries --failed --run
    RUN_ID`, and `knit hook deliveries --failed --since 2026-01-02T09:00`.
    """
    start = read_period(since, None)
    with api_of(invocation_of(context)) as api:
        found, is_more = api.hooks.deliveries(run, failed=failed, since=start, limit=limit)
    if not sys.stdout.isatty():
        print_json(found)
    elif found:
        print_text(printable("\n".join(line for one in found for line in describe(one))))
    else:
        say("there are none")
    if is_more:
        say(f"only the latest {limit} are shown; --limit shows up to {_MOST:,}, --since fewer")


@app.command("skip")
def skip_delivery(
    context: typer.Context,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", autocompletion=complete_delivery)],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the history of the Run.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Who says so, if knit has no accounts (default: your login name)."
        ),
    ] = None,
) -> None:
    """Let a Run go on without a Before hook that does not agree.

    It holds for this change of this Run only; the Run's history keeps who did it and why. For
    example, `knit hook skip DELIVERY --reason "the list is down until Monday"`, with an id that
    `knit hook deliveries --failed` shows.
    """
    invocation = invocation_of(context)
    try:
        skip = HookSkip(
            reason=reason, by=login_name(invocation.surroundings.variables) if by is None else by
        )
    except ValidationError as cause:
        [field, *_] = cause.errors()[0]["loc"]
        raise BadInput(
            f"--{field} cannot be used",
            reason=cause.errors()[0]["msg"].removeprefix("Value error, "),
            advice=f"at most {MAX_REASON} characters for --reason, {MAX_NAME} for --by",
        ) from cause
    with api_of(invocation) as api:
        skipped = api.hooks.skip(delivery, skip)
    say(
        f"Run {skipped.run_id} goes on to {skipped.to_status} without {skipped.url}, as "
        f"{skipped.skipped_by} says; follow it with `knit run show {skipped.run_id}`"
    )


@app.command("test")
def test_hook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", autocompletion=complete_hook)],
) -> None:
    """Send a sample Run to a hook in force, and show its answer.

    It is called once, by the worker that calls hooks. The exit code is 1 if it does not agree. For
    example, `knit hook test https://policy.example/signed-images`.
    """
    with api_of(invocation_of(context)) as api:
        answer = api.hooks.test(url)
    print_json(answer)
    if not answer.succeeded:
        # What else there is to say of other failures is in their reason.
        is_refusal = answer.status_code is not None and not 200 <= answer.status_code < 300
        raise CliError(
            f"the hook {url} does not agree",
            reason=answer.answer or str(answer.status_code or ""),
            advice="only 2xx agrees; see the log of the receiver" if is_refusal else None,
        )
