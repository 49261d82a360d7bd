"""Reads query strings into the domain's queries; what cannot be read is a 400 that says why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.datastructures import QueryParams

from knit_workflows.domain.completions import Noun
from knit_workflows.domain.cursors import parse_cursor
from knit_workflows.domain.data import DataQuery
from knit_workflows.domain.errors import DataNotFound, InvalidRequest, PlanNotFound, RunNotFound
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.plans.model import PlanQuery
from knit_workflows.domain.runs import RunQuery, RunStatus
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag, parse_tag, parse_timestamp
from knit_workflows.wire.times import parse_duration

_ID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_STATUSES: Final = {s.value: s for s in RunStatus if s is not RunStatus.INVALIDATED}

MOST_ITEMS: Final = 1000
"""Items that one page of a list may have."""
MOST_IN_FULL: Final = 10_000
"""Data that one answer about lineage may have; each takes some KiB."""
MOST_IDS: Final = 100_000
_HOPS: Final = 3
_COMPLETIONS: Final = 100
_COUNT: Final = re.compile(r"[0-9]{1,9}")


def knit_id(text: str) -> KnitId:
    """Gives the id of a Data. Raises DataNotFound for what can be no id."""
    if not _ID.fullmatch(text):
        raise DataNotFound(see=text[:80])
    return KnitId(text.lower())


def plan_id(text: str) -> PlanId:
    """Gives the id of a Plan. Raises PlanNotFound for what can be no id."""
    if not _ID.fullmatch(text):
        raise PlanNotFound(see=text[:80])
    return PlanId(text.lower())


def run_id(text: str) -> RunId:
    """Gives the id of a Run. Raises RunNotFound for what can be no id."""
    if not _ID.fullmatch(text):
        raise RunNotFound(see=text[:80])
    return RunId(text.lower())


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: after that cursor; `limit` None: all of the rest."""

    limit: int | None
    after: str | None


def page(query: QueryParams) -> Page:
    """Reads `limit` and `cursor` of a list. Raises InvalidRequest."""
    limit, cursor = query.get("limit"), query.get("cursor")  # an empty one is a mistake here
    after = None if cursor is None else str(parse_cursor(cursor))
    return Page(None if limit is None else _limit(limit), after)


def _limit(text: str) -> int:
    advice = f"write a number from 1 to {MOST_ITEMS}, or leave it out"
    limit = _count("limit", text, advice)
    if not 1 <= limit <= MOST_ITEMS:
        raise InvalidRequest(f"bad request: limit is {limit}", advice=advice)
    return limit


def log_offset(query: QueryParams) -> int:
    """Reads how many bytes of a log are to be left out. Raises InvalidRequest."""
    return _count("offset", query.get("offset", "0"))


def data_query(query: QueryParams) -> DataQuery:
    """Reads the filter of `GET /data`. Raises InvalidRequest."""
    since, until = _window(query)
    return DataQuery(tags=_tags(query.getlist("tag")), since=since, until=until)


def user_tags(query: QueryParams) -> frozenset[Tag]:
    """Reads the tags that an upload is to get. Raises InvalidRequest for system tags too."""
    tags = _tags(query.getlist("tag"))
    refuse_system_keys(tag.key for tag in tags)
    return frozenset(tags)


def refuse_system_keys(keys: Iterable[str]) -> None:
    """Raises InvalidRequest when one of the keys is knit's own."""
    for key in keys:
        if Tag(key, "").is_system:
            raise InvalidRequest(
                f"format error: the tag key {key[:80]!r} is knit's own",
                advice="leave tags that begin with knit# out; knit itself gives and removes them",
            )


def plan_query(query: QueryParams) -> PlanQuery:
    """Reads the filter of `GET /plans`. Raises InvalidRequest."""
    repository, image_tag, digest = _image(_first(query, "image"))
    return PlanQuery(
        active=_active(_first(query, "active")),
        repository=repository,
        image_tag=image_tag,
        image_digest=digest,
        input_tags=_tags(query.getlist("in_tag")),
        output_tags=_tags(query.getlist("out_tag")),
    )


def run_query(query: QueryParams) -> RunQuery | None:
    """Reads the filter of `GET /runs`; None when nothing can match it. Raises InvalidRequest."""
    since, until = _window(query)
    statuses = frozenset(map(_status, _listed(query, "status")))
    ids = {}
    for name in ("plan", "knitIdInput", "knitIdOutput"):
        asked = _listed(query, name)
        ids[name] = frozenset(one.lower() for one in asked if _ID.fullmatch(one))
        if asked and not ids[name]:
            return None
    return RunQuery(
        plan_ids=ids["plan"],
        input_knit_ids=ids["knitIdInput"],
        output_knit_ids=ids["knitIdOutput"],
        statuses=statuses,
        since=since,
        until=until,
    )


@dataclass(frozen=True, slots=True)
class LineageQuery:
    """How far to go each way in Runs (None: all), and how many Data and Runs there may be."""

    upstream: int | None
    downstream: int | None
    limit: int
    only_ids: bool


