"""Path and query parameters: each is stated once, for the reader and for the OpenAPI document.

A value that cannot be read is an InvalidRequest that names the parameter. Unless a parameter says
otherwise, an empty value counts as absent. Where one value is wanted, the last one counts. Unknown
parameters are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core.core_schema import is_instance_schema

from knit_workflows.domain import errors
from knit_workflows.domain.accounts.principals import AuditQuery
from knit_workflows.domain.completions import Noun
from knit_workflows.domain.cursors import parse_cursor
from knit_workflows.domain.data import DataQuery
from knit_workflows.domain.errors import InvalidRequest
from knit_workflows.domain.hooks import DeliveryQuery
from knit_workflows.domain.ids import ID_PATTERN, KnitId, PlanId, RunId, parse_id
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.plans.model import PlanQuery
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag, parse_tag, parse_timestamp
from knit_workflows.wire.times import parse_duration

MAX_ITEMS: Final = 1000
"""Items that one page of a list may have."""
MAX_DETAILED: Final = 10_000
"""Data, and Runs, in one lineage response; each takes some KiB."""
MAX_IDS: Final = 100_000
"""The same where a response has nothing but ids and edges."""

_DEFAULT_HOPS: Final = 3
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_LARGE: Final = re.compile(r"[0-9]{1,18}")
"""What a database takes as a number of eight bytes."""
_STATUSES: Final = {s.value: s for s in RunStatus if s is not RunStatus.INVALIDATED}

UUID_PATTERN: Final = "^{}$".format(ID_PATTERN.replace("a-f", "A-Fa-f"))  # either case is read
_ID_OR_NOTHING: Final = f"^({UUID_PATTERN[1:-1]})?$"
_CURSOR_PATTERN: Final = rf"^([0-9]{{0,14}}\.)?{ID_PATTERN}$"
_DURATION_PATTERN: Final = r"^([+-]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+))?$"


def _read(parse: Callable[..., object], described: Any) -> PlainValidator:
    """Reads a value with `parse`; the document describes what may be written as `described`."""
    return PlainValidator(parse, json_schema_input_type=described)


# ---------------------------------------------------------------- ids in paths


def _id(unknown: type[errors.NotFound]) -> PlainValidator:
    def parse(text: str) -> str:
        one = parse_id(text)
        if one is None:  # what cannot be an id is not found, as any other unknown one
            raise unknown(see=text[:80])
        return one

    return _read(parse, Annotated[str, Field(pattern=UUID_PATTERN)])


KnitIdPath = Annotated[KnitId, _id(errors.DataNotFound), Path(description="the id of a Data")]
PlanIdPath = Annotated[PlanId, _id(errors.PlanNotFound), Path(description="the id of a Plan")]
RunIdPath = Annotated[RunId, _id(errors.RunNotFound), Path(description="the id of a Run")]
DeliveryIdPath = Annotated[
    str, _id(errors.DeliveryNotFound), Path(description="the id of a delivery to a hook")
]

TokenIdPath = Annotated[str, _id(errors.TokenNotFound), Path(description="the id of a token")]

# ---------------------------------------------------------------- values in queries


def _refused(name: str | None, text: str, advice: str) -> InvalidRequest:
    return InvalidRequest(f"bad request: {name} is {text[:80]!r}", advice=advice)


def refuse_system_keys(keys: Iterable[str]) -> None:
    """Raises InvalidRequest when one of the keys is knit's own."""
    for key in keys:
        if Tag(key, "").is_system:
            raise InvalidRequest(
                f"format error: the tag key {key[:80]!r} is knit's own",
                advice="leave tags that begin with knit# out; knit itself gives and removes them",
            )


def _tags(texts: Iterable[str]) -> tuple[Tag, ...]:
    tags = dict.fromkeys(parse_tag(text) for text in texts)
    for tag in tags:
        if tag.key == KEY_TIMESTAMP:
            parse_timestamp(tag.value)
    return tuple(tags)


def _user_tags(texts: Iterable[str]) -> tuple[Tag, ...]:
    tags = _tags(texts)
    refuse_system_keys(tag.key for tag in tags)
    return tags


def _listed(values: Iterable[str]) -> list[str]:
    listed = (one.strip() for value in values for one in value.split(","))
    return [value for value in listed if value]


