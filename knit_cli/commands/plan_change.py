"""What of a Plan can be changed once it is registered; every command shows the Plan as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_plan
from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.plans.forms import MAX_PRIORITY
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.plans import AnnotationsChange, ResourcesChange

PlanId = Annotated[str, typer.Argument(metavar="PLAN_ID", autocompletion=complete_plan)]


class OnOff(StrEnum):
    """Whether a Plan's Runs may start."""

    YES = "yes"
    NO = "no"


def switch_plan(
    context: typer.Context,
    mode: Annotated[OnOff, typer.Argument(metavar="yes|no")],
    plan_id: PlanId,
) -> None:
    """Lets the Runs of a Plan start, or not, and shows the Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.activate_plan(plan_id, mode is OnOff.YES))


def change_resources(
    context: typer.Context,
    plan_id: PlanId,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="TYPE=QUANTITY", help="Let it use so much. Repeat."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(
            "--unset", "-u", metavar="TYPE", help="Take it away; cpu and memory fall back. Repeat."
        ),
    ] = None,
) -> None:
    """Changes what Runs that start later may use, and shows the Plan as JSON.

    For a type in both, --set wins. Without a value cpu is 1 and memory is 1Gi.
    """
    quantities = dict(_quantity(text) for text in set_ or [])
    with api_of(invocation_of(context)) as api:
        if not quantities and not unset:
            say("nothing to do: give --set or --unset")
            return
        plan = api.change_resources(plan_id, ResourcesChange(set=quantities, unset=unset or []))
    # The contract has two spaces and no line end here.
    print_bytes([json.dumps(to_wire(plan), indent=2, ensure_ascii=False).encode()])


def _quantity(text: str) -> tuple[str, str]:
    name, _, quantity = text.partition("=")
    advice = "write --set TYPE=QUANTITY, such as cpu=2, memory=4Gi or nvidia.com/gpu=1"
    if text.count("=") != 1 or not name:
        raise BadInput(f"--set is not TYPE=QUANTITY: {text!r}", advice=advice)
    try:
        parse_quantity(quantity)
    except InvalidQuantity as cause:
        raise BadInput(f"cannot use --set {text}", reason=cause.reason, advice=advice) from cause
    return name, quantity


def annotate_plan(
    context: typer.Context,
    plan_id: PlanId,
    add: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Add this one. Repeat.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Remove this one. Repeat.")
    ] = None,
    remove_key: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove all of this key. Repeat.")
    ] = None,
) -> None:
    """Removes, then adds annotations, and shows the Plan as JSON."""
    change = AnnotationsChange(
        add=_notes(add or [], "--add"),
        remove=_notes(remove or [], "--remove"),
        remove_key=[key.strip() for key in remove_key or []],
    )
    with api_of(invocation_of(context)) as api:
        print_json(api.change_annotations(plan_id, change))


def _notes(texts: Iterable[str], flag: str) -> list[str]:
    notes = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"write KEY=VALUE, not {text!r}", param_hint=flag)
        notes.append(f"{key.strip()}={value.strip()}")
    return notes


def change_service_account(
    context: typer.Context,
    plan_id: PlanId,
    set_: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="Give them this one's token.")
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Give them no token.")] = False,
) -> None:
    """Sets the service account of Runs that start later, and shows the Plan as JSON."""
    if (set_ is None) is not unset:
        raise typer.BadParameter("give one of --set and --unset", param_hint="--set")
    with api_of(invocation_of(context)) as api:
        print_json(api.set_service_account(plan_id, set_))


def change_priority(
    context: typer.Context,
    plan_id: PlanId,
    priority: Annotated[
        int,
        typer.Argument(
            metavar="N",
            min=-MAX_PRIORITY,
            max=MAX_PRIORITY,
            help=f"From -{MAX_PRIORITY} to {MAX_PRIORITY}; Plans begin with 0.",
        ),
    ],
) -> None:
    """Lets a Plan's waiting Runs go before those of a lower one, and shows the Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.set_priority(plan_id, priority))
