"""`knit plan`: register, show, find and switch Plans, and write a first file for one."""

import sys
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated

import typer

from knit_api.schemas.plans import Plan, PlanSpec
from knit_cli.client import ApiClient
from knit_cli.commands.choices import YesNoBoth
from knit_cli.errors import ApiRefused, BadInput, CliError
from knit_cli.image_archive import ImageConfig, read_image
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, print_text, say
from knit_cli.plan_difference import differences, same_work
from knit_cli.plan_file import read_plan
from knit_cli.plan_template import from_image, scratch
from knit_cli.session import api_of, environment_of
from knit_cli.tagging import read_tags

app = typer.Typer()

_STDIN = "-"
_CONFLICT = 409


class OnOff(StrEnum):
    """Whether a Plan's Runs may start."""

    YES = "yes"
    NO = "no"


@app.command("apply")
def apply_plan(
    context: typer.Context,
    plan_file: Annotated[str, typer.Argument(help="A Plan in YAML.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if an equivalent Plan is there already.")
    ] = False,
) -> None:
    """Registers the Plan in the file and shows it as JSON.

    If it is registered already and nothing differs, it is shown, too.
    """
    invocation = invocation_of(context)
    spec = read_plan(invocation.path(plan_file), plan_file)
    with api_of(invocation) as api:
        try:
            plan = api.register_plan(spec)
        except ApiRefused as refused:
            existing = None if strict else _equivalent(api, spec, refused)
            if existing is None:
                raise
            plan = existing
            _refuse_differences(spec, plan)
            say(f"Plan {plan.plan_id} is registered already; nothing differs")
    print_json(plan)


def _equivalent(api: ApiClient, spec: PlanSpec, refused: ApiRefused) -> Plan | None:
    """Gives the Plan that stands in the way, if it is the one in the file.

    A Plan can also be in the way because the new one would close a cycle; so what the API points at
    is looked at, instead of reading the sentence it says.
    """
    if refused.status != _CONFLICT or not refused.see:
        return None
    try:
        plan = api.get_plan(refused.see)
    except CliError:
        return None  # `see` is something else; the refusal itself says what is wrong
    return plan if same_work(spec, plan) else None


def _refuse_differences(spec: PlanSpec, plan: Plan) -> None:
    found = differences(spec, plan)
    if found:
        raise CliError(
            f"the Plan is registered already, as {plan.plan_id}, but not quite the same",
            reason="\n".join(one.words for one in found),
            advice="change the file, or the Plan:\n" + "\n".join(one.command for one in found),
            see=plan.plan_id,
        )


@app.command("show")
def show_plan(
    context: typer.Context, plan_id: Annotated[str, typer.Argument(metavar="PLAN_ID")]
) -> None:
    """Shows a Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.get_plan(plan_id))


@app.command("find")
def find_plans(
    context: typer.Context,
    active: Annotated[YesNoBoth, typer.Option(help="Only active Plans, or not.")] = YesNoBoth.BOTH,
    image: Annotated[
        str | None, typer.Option(metavar="NAME[:TAG]", help="Only Plans of this image.")
    ] = None,
    in_tag: Annotated[
        list[str] | None,
        typer.Option("--in-tag", "-i", metavar="KEY:VALUE", help="Has this on one input. Repeat."),
    ] = None,
    out_tag: Annotated[
        list[str] | None,
        typer.Option(
            "--out-tag", "-o", metavar="KEY:VALUE", help="Has this on one output or log. Repeat."
        ),
    ] = None,
) -> None:
    """Shows Plans by id, as JSON."""
    in_tags = read_tags(in_tag or [], "--in-tag")
    out_tags = read_tags(out_tag or [], "--out-tag")
    with api_of(invocation_of(context)) as api:
        print_json(api.find_plans(active.wanted, image, in_tags, out_tags))


@app.command("active")
def switch_plan(
    context: typer.Context,
    mode: Annotated[OnOff, typer.Argument(metavar="yes|no")],
    plan_id: Annotated[str, typer.Argument(metavar="PLAN_ID")],
) -> None:
    """Lets the Runs of a Plan start, or not, and shows the Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.activate_plan(plan_id, mode is OnOff.YES))


@app.command("template")
def write_template(
    context: typer.Context,
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE:TAG]", help="Which image of the archive.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--scratch", help="Write one without looking at an image.")
    ] = False,
    source: Annotated[
        str,
        typer.Option("--input", "-i", metavar="FILE", help="What `docker save` wrote; - is stdin."),
    ] = _STDIN,
) -> None:
    """Writes a first Plan file for an image: docker save IMAGE | knit plan template > plan.yaml."""
    invocation = invocation_of(context)
    environment = environment_of(invocation)
    if from_scratch:
        if image is not None:
            raise typer.BadParameter("with --scratch there is no image", param_hint="IMAGE:TAG")
        print_text(scratch(environment))
        return
    if source == _STDIN and sys.stdin.isatty():
        raise typer.BadParameter(
            "pipe an image in (docker save IMAGE | knit plan template), or use --scratch",
            param_hint="--input",
        )
    print_text(from_image(_read(invocation, source, image), environment))


def _read(invocation: Invocation, source: str, image: str | None) -> ImageConfig:
    try:
        opened = (
            nullcontext(sys.stdin.buffer)
            if source == _STDIN
            else invocation.path(source).open("rb")
        )
        with opened as file:
            return read_image(file, image)
    except OSError as cause:
        raise BadInput(
            f"cannot read {source}", reason=cause.strerror, advice="check the path and its rights"
        ) from cause
