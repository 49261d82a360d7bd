"""`knit data`: push, pull, find, tag and trace Data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from knit_cli.commands.choices import Duration, Since, YesNoBoth, read_period, tag_option
from knit_cli.commands.data.adopt import adopt_data
from knit_cli.commands.data.lineage import lineage
from knit_cli.commands.data.purge import purge_data
from knit_cli.invocation import invocation_of
from knit_cli.output import print_bytes, print_json, say
from knit_cli.session import api_of, environment_of
from knit_cli.shell.completion import complete_data, complete_tag_key
from knit_cli.tag_flags import (
    name_tag,
    read_query_tags,
    read_user_tags,
)
from knit_cli.transfer.excluded import Exclusions
from knit_cli.transfer.progress import transfer_bar
from knit_cli.transfer.pull import pull_file, pull_folder, pull_stream
from knit_cli.transfer.push import push
from knit_cli.transfer.push_source import Source, survey
from knit_workflows.domain.tags import KEY_TRANSIENT, SYSTEM_PREFIX
from knit_workflows.wire.data import Data
from knit_workflows.wire.tags import Tag, TagChange

app = typer.Typer()
app.command()(lineage)
app.command("adopt")(adopt_data)
app.command("purge")(purge_data)

_STDOUT = "-"

KnitId = Annotated[str, typer.Argument(metavar="KNIT_ID", autocompletion=complete_data)]


@app.command("find")
def find_data(
    context: typer.Context,
    tag: Annotated[
        list[str] | None, tag_option("--tag", "-t", help="Only Data with this tag. Repeat.")
    ] = None,
    transient: Annotated[
        YesNoBoth,
        typer.Option(help="Only Data that are processing, failed or purged, or only others."),
    ] = YesNoBoth.BOTH,
    since: Since = None,
    duration: Duration = None,
) -> None:
    """Show the Data that carry all the given tags, oldest first, as JSON."""
    tags = read_query_tags(tag or [], "--tag")
    start = read_period(since, duration)
    with api_of(invocation_of(context)) as api:
        found = api.find_data(tags, start, duration)
    print_json([data for data in found if transient.allows(_is_transient(data))])


def _is_transient(data: Data) -> bool:
    return any(tag.key == KEY_TRANSIENT for tag in data.tags)


@app.command("push")
def push_data(
    context: typer.Context,
    source: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Folders or files; each becomes one Data.")
    ],
    tag: Annotated[
        list[str] | None, tag_option("--tag", "-t", help="Add this tag. Repeat.")
    ] = None,
    name: Annotated[
        bool, typer.Option("--name", "-n", help="Add the tag name:BASENAME of the source.")
    ] = False,
    dereference: Annotated[
        bool,
        typer.Option(
            "--dereference/--no-dereference",
            "-L",
            help="Store the targets of links, or the links themselves.",
        ),
    ] = False,
    links: Annotated[
        bool, typer.Option("--links/--no-links", help="Store links, or leave them out.")
    ] = True,
) -> None:
    """Upload each source as one Data, and show it as JSON.

    What cannot be stored (sockets, devices) is left out, and reported before anything is sent.
    """
    if dereference and not links:
        raise typer.BadParameter("it leaves out what --dereference would store",
                                 param_hint="--no-links")  # fmt: skip
    invocation = invocation_of(context)
    given = read_user_tags(tag or [], "--tag")
    defaults = [tag for tag in environment_of(invocation).tags if not _is_system(tag)]
    sources = [
        _surveyed(invocation.path(text), text, dereference=dereference, links=links)
        for text in source
    ]
    names = [[name_tag(one.name)] if name else [] for one in sources]
    with api_of(invocation) as api:
        for one, named in zip(sources, names, strict=True):
            with transfer_bar(one.name, one.archive_bytes, quiet=invocation.quiet) as meter:
                tags = _distinct([*given, *defaults, *named])
                data = push(api, one, tags, meter=meter)
            print_json(data)


def _surveyed(path: Path, shown: str, *, dereference: bool, links: bool) -> Source:
    excluded = Exclusions()
    source = survey(path, shown, excluded, dereference=dereference, links=links)
    excluded.report(shown)
    return source


def _is_system(tag: Tag) -> bool:
    return tag.key.startswith(SYSTEM_PREFIX)


def _distinct(tags: Iterable[Tag]) -> list[Tag]:
    return list(dict.fromkeys(tags))


@app.command("pull")
def pull_data(
    context: typer.Context,
    knit_id: KnitId,
    dest: Annotated[str, typer.Argument(metavar="DEST", help="A folder, or - for stdout.")] = ".",
    extract: Annotated[
        bool, typer.Option("--extract", "-x", help="Unpack into DEST/KNIT_ID/.")
    ] = False,
    links: Annotated[
        bool,
        typer.Option("--links/--no-links", help="With -x: create links, or leave them out."),
    ] = True,
    compress: Annotated[
        bool | None,
        typer.Option(
            "--compress/--no-compress",
            help="With -x: compress on the way, or not; if not given, unless the API is on this "
            "machine.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Download a Data as DEST/KNIT_ID.tar.gz."""
    invocation = invocation_of(context)
    excluded = Exclusions()
    if dest == _STDOUT and extract:
        raise typer.BadParameter("cannot unpack to stdout", param_hint="--extract")
    if not links and not extract:
        raise typer.BadParameter("it needs --extract", param_hint="--no-links")
    if compress is not None and not extract:
        hint = "--compress" if compress else "--no-compress"
        raise typer.BadParameter("it needs --extract", param_hint=hint)
    if not _is_file_name(knit_id):
        raise typer.BadParameter(f"{knit_id!r} is not an id of a Data", param_hint="KNIT_ID")
    with (
        api_of(invocation) as api,
        transfer_bar(knit_id, None, quiet=invocation.quiet) as meter,
    ):
        folder = invocation.path(dest)
        if dest == _STDOUT:
            arrived = None
            pull_stream(api, knit_id, lambda chunk: print_bytes([chunk]), excluded, meter=meter)
        elif extract:
            arrived = pull_folder(
                api, knit_id, folder, excluded, links=links, compressed=compress, meter=meter
            )
        else:
            arrived = pull_file(api, knit_id, folder, excluded, meter=meter)
    excluded.report(knit_id)
    if arrived is not None:
        say(f"pulled {knit_id} to {arrived}")


def _is_file_name(text: str) -> bool:
    # The id becomes a file name in DEST, and must not lead anywhere else.
    return text not in ("", ".", "..") and Path(text).name == text


@app.command("tag")
def tag_data(
    context: typer.Context,
    knit_id: KnitId,
    add: Annotated[list[str] | None, tag_option(help="Add this tag. Repeat.")] = None,
    remove: Annotated[list[str] | None, tag_option(help="Remove this tag. Repeat.")] = None,
    remove_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Remove all tags of this key. Repeat.",
            autocompletion=complete_tag_key,
        ),
    ] = None,
) -> None:
    """Remove, then add tags, in one step."""
    change = TagChange(
        add=read_user_tags(add or [], "--add"),
        remove=read_user_tags(remove or [], "--remove"),
        remove_key=list(remove_key or []),
    )
    with api_of(invocation_of(context)) as api:
        data = api.change_tags(knit_id, change)
    say(f"{knit_id} now has the tags {', '.join(str(tag) for tag in data.tags)}")
