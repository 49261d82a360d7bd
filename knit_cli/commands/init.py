"""`knit init`: saves a profile and makes this folder use it."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.config.profile import mark_folder, read_profile, save_profile
from knit_cli.invocation import invocation_of
from knit_cli.output import say

app = typer.Typer()


@app.callback()
def _group() -> None:
    # Without a callback, Typer would turn an app with one command into that command.
    pass


@app.command()
def init(
    context: typer.Context,
    knit_profile_file: Annotated[
        str,
        typer.Argument(
            metavar="KNIT_PROFILE_FILE",
            help="The knitprofile that your knit's administrator gave you.",
        ),
    ],
) -> None:
    """Save the profile in the store, and make this folder and all below use it."""
    invocation = invocation_of(context)
    profile = read_profile(invocation.path(knit_profile_file))
    name = invocation.profile_name
    save_profile(profile, store=invocation.store_path, name=name)
    marker = mark_folder(invocation.surroundings.cwd, name)
    say(f"saved profile {name} ({profile.api_root}) in {invocation.store_path}; {marker} names it")
