"""`knit admin`: the commands of administrators, each loaded when it is used."""

from __future__ import annotations

import typer

from knit_cli.shell.lazy import Entry, LazyGroup


class AdminGroup(LazyGroup):
    """The commands of administrators."""

    entries = {  # noqa: RUF012  declared ClassVar where it comes from
        "token": Entry("knit_cli.commands.admin.token:app", "Give others tokens, and revoke them."),
        "audit": Entry("knit_cli.commands.admin.audit:app", "Show who has done what.", single=True),
    }


app = typer.Typer(cls=AdminGroup)
