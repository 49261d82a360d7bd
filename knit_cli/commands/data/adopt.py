"""`knit data adopt`: volumes of others become Data, where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import tag_option
from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of
from knit_cli.manifest import Entry, read_manifest
from knit_cli.output import print_json, say
from knit_cli.session import api_of
from knit_cli.tag_flags import raise_unless_utf8, read_user_tags
from knit_workflows.wire.adoption import AdoptedVolume, AdoptRequest, VolumeToAdopt
from knit_workflows.wire.tags import Tag

_AT_ONCE = 500
"""Volumes in one request; the API takes some more."""


def adopt_data(
    context: typer.Context,
    volume: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VOLUME",
            help="Claims in knit's namespace, or absolute paths of folders on knit's machine.",
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, tag_option("--tag", "-t", help="Add this tag to each. Repeat.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", "-m", metavar="FILE", help="YAML or CSV: volumes, with tags for each."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would become of each; adopt nothing.")
    ] = False,
) -> None:
    """Make volumes Data where they are, and show them as JSON.

    Nothing is copied or read. knit never changes or deletes what it has only adopted. All are
    checked before the first one is adopted. A volume that was adopted before stays the Data that it
    is, and gets the tags that it lacks.
    """
    given = read_user_tags(tag or [], "--tag")
    invocation = invocation_of(context)
    entries = _named(volume or [])
    if manifest is not None:
        entries += read_manifest(invocation.path(str(manifest)), str(manifest))
    if not entries:
        raise typer.BadParameter("name volumes, or a file with --manifest", param_hint="VOLUME")
    _refuse_doubles(entries)
    wanted = [_to_wire(entry, given) for entry in entries]
    with api_of(invocation) as api:
        found = _adopt(api, entries, wanted, dry_run=dry_run)
    print_json(found)
    new = sum(one.outcome == "new" for one in found)
    verb = "would be adopted" if dry_run else "adopted"
    say(f"{new:,} {verb}, {len(found) - new:,} known before; knit leaves their content as it is")


def _named(volumes: Sequence[str]) -> list[Entry]:
    for one in volumes:
        raise_unless_utf8(one)
    return [Entry(one, ()) for one in volumes]


def _refuse_doubles(entries: Sequence[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.volume in seen:
            raise BadInput(
                f"{entry.place}{entry.volume} is named twice", advice="name each volume once"
            )
        seen.add(entry.volume)


def _to_wire(entry: Entry, given: Sequence[Tag]) -> VolumeToAdopt:
    return VolumeToAdopt(volume=entry.volume, tags=list(dict.fromkeys((*given, *entry.tags))))


def _adopt(
    api: ApiClient, entries: Sequence[Entry], wanted: Sequence[VolumeToAdopt], *, dry_run: bool
) -> list[AdoptedVolume]:
    foreseen = _ask(api, wanted, dry_run=True)
    _refuse(entries, foreseen)
    return foreseen if dry_run else _ask(api, wanted, dry_run=False)


def _ask(api: ApiClient, wanted: Sequence[VolumeToAdopt], *, dry_run: bool) -> list[AdoptedVolume]:
    return [
        answer
        for part in _parts(wanted)
        for answer in api.adopt(AdoptRequest(volumes=part, dry_run=dry_run))
    ]


def _parts(wanted: Sequence[VolumeToAdopt]) -> Iterator[list[VolumeToAdopt]]:
    for begin in range(0, len(wanted), _AT_ONCE):
        yield list(wanted[begin : begin + _AT_ONCE])


def _refuse(entries: Sequence[Entry], found: Sequence[AdoptedVolume]) -> None:
    """Raises BadInput with a line for each volume that is refused."""
    faults = [
        f"{entry.place}{one.reason}; {one.advice}"
        for entry, one in zip(entries, found, strict=True)
        if one.outcome == "refused"
    ]
    if faults:
        raise BadInput(
            "cannot adopt", reason="\n".join(faults), advice="mend these; nothing was adopted"
        )