def lineage_query(query: QueryParams) -> LineageQuery:
    """Reads what `GET /data/{knitId}/lineage` asks for. Raises InvalidRequest."""
    only_ids = _only_ids(_first(query, "fields"))
    most = MOST_IDS if only_ids else MOST_IN_FULL
    limit = _count("limit", query.get("limit", str(MOST_IN_FULL)))
    if not 1 <= limit <= most:
        raise InvalidRequest(
            f"bad request: limit is {limit}", advice=f"write a number from 1 to {most}"
        )
    upstream, downstream = _first(query, "upstream"), _first(query, "downstream")
    if upstream is None and downstream is None:
        return LineageQuery(_HOPS, _HOPS, limit, only_ids)
    return LineageQuery(
        _hops("upstream", upstream), _hops("downstream", downstream), limit, only_ids
    )


def _only_ids(text: str | None) -> bool:
    if text not in (None, "ids"):
        raise InvalidRequest(
            f"bad request: fields is {text[:80]!r}", advice="write ids, or leave it out"
        )
    return text is not None


def _hops(name: str, text: str | None) -> int | None:
    return None if text == "all" else _count(name, text or "0", "write a number, or all")


def _count(name: str, text: str, advice: str = "write a number") -> int:
    if not _COUNT.fullmatch(text):
        raise InvalidRequest(f"bad request: {name} is {text[:80]!r}", advice=advice)
    return int(text)


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """Which things, how they begin (empty: anyhow), and how many of them are wanted."""

    noun: Noun
    prefix: str
    limit: int


def completion_query(query: QueryParams) -> CompletionQuery:
    """Reads what is to be completed. Raises InvalidRequest."""
    noun, prefix = _first(query, "of") or "", _first(query, "prefix") or ""
    if noun not in list(Noun):
        raise InvalidRequest(
            f"bad request: of is {noun[:80]!r}", advice=f"write one of {', '.join(Noun)}"
        )
    if "\0" in prefix:
        raise InvalidRequest("bad request: prefix has a NUL", advice="leave it out")
    return CompletionQuery(Noun(noun), prefix, _limit(query.get("limit", str(_COMPLETIONS))))


def flag(query: QueryParams, name: str) -> bool:
    """Reads a yes-or-no parameter; absent means no. Raises InvalidRequest."""
    return bool(_boolean(name, _first(query, name) or "false"))


def _first(query: QueryParams, name: str) -> str | None:
    """Gives the first value of a parameter; an empty one counts as absent."""
    return next(iter(query.getlist(name)), None) or None


def _listed(query: QueryParams, name: str) -> list[str]:
    values = (one.strip() for value in query.getlist(name) for one in value.split(","))
    return [value for value in values if value]


def _tags(texts: Iterable[str]) -> tuple[Tag, ...]:
    tags = dict.fromkeys(parse_tag(text) for text in texts)
    for tag in tags:
        if tag.key == KEY_TIMESTAMP:
            parse_timestamp(tag.value)
    return tuple(tags)


def _window(query: QueryParams) -> tuple[datetime | None, datetime | None]:
    start, length = _first(query, "since"), _first(query, "duration")
    if start is None:
        if length is not None:
            raise InvalidRequest(
                "bad request: duration is given without since",
                advice="give since too: the time where the duration begins",
            )
        return None, None
    try:
        since = parse_instant(start).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        # In a query an unescaped plus is a blank, and that is nearly always what went wrong.
        hint = "write %2B for the + of its offset" if " " in start else "write it as RFC 3339"
        raise InvalidRequest(f"bad request: since: {error}", advice=hint) from error
    if length is None:
        return since, None
    try:
        return since, since + parse_duration(length)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"bad request: duration: {error}", advice="write it like 300ms, 1.5h or 2h45m"
        ) from error


def _active(text: str | None) -> bool | None:
    return None if text is None else _boolean("active", text)


def _boolean(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidRequest(f"bad request: {name} is {text[:80]!r}", advice="write true or false")
    return text == "true"


def _image(text: str | None) -> tuple[str | None, str | None, str | None]:
    """Gives repository, tag and digest: what is not named may be any."""
    if text is None:
        return None, None, None
    named, _, digest = text.partition("@")
    # The port of a registry stands before a slash, the image's tag behind the last one.
    folder, slash, last = named.rpartition("/")
    name, _, image_tag = last.partition(":")
    if not name or "\0" in text:
        raise InvalidRequest(
            f"bad request: the image {text[:80]!r} has no name",
            advice="write repository[:tag][@digest]",
        )
    return f"{folder}{slash}{name}", image_tag or None, digest or None


def _status(text: str) -> RunStatus:
    if text not in _STATUSES:
        raise InvalidRequest(
            f"bad request: there is no status {text[:80]!r} to look for",
            advice=f"statuses are {', '.join(_STATUSES)}",
        )
    return _STATUSES[text]
