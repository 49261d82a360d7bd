"""`knit plan validate` and `knit plan schema`: checks of Plan files without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_text, say
from knit_cli.plans.file import read_plan
from knit_cli.plans.schema import plan_schema_text


def validate_plans(
    context: typer.Context,
    plan_file: Annotated[list[str], typer.Argument(help="Plans in YAML.")],
) -> None:
    """Check Plan files without a server: their YAML, their keys, and every rule of a Plan.

    Only a server can tell whether another Plan conflicts: see `apply --dry-run`.
    """
    invocation = invocation_of(context)
    broken = [one for text in plan_file if (one := _fault(invocation, text)) is not None]
    if broken and len(plan_file) == 1:
        raise broken[0]
    if broken:
        raise BadInput(
            f"{len(broken)} of {len(plan_file)} files are not valid Plans",
            reason="\n".join(f"{one.summary}\n{one.reason or ''}".strip() for one in broken),
            advice="correct these files",
        )


def _fault(invocation: Invocation, text: str) -> BadInput | None:
    """Gives what is wrong with a file; if nothing is, says so."""
    try:
        read_plan(invocation.path(text), text).check_rules()
    except BadInput as fault:
        return fault
    say(f"{text} is a valid Plan")
    return None


def print_schema() -> None:
    """Show the JSON Schema of a Plan file, for editors: knit plan schema > plan.schema.json."""
    print_text(plan_schema_text())