def _ids(values: Iterable[str]) -> frozenset[str] | None:
    listed = _listed(values)
    ids = frozenset(one for one in map(parse_id, listed) if one is not None)
    return None if listed and not ids else ids


def _run(text: str) -> RunId | None:
    if not text:
        return None
    one = parse_id(text)
    if one is None:
        raise errors.RunNotFound(f"there is no Run {text[:80]!r}", see=text[:80])
    return RunId(one)


def _statuses(values: Iterable[str]) -> frozenset[RunStatus]:
    listed = _listed(values)
    for text in listed:
        if text not in _STATUSES:
            raise InvalidRequest(
                f"bad request: there is no status {text[:80]!r} to look for",
                advice=f"statuses are {', '.join(_STATUSES)}",
            )
    return frozenset(_STATUSES[text] for text in listed)


def _flag(text: str, info: ValidationInfo) -> bool | None:
    if text not in ("true", "false", ""):
        raise _refused(info.field_name, text, "write true or false")
    return text == "true" if text else None


def _count(name: str | None, text: str, advice: str, form: re.Pattern[str] = _COUNT) -> int:
    if not form.fullmatch(text):
        raise _refused(name, text, advice)
    return int(text)


def _number(text: str, info: ValidationInfo) -> int:
    return _count(info.field_name, text, "write a number")


def _offset(text: str, info: ValidationInfo) -> int:
    return _count(info.field_name, text, "write a number", _LARGE)


def _limit(text: str) -> int:
    advice = f"write a number from 1 to {MAX_ITEMS}, or leave it out"
    limit = _count("limit", text, advice)  # an empty one is a mistake
    if not 1 <= limit <= MAX_ITEMS:
        raise InvalidRequest(f"bad request: limit is {limit}", advice=advice)
    return limit


def _hops(text: str, info: ValidationInfo) -> int | Literal["all"] | None:
    if text == "all":
        return "all"
    return _count(info.field_name, text, "write a number, or all") if text else None


