"""`knit plan validate` and `knit plan schema`: checks of Plan files, mostly without a server."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_text, say
from knit_cli.plans.file import read_plan
from knit_cli.plans.schema import plan_schema_text
from knit_cli.session import api_of


def validate_plans(
    context: typer.Context,
    plan_file: Annotated[list[str], typer.Argument(metavar="PLAN_FILE", help="Plans in YAML.")],
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Also ask the server's cluster what it would refuse."),
    ] = False,
) -> None:
    """Check Plan files without a server: their YAML, their keys, and every rule of a Plan.

    With --cluster the server then has its cluster check what Runs would create, without creating
    it; what the cluster warns of is shown. Whether another Plan conflicts: see `apply --dry-run`.
    """
    invocation = invocation_of(context)
    with ExitStack() as stack:
        api = stack.enter_context(api_of(invocation)) if cluster else None
        broken = [one for text in plan_file if (one := _fault(invocation, text, api)) is not None]
    if broken and len(plan_file) == 1:
        raise broken[0]
    if broken:
        raise BadInput(
            f"{len(broken)} of {len(plan_file)} files are not valid Plans",
            reason="\n".join(f"{one.summary}\n{one.reason or ''}".strip() for one in broken),
            advice="correct these files",
        )


def _fault(invocation: Invocation, text: str, api: ApiClient | None) -> CliError | None:
    """Gives what is wrong with a file; if nothing is, says so."""
    try:
        file = read_plan(invocation.path(text), text)
        file.check_rules()
        trial = None if api is None else api.try_plan(file.spec)
    except BadInput as fault:
        return fault
    if trial is None:
        say(f"{text} is a valid Plan")
        return None
    for warning in trial.warnings:
        say(f"{text}: warning: {warning}")
    if trial.refusals:
        return CliError(
            f"{text} is a Plan whose Runs could not start",
            reason="\n".join(f"{text}: {refusal}" for refusal in trial.refusals),
            advice="correct the file, or have the cluster prepared for it; nothing was registered",
        )
    say(f"{text} is a valid Plan, and its Runs would be accepted")
    for gap in trial.unchecked:
        say(f"{text}: not checked: {gap}")
    return None


def print_schema() -> None:
    """Show the JSON Schema of a Plan file, for editors: knit plan schema > plan.schema.json."""
    print_text(plan_schema_text())
