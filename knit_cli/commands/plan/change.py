"""The commands that change a registered Plan; each shows the Plan as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.plans.file import read_plan
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_plan
from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.plans.forms import MAX_PRIORITY
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.options import OptionsChange
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
    """Allow or forbid the Runs of a Plan to start, and show the Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.activate_plan(plan_id, mode is OnOff.YES))


def change_resources(
    context: typer.Context,
    plan_id: PlanId,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="TYPE=QUANTITY", help="Set this resource. Repeat."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(
            "--unset",
            "-u",
            metavar="TYPE",
            help="Unset this resource; cpu and memory get defaults. Repeat.",
        ),
    ] = None,
) -> None:
    """Change the resources of Runs that start later, and show the Plan as JSON.

    For a type in both, --set wins. By default cpu is 1 and memory is 1Gi.
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
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Add this annotation. Repeat.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Remove this annotation. Repeat.")
    ] = None,
    remove_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Remove all with this key. Repeat."),
    ] = None,
) -> None:
    """Remove, then add annotations, and show the Plan as JSON."""
    change = AnnotationsChange(
        add=_annotations(add or [], "--add"),
        remove=_annotations(remove or [], "--remove"),
        remove_key=[key.strip() for key in remove_key or []],
    )
    with api_of(invocation_of(context)) as api:
        print_json(api.change_annotations(plan_id, change))


def _annotations(texts: Iterable[str], flag: str) -> list[str]:
    annotations = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"write KEY=VALUE, not {text!r}", param_hint=flag)
        annotations.append(f"{key.strip()}={value.strip()}")
    return annotations


def change_service_account(
    context: typer.Context,
    plan_id: PlanId,
    set_: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="Run as this service account.")
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Run without one.")] = False,
) -> None:
    """Set the service account of Runs that start later, and show the Plan as JSON."""
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
            help=f"From -{MAX_PRIORITY} to {MAX_PRIORITY}; default 0.",
        ),
    ],
) -> None:
    """Let a Plan's Runs go before those of Plans with a lower priority, and show it as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.set_priority(plan_id, priority))


def change_options(
    context: typer.Context,
    plan_id: PlanId,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Take those of this Plan file.")
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Have none.")] = False,
) -> None:
    """Set what a Plan asks of a cluster for later Runs, and show the Plan as JSON.

    That is pod, and volume of outputs and log, all as in the file. What else differs between the
    Plan and the file stays as it is.
    """
    if (file is None) is not unset:
        raise typer.BadParameter("give one of --file and --unset", param_hint="--file")
    invocation = invocation_of(context)
    change = OptionsChange()
    if file is not None:
        plan = read_plan(invocation.path(file), file)
        plan.check_rules()
        change = plan.options()
    with api_of(invocation) as api:
        print_json(api.set_options(plan_id, change))
