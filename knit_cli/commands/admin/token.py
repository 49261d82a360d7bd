"""`knit admin token`: gives others tokens, lists and revokes them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, print_text, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_token
from knit_cli.time_flags import read_age
from knit_cli.views.account import print_tokens
from knit_workflows.domain.accounts.principals import Role
from knit_workflows.wire.accounts import NewToken
from knit_workflows.wire.tags import Tag

app = typer.Typer()


@app.command("create")
def create_token(
    context: typer.Context,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Whose it is; histories and the audit log say so.")
    ],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    project: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY:VALUE", help="Only for what has this tag, or another one given so."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Valid for so long, such as 90d; otherwise for ever."),
    ] = None,
) -> None:
    """Create a token, and write it to stdout.

    It is shown this once only: knit keeps no copy. For example, `knit admin token create --name ci
    --role editor --expires 90d > ci.token`.
    """
    new = NewToken(
        name=name,
        role=role,
        projects=[str(_project(text)) for text in project or []],
        expires_in=None if expires is None else _span(expires),
    )
    with api_of(invocation_of(context)) as api:
        made = api.accounts.create_token(new)
    print_text(made.token)
    say(
        f"this is the token {made.name} (id {made.token_id}, role {made.role}); keep it safe, "
        "since it is not shown again"
    )


def _project(text: str) -> Tag:
    try:
        return Tag.parse(text)
    except ValueError as cause:
        raise BadInput(
            f"--project is not a tag: {text!r}", reason=str(cause), advice="write it like project:x"
        ) from cause


def _span(text: str) -> str:
    seconds = int(read_age(text, "--expires").total_seconds())
    if seconds < 1:
        raise BadInput(
            f"--expires is too short: {text!r}", advice="write how long it is valid, such as 90d"
        )
    return f"{seconds}s"


@app.command("list")
def list_tokens(context: typer.Context) -> None:
    """Show all tokens, newest first: whose they are, and whether they are valid.

    It is JSON when piped.
    """
    with api_of(invocation_of(context)) as api:
        tokens = api.accounts.tokens()
    if not sys.stdout.isatty():
        print_json(tokens)
    elif tokens:
        print_tokens(tokens)
    else:
        say("there are none")


@app.command("revoke")
def revoke_token(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", autocompletion=complete_token)],
) -> None:
    """Revoke a token, for good."""
    with api_of(invocation_of(context)) as api:
        revoked = api.accounts.revoke_token(token_id)
    say(f"the token {revoked.name} opens nothing any more, after five seconds at most")
