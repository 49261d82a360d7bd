"""`knit plan`: register, show, find and change Plans, and write a first file for one."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from knit_cli.commands.choices import YesNoBoth
from knit_cli.commands.plan.apply import apply_plan
from knit_cli.commands.plan.change import (
    PlanId,
    annotate_plan,
    change_options,
    change_priority,
    change_resources,
    change_service_account,
    switch_plan,
)
from knit_cli.commands.plan.check import print_schema, validate_plans
from knit_cli.commands.plan.graph import graph_plans
from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, print_text
from knit_cli.plans.image import ImageConfig, read_image
from knit_cli.plans.template import from_image, scratch
from knit_cli.session import api_of, environment_of
from knit_cli.tag_flags import read_tags
from knit_workflows.domain.os_errors import advice_for, reason_of

app = typer.Typer()

_STDIN = "-"


def show_plan(context: typer.Context, plan_id: PlanId) -> None:
    """Show a Plan as JSON."""
    with api_of(invocation_of(context)) as api:
        print_json(api.get_plan(plan_id))


def find_plans(
    context: typer.Context,
    active: Annotated[
        YesNoBoth, typer.Option(help="Only active or only inactive ones.")
    ] = YesNoBoth.BOTH,
    image: Annotated[
        str | None, typer.Option(metavar="NAME[:TAG][@DIGEST]", help="Only Plans of this image.")
    ] = None,
    in_tag: Annotated[
        list[str] | None,
        typer.Option(
            "--in-tag",
            "-i",
            metavar="KEY:VALUE",
            help="Only with this on an input. Repeat.",
        ),
    ] = None,
    out_tag: Annotated[
        list[str] | None,
        typer.Option(
            "--out-tag",
            "-o",
            metavar="KEY:VALUE",
            help="Only with this on an output or log. Repeat.",
        ),
    ] = None,
) -> None:
    """Show Plans, ordered by id, as JSON."""
    in_tags = read_tags(in_tag or [], "--in-tag")
    out_tags = read_tags(out_tag or [], "--out-tag")
    with api_of(invocation_of(context)) as api:
        print_json(api.find_plans(active.wanted, image, in_tags, out_tags))


def write_template(
    context: typer.Context,
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE:TAG", help="Which image in the archive.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--scratch", help="Write one without an image.")
    ] = False,
    source: Annotated[
        str,
        typer.Option("--input", "-i", metavar="FILE", help="From `docker save`; - is stdin."),
    ] = _STDIN,
    platform: Annotated[
        str | None,
        typer.Option(
            metavar="OS/ARCH", help="Which platform, if the image differs between platforms."
        ),
    ] = None,
) -> None:
    """Write a first Plan file for an image: docker save IMAGE | knit plan template > plan.yaml."""
    invocation = invocation_of(context)
    environment = environment_of(invocation)
    if from_scratch:
        if image is not None:
            raise typer.BadParameter("it cannot be combined with --scratch", param_hint="IMAGE:TAG")
        print_text(scratch(environment))
        return
    if source == _STDIN and image is not None and invocation.path(image).is_file():
        raise typer.BadParameter(f"to read that file, write --input {image}", param_hint=image)
    if source == _STDIN and sys.stdin.isatty():
        raise typer.BadParameter(
            "pipe an image in (docker save IMAGE | knit plan template), or use --scratch",
            param_hint="--input",
        )
    print_text(from_image(_read(invocation, source, image, platform), environment))


def _read(
    invocation: Invocation, source: str, image: str | None, platform: str | None
) -> ImageConfig:
    try:
        opened = (
            nullcontext(sys.stdin.buffer)
            if source == _STDIN
            else invocation.path(source).open("rb")
        )
        with opened as file:
            return read_image(file, image, platform)
    except OSError as cause:
        raise BadInput(
            "cannot read stdin" if source == _STDIN else f"cannot read {source}",
            reason=reason_of(cause),
            advice=advice_for(cause, "name a file with --input"),
        ) from cause


app.command("apply")(apply_plan)
app.command("validate")(validate_plans)
app.command("template")(write_template)
app.command("schema")(print_schema)
app.command("show")(show_plan)
app.command("find")(find_plans)
app.command("graph")(graph_plans)
app.command("active")(switch_plan)
# A negative number is not a flag.
app.command("options")(change_options)
app.command("priority", context_settings={"ignore_unknown_options": True})(change_priority)
app.command("resource")(change_resources)
app.command("annotate")(annotate_plan)
app.command("serviceaccount")(change_service_account)