def _instant(text: str, info: ValidationInfo) -> datetime | None:
    if not text:
        return None
    try:
        return parse_instant(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        # In a query an unescaped plus is a blank, and that is nearly always what went wrong.
        hint = "write %2B for the + of its offset" if " " in text else "write it as RFC 3339"
        raise InvalidRequest(f"bad request: {info.field_name}: {error}", advice=hint) from error


def _entry_id(text: str) -> str:
    if not _LARGE.fullmatch(text):
        raise InvalidRequest(
            f"bad request: {text[:80]!r} is not a cursor of this list",
            advice="take it from the header X-Next-Cursor, or start again without one",
        )
    return text


def _noun(text: str) -> Noun:
    if text not in list(Noun):
        raise _refused("of", text, f"write one of {', '.join(Noun)}")
    return Noun(text)


def _prefix(text: str) -> str:
    if "\0" in text:
        raise InvalidRequest("bad request: prefix has a NUL", advice="leave it out")
    return text


_OneTag = Annotated[
    Tag,
    GetPydanticSchema(lambda *_: is_instance_schema(Tag)),
    WithJsonSchema({"type": "string", "pattern": ":"}),
]
_Tags = Annotated[tuple[_OneTag, ...], BeforeValidator(_tags)]
_UserTags = Annotated[tuple[_OneTag, ...], BeforeValidator(_user_tags)]
_Ids = Annotated[frozenset[str] | None, _read(_ids, str)]
"""None: there are values, but none of them can be an id, so that nothing can match."""
_Statuses = Annotated[frozenset[RunStatus], _read(_statuses, str)]
_Flag = Annotated[bool | None, _read(_flag, Literal["true", "false", ""])]
_Text = Annotated[str | None, _read(lambda text: text or None, str)]
_Number = Annotated[int, _read(_number, int)]
_Offset = Annotated[int, _read(_offset, int)]
_Hops = Annotated[int | Literal["all"] | None, _read(_hops, str)]
_LIMIT: Final = _read(_limit, Annotated[int, Field(ge=1, le=MAX_ITEMS)])
_INSTANT: Final = {"type": "string", "anyOf": [{"format": "date-time"}, {"const": ""}]}
_DURATION: Final = Annotated[str, Field(pattern=_DURATION_PATTERN)]
_CURSOR: Final = Annotated[str, Field(pattern=_CURSOR_PATTERN)]
_NOUN: Final = Annotated[str, WithJsonSchema({"type": "string", "enum": list(Noun)})]

# ---------------------------------------------------------------- queries, one model each


class _Query(BaseModel):
    model_config = ConfigDict(frozen=True)


class Page(_Query):
    """Which part of a list is wanted; without `limit` all that follows the cursor."""

    limit: Annotated[int | None, _LIMIT] = Field(
        None, description=f"1 to {MAX_ITEMS}: as many items at most; absent: all", examples=[100]
    )
    cursor: Annotated[str | None, _read(lambda text: str(parse_cursor(text)), _CURSOR)] = Field(
        None,
        description="the header `X-Next-Cursor` of the page before; its other filters are to be"
        " given again",
    )


class _Since(_Query):
    since: Annotated[datetime | None, _read(_instant, Annotated[str, WithJsonSchema(_INSTANT)])] = (
        Field(None, description="RFC 3339; the first instant", examples=["2026-01-02T00:00:00Z"])
    )


class _Window(_Since):
    duration: Annotated[str | None, _read(lambda text: text or None, _DURATION)] = Field(
        None,
        description="as Go writes it (`1h30m`); from `since`, which is required then, exclusive",
        examples=["24h"],
    )

    @property
    def until(self) -> datetime | None:
        """The end of the window, None if it has none; raises InvalidRequest."""
        if self.duration is None:
            return None
        if self.since is None:
            raise InvalidRequest(
                "bad request: duration is given without since",
                advice="give since too: the time where the duration begins",
            )
        try:
            return self.since + parse_duration(self.duration)
        except (ValueError, OverflowError) as error:
            raise InvalidRequest(
                f"bad request: duration: {error}", advice="write it like 300ms, 1.5h or 2h45m"
            ) from error


class DataFilter(Page, _Window):
    """The query of `GET /data`."""

    tag: _Tags = Field(
        (), description="`key:value`; a Data has all of them", examples=[["type:dataset"]]
    )

    def to_domain(self) -> DataQuery:
        """Gives the filter; raises InvalidRequest."""
        return DataQuery(tags=self.tag, since=self.since, until=self.until)


class UploadOptions(_Query):
    """The query of `POST /data`."""

    tag: _UserTags = Field(
        (), description="`key:value`; the Data begins with it", examples=[["type:dataset"]]
    )


class PurgeOptions(_Query):
    """The query of `POST /data/{knitId}/purge`."""

    dry_run: _Flag = Field(
        None, description="`true`: say what would go, and how many bytes; change nothing"
    )


class PlanFilter(Page):
    """The query of `GET /plans`."""

    active: _Flag = Field(None, description="`true` or `false`", examples=["true"])
    image: _Text = Field(
        None,
        description="`repository[:tag][@digest]`, exactly; what is not named may be any",
        examples=["localhost:5000/train:v2"],
    )
    in_tag: _Tags = Field((), description="`key:value`; one input has all of them")
    out_tag: _Tags = Field((), description="`key:value`; one output or the log has them")

    def to_domain(self) -> PlanQuery:
        """Gives the filter; raises InvalidRequest."""
        repository, image_tag, digest = _image(self.image)
        return PlanQuery(
            active=self.active,
            repository=repository,
            image_tag=image_tag,
            image_digest=digest,
            input_tags=self.in_tag,
            output_tags=self.out_tag,
        )


def _image(text: str | None) -> tuple[str | None, str | None, str | None]:
    """Gives repository, tag and digest; None for what is not named, which may be any."""
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


class RegistrationOptions(_Query):
    """The query of `POST /plans`."""

    confirm: _Flag = Field(None, description="`true`: however many Runs it creates at once")
    dry_run: _Flag = Field(
        None, description="`true`: register nothing, say which Runs there would be"
    )


class RunFilter(Page, _Window):
    """The query of `GET /runs`."""

    plan: _Ids = Field(frozenset(), description="comma-separated ids of Plans")
    input_ids: _Ids = Field(
        frozenset(),
        alias="knitIdInput",
        description="comma-separated ids of Data that are an input",
    )
    output_ids: _Ids = Field(
        frozenset(),
        alias="knitIdOutput",
        description="comma-separated ids of Data that are an output or log",
    )
    status: _Statuses = Field(
        frozenset(), description="comma-separated statuses", examples=["running,done"]
    )

    def to_domain(self) -> RunQuery | None:
        """Gives the filter, None when nothing can match it; raises InvalidRequest."""
        until = self.until
        if self.plan is None or self.input_ids is None or self.output_ids is None:
            return None
        return RunQuery(
            plan_ids=self.plan,
            input_knit_ids=self.input_ids,
            output_knit_ids=self.output_ids,
            statuses=self.status,
            since=self.since,
            until=until,
        )


class DeliveryFilter(Page, _Since):
    """The query of `GET /hooks/deliveries`."""

    run: Annotated[RunId | None, _read(_run, Annotated[str, Field(pattern=_ID_OR_NOTHING)])] = (
        Field(None, description="the id of a Run: only calls for it")
    )
    failed: _Flag = Field(
        None, description="`true`: only those that have neither succeeded nor been skipped"
    )

    def to_domain(self) -> DeliveryQuery:
        """Gives the filter."""
        return DeliveryQuery(run_id=self.run, failed=bool(self.failed), since=self.since)


class AuditFilter(Page, _Since):
    """The query of `GET /audit`."""

    limit: Annotated[int | None, _LIMIT] = Field(
        100, description=f"at most so many: 1 to {MAX_ITEMS} (100)"
    )
    cursor: Annotated[
        str | None, _read(_entry_id, Annotated[str, Field(pattern="^[0-9]{1,18}$")])
    ] = Field(None, description="the header `X-Next-Cursor` of the page before")
    until: Annotated[datetime | None, _read(_instant, Annotated[str, WithJsonSchema(_INSTANT)])] = (
        Field(None, description="RFC 3339; exclusive", examples=["2026-01-03T00:00:00Z"])
    )
    actor: _Text = Field(None, description="the name of who asked, or the subject")

    def to_domain(self) -> AuditQuery:
        """Gives the filter."""
        return AuditQuery(actor=self.actor, since=self.since, until=self.until)


class LogOptions(_Query):
    """The query of `GET /runs/{runId}/log`."""

    follow: Annotated[bool, _read(lambda _: True, str)] = Field(
        False, description="any value: go on with what is added, until the Run has ended"
    )
    offset: _Offset = Field(
        0, description="leave so many bytes out; a server that does says so in `Log-Offset`"
    )


class LineageOptions(_Query):
    """The query of `GET /data/{knitId}/lineage`."""

    upstream: _Hops = Field(
        None, description="how many Runs far back, or `all`; both absent: 3 both ways"
    )
    downstream: _Hops = Field(
        None, description="how many Runs far on, or `all`; both absent: 3 both ways"
    )
    limit: _Number = Field(
        MAX_DETAILED,
        description=f"at most so many Data, and Runs: 1 to {MAX_DETAILED} (the default),"
        f" with `fields=ids` to {MAX_IDS}; a larger lineage is a conflict",
    )
    fields: _Text = Field(
        None, description="`ids`: nothing but ids and edges, some ten times as fast"
    )

    def check(self) -> None:
        """Raises InvalidRequest when the parameters do not go together."""
        if self.fields not in (None, "ids"):
            raise _refused("fields", str(self.fields), "write ids, or leave it out")
        limit = MAX_IDS if self.fields else MAX_DETAILED
        if not 1 <= self.limit <= limit:
            advice = f"write a number from 1 to {limit}"
            raise InvalidRequest(f"bad request: limit is {self.limit}", advice=advice)

    def hops(self) -> tuple[int | None, int | None]:
        """Gives how many Runs far to go upstream and downstream; None is all the way."""
        if self.upstream is None and self.downstream is None:
            return _DEFAULT_HOPS, _DEFAULT_HOPS
        up, down = (
            None if hops == "all" else hops or 0 for hops in (self.upstream, self.downstream)
        )
        return up, down


class CompletionOptions(_Query):
    """The query of `GET /completions`."""

    noun: Annotated[Any, _read(_noun, _NOUN)] = Field(
        "",  # refused, as what cannot be read is
        validate_default=True,
        alias="of",
        description="what: ids, tags, or keys of tags",
        examples=[Noun.TAGS.value],
    )
    prefix: Annotated[str, _read(_prefix, str)] = Field(
        "", description="how they begin; absent: the newest", examples=["type:"]
    )
    limit: Annotated[int, _LIMIT] = Field(
        100, description=f"at most so many: 1 to {MAX_ITEMS} (100)"
    )
