"""`knit data purge`: the content of Data goes, by id or by age and tags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

import typer

from knit_cli.api.client import ApiClient
from knit_cli.commands.choices import tag_option
from knit_cli.errors import ApiRefused, BadInput, CliError
from knit_cli.invocation import invocation_of
from knit_cli.output import print_json, say
from knit_cli.session import api_of
from knit_cli.shell.completion import complete_data
from knit_cli.tag_flags import read_query_tags
from knit_cli.time_flags import read_age
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.tags import KEY_TIMESTAMP, KEY_TRANSIENT, TRANSIENT_PURGED
from knit_workflows.wire.data import Data, PurgedData
from knit_workflows.wire.tags import Tag

_AT_ONCE = 8
"""Requests at a time for what a purge would do: sizes take a moment."""
_REFUSALS = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
"""Statuses that say something of one Data; others mean all of them."""
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """What a purge of one Data would do, or why it is refused."""

    knit_id: str
    purge: PurgedData | None
    refusal: ApiRefused | None = None


def purge_data(
    context: typer.Context,
    knit_id: Annotated[
        list[str] | None,
        typer.Argument(metavar="KNIT_ID", autocompletion=complete_data),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="All Data of this age with the tags, such as 90d or 36h."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        tag_option("--tag", "-t", help="With --older-than: only Data with this tag. Repeat."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be freed; change nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --older-than: do not ask.")
    ] = False,
) -> None:
    """Discard the content of Data for good; tags, Runs and lineage stay.

    Purged Data have the tag knit#transient:purged, are never used for new Runs, and cannot be
    pulled; Runs that used them cannot be retried. What is being made or read is refused. Content
    that was only adopted stays as it is. With --older-than, the Data are listed first; then you
    are asked, or give --yes.
    """
    ids = list(dict.fromkeys(knit_id or []))
    tags = read_query_tags(tag or [], "--tag")
    _check_usage(ids, older_than, tags, yes)
    age = None if older_than is None else read_age(older_than, "--older-than")
    with api_of(invocation_of(context)) as api:
        if age is not None:
            ids = _old(api.find_data(tags), datetime.now(UTC) - age)
        if dry_run:
            _show(_foresee(api, ids))
        elif age is None:
            _purge(api, ids)
        else:
            _purge_agreed(api, ids, agreed=yes)


def _check_usage(ids: Sequence[str], older_than: str | None, tags: list[Tag], yes: bool) -> None:
    if older_than is None:
        if tags or yes:
            raise typer.BadParameter("it needs --older-than", param_hint="--tag" if tags else "-y")
        if not ids:
            raise typer.BadParameter("name Data, or say --older-than and --tag",
                                     param_hint="KNIT_ID")  # fmt: skip
    elif ids:
        raise typer.BadParameter("it chooses the Data itself", param_hint="--older-than")
    elif not tags:
        raise typer.BadParameter("it needs --tag, lest it purge everything",
                                 param_hint="--older-than")  # fmt: skip


def _show(foreseen: Sequence[_Foreseen]) -> None:
    _list(foreseen)
    print_json([one.purge for one in foreseen if one.purge is not None])
    _fail_if_refused([one for one in foreseen if one.refusal], "would be")


def _purge_agreed(api: ApiClient, ids: Sequence[str], *, agreed: bool) -> None:
    """Lists what would be purged, asks, and purges that."""
    foreseen = _foresee(api, ids)
    _list(foreseen)
    ids = [one.knit_id for one in foreseen if one.purge is not None]
    _ask(len(ids), agreed=agreed)
    _purge(api, ids, skipping=True)


def _old(found: Sequence[Data], before: datetime) -> list[str]:
    """Gives the ids of Data that are old enough and still have content, oldest first."""
    chosen = []
    for one in found:
        values = {tag.key: tag.value for tag in one.tags if tag.key.startswith("knit#")}
        at = values.get(KEY_TIMESTAMP)
        if at is None or values.get(KEY_TRANSIENT) == TRANSIENT_PURGED:
            continue
        if parse_instant(at) <= before:
            chosen.append(one.knit_id)
    return chosen


def _foresee(api: ApiClient, ids: Sequence[str]) -> list[_Foreseen]:
    def ask(knit_id: str) -> _Foreseen:
        try:
            return _Foreseen(knit_id, api.purge(knit_id, dry_run=True))
        except ApiRefused as refused:
            if refused.status not in _REFUSALS:
                raise
            return _Foreseen(knit_id, None, refused)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, ids))


def _list(foreseen: Sequence[_Foreseen]) -> None:
    for one in foreseen:
        say(f"{one.knit_id}  {_in_words(one)}")
    freed = [one.purge for one in foreseen if one.purge is not None and one.purge.volume]
    known = [one.bytes for one in freed if one.bytes is not None]
    at_least = "" if len(known) == len(freed) else "at least "
    say(f"volumes to be freed: {len(freed):,}, with {at_least}{_size(sum(known))}")


def _in_words(one: _Foreseen) -> str:
    if one.purge is None:
        return f"refused: {one.refusal.reason if one.refusal else ''}"
    if one.purge.outcome == "known":
        return "purged before"
    if one.purge.kept_volume is not None:
        return f"only adopted: {one.purge.kept_volume} stays as it is"
    size = "size unknown" if one.purge.bytes is None else _size(one.purge.bytes)
    tags = " ".join(str(tag) for tag in one.purge.data.tags if not tag.key.startswith("knit#"))
    return f"{size}  {tags}".rstrip()


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.4g} {_UNITS[power - 1]}"


def _ask(count: int, *, agreed: bool) -> None:
    """Asks on a terminal whether to go on; raises BadInput unless that is agreed."""
    if count == 0 or agreed:
        return
    question = f"Purge these {count:,} Data? Their content is lost for good."
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True):
        return
    raise BadInput("nothing was purged", advice="look at the list, then confirm it with --yes")


def _purge(api: ApiClient, ids: Sequence[str], *, skipping: bool = False) -> None:
    """Purges one after the other, goes on behind one that is refused, and shows what was done.

    That is shown too if it ends early: what has gone is on no other record.
    """
    done: list[PurgedData] = []
    try:
        refused = _purged_into(done, api, ids, skipping=skipping)
    except BaseException:
        if done:
            print_json(done)
        raise
    print_json(done)
    _fail_if_refused(refused, "were")


def _purged_into(
    done: list[PurgedData], api: ApiClient, ids: Sequence[str], *, skipping: bool
) -> list[_Foreseen]:
    """Purges Data, each noted when it is; gives those that are refused."""
    refused = []
    for knit_id in ids:
        try:
            purge = api.purge(knit_id)
        except ApiRefused as refusal:
            if refusal.status not in _REFUSALS or (len(ids) == 1 and not skipping):
                raise
            refused.append(_Foreseen(knit_id, None, refusal))
            say(f"{knit_id} is not purged: {refusal.reason}")
            continue
        done.append(purge)
        if purge.kept_volume is not None:
            say(f"the volume {purge.kept_volume} stays as it is: knit had only adopted it")
    return refused


def _fail_if_refused(refused: Sequence[_Foreseen], verb: str) -> None:
    if refused:
        raise CliError(
            f"{len(refused):,} Data {verb} refused",
            reason="they are being made or read, or do not exist",
            advice="try these again later",
        )
