"""Reads the tags people type after flags, and says early what the server would refuse."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from knit_cli.errors import BadInput
from knit_cli.os_failures import not_utf8
from knit_workflows.wire.tags import Tag
from knit_workflows.wire.times import parse_time

SYSTEM_PREFIX = "knit#"
TRANSIENT = "knit#transient"
TIMESTAMP = "knit#timestamp"
_TRANSIENT_VALUES = ("processing", "failed")


def read_tags(texts: Iterable[str], flag: str) -> list[Tag]:
    """Gives the tags written as `key:value`.

    Raises:
        BadInput: one has no colon; `flag` names where it was given.
    """
    given = list(texts)
    for text in given:
        raise_unless_utf8(text)
    try:
        return [Tag.parse(text) for text in given]
    except ValueError as cause:
        raise BadInput(
            f"cannot use a value of {flag}", reason=str(cause), advice=f"write {flag} KEY:VALUE"
        ) from cause


def name_tag(name: str) -> Tag:
    """Gives the tag with the base name of what is pushed.

    Raises:
        BadInput: it is not UTF-8, which file systems allow.
    """
    try:
        raise_unless_utf8(name)
    except BadInput as cause:
        cause.advice = "leave --name out, and give it a name of yours: --tag name:NAME"
        raise
    return Tag(key="name", value=name)


def raise_unless_utf8(text: str) -> None:
    """Raises BadInput when a text came from the command line or a file system and is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise not_utf8(text) from cause


def read_user_tags(texts: Iterable[str], flag: str) -> list[Tag]:
    """Gives tags that a user may put on Data.

    Raises:
        BadInput: one has no colon.
        typer.BadParameter: one is a system tag; those are knit's own.
    """
    tags = read_tags(texts, flag)
    for tag in tags:
        if tag.key.startswith(SYSTEM_PREFIX):
            raise typer.BadParameter(
                f"{tag} is a system tag; only knit itself sets or removes {SYSTEM_PREFIX}…",
                param_hint=flag,
            )
    return tags


def read_query_tags(texts: Iterable[str], flag: str) -> list[Tag]:
    """Gives tags to search for; of system tags the value is checked.

    Raises:
        BadInput: one has no colon, or a system tag has a value that no Data can have.
    """
    tags = read_tags(texts, flag)
    for tag in tags:
        if tag.key == TRANSIENT and tag.value not in _TRANSIENT_VALUES:
            raise BadInput(
                f"{flag} {tag} matches nothing",
                reason=f"{TRANSIENT} is either processing or failed",
                advice=f"write {TRANSIENT}:processing or {TRANSIENT}:failed",
            )
        if tag.key == TIMESTAMP:
            _check_timestamp(tag, flag)
    return tags


def _check_timestamp(tag: Tag, flag: str) -> None:
    try:
        parse_time(tag.value)
    except ValueError as cause:
        raise BadInput(
            f"{flag} {tag} is not a time",
            reason=str(cause),
            advice=f"write {TIMESTAMP}:2024-11-18T04:25:32.07+00:00",
        ) from cause
