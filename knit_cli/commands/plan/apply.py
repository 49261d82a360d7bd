"""`knit plan apply`: registers the Plan in a file, or explains the conflict."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.errors import ApiRefused, CliError
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, say
from knit_cli.plans.difference import differences, is_equivalent
from knit_cli.plans.file import PlanFile, read_plan
from knit_cli.session import api_of
from knit_workflows.wire.plans import CONFIRM, Plan, PlanPreview, PlanSpec

_BAD_REQUEST = 400
_CONFLICT = 409


def apply_plan(
    context: typer.Context,
    plan_file: Annotated[str, typer.Argument(metavar="PLAN_FILE", help="A Plan in YAML.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if an equivalent Plan is registered already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Register nothing; show the Runs it would create.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Register it however many Runs it creates at once.")
    ] = False,
) -> None:
    """Register the Plan in the file, and show it as JSON.

    If it is registered already and nothing differs, the existing Plan is shown. If it would create
    very many Runs at once, it must be confirmed: on a terminal you are asked, otherwise give --yes.
    """
    invocation = invocation_of(context)
    file = read_plan(invocation.path(plan_file), plan_file)
    with api_of(invocation) as api:
        try:
            plan = _preview(api, file.spec) if dry_run else _register(api, file.spec, confirmed=yes)
        except ApiRefused as refused:
            existing = None if strict else _equivalent(api, file.spec, refused)
            if existing is None:
                _point_out(refused, file)
                raise
            plan = existing
            _refuse_differences(file.spec, existing, plan_file)
            say(f"Plan {existing.plan_id} is registered already; nothing differs")
    print_json(plan)


def _preview(api: ApiClient, spec: PlanSpec) -> Plan | PlanPreview:
    preview = api.preview_plan(spec)
    shown = len(preview.assignments)
    more = f", of which the first {shown} are shown" if shown < preview.runs else ""
    say(f"nothing was registered; Runs the Plan would create at once: {preview.runs}{more}")
    return preview


def _register(api: ApiClient, spec: PlanSpec, *, confirmed: bool) -> Plan | PlanPreview:
    try:
        return api.register_plan(spec, confirmed=confirmed)
    except ApiRefused as refused:
        if refused.see != CONFIRM or confirmed:
            raise
        if not _agreed(refused):
            raise ApiRefused(
                refused.summary,
                status=refused.status,
                reason=refused.reason,
                advice="make its inputs more specific, or confirm it with --yes; "
                "--dry-run shows these Runs",
            ) from refused
    return api.register_plan(spec, confirmed=True)


def _agreed(refused: ApiRefused) -> bool:
    """Asks for confirmation if there is a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    say(refused.reason or refused.summary)
    return typer.confirm("Register it anyway?", err=True)


def _equivalent(api: ApiClient, spec: PlanSpec, refused: ApiRefused) -> Plan | None:
    """Gives the registered Plan named in a 409, if it is equivalent to the one in the file.

    A 409 may also mean that the new Plan would close a cycle, so the Plan itself is compared.
    """
    if refused.status != _CONFLICT or not refused.see or refused.see == CONFIRM:
        return None
    try:
        plan = api.get_plan(refused.see)
    except CliError:
        return None  # `see` is not a Plan; the refusal explains itself
    return plan if is_equivalent(spec, plan) else None


def _refuse_differences(spec: PlanSpec, plan: Plan, file: str) -> None:
    found = differences(spec, plan, file)
    if found:
        raise CliError(
            f"the Plan is registered already, as {plan.plan_id}, with other settings",
            reason="\n".join(one.description for one in found),
            advice="change the file, or the Plan:\n" + "\n".join(one.command for one in found),
            see=plan.plan_id,
        )


def _point_out(refused: ApiRefused, file: PlanFile) -> None:
    """Adds the location in the file to a refusal."""
    if refused.status == _BAD_REQUEST and refused.see is not None:
        refused.reason = f"{file.at(refused.see)}{refused.reason}"
        refused.see = None
