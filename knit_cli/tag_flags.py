"""Reads the tags that users type after flags, and refuses early what the API would refuse."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from knit_cli.errors import BadInput
from knit_cli.os_failures import not_utf8
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.tags import (
    KEY_TIMESTAMP,
    KEY_TRANSIENT,
    SYSTEM_PREFIX,
    TRANSIENT_VALUES,
)
from knit_workflows.wire.tags import Tag


def read_tags(texts: Iterable[str], flag: str) -> list[Tag]:
    """Reads tags written as `key:value`.

    Raises:
        BadInput: one has no colon or is not UTF-8; `flag` names where it was given.
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
    """Gives the tag `name:NAME` for the base name of a push source.

    Raises:
        BadInput: the name is not UTF-8, as file systems allow.
    """
    try:
        raise_unless_utf8(name)
    except BadInput as cause:
        cause.advice = "leave out --name, and choose a name yourself: --tag name:NAME"
        raise
    return Tag(key="name", value=name)


def raise_unless_utf8(text: str) -> None:
    """Checks a text from the command line or a file system; raises BadInput if it is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        raise not_utf8(text) from cause


def read_user_tags(texts: Iterable[str], flag: str) -> list[Tag]:
    """Reads tags that a user may put on Data.

    Raises:
        BadInput: as for `read_tags`.
        typer.BadParameter: one is a system tag, which only knit may set.
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
    """Reads tags to search for, and checks the values of system tags.

    Raises:
        BadInput: as for `read_tags`, or a system tag has a value that no Data can have.
    """
    tags = read_tags(texts, flag)
    for tag in tags:
        if tag.key == KEY_TRANSIENT and tag.value not in TRANSIENT_VALUES:
            known = " or ".join(TRANSIENT_VALUES)
            raise BadInput(
                f"{flag} {tag} matches nothing",
                reason=f"{KEY_TRANSIENT} is {known}",
                advice=" or ".join(f"{KEY_TRANSIENT}:{value}" for value in TRANSIENT_VALUES),
            )
        if tag.key == KEY_TIMESTAMP:
            _check_timestamp(tag, flag)
    return tags


def _check_timestamp(tag: Tag, flag: str) -> None:
    try:
        parse_instant(tag.value)
    except ValueError as cause:
        raise BadInput(
            f"{flag} {tag} is not a time",
            reason=str(cause),
            advice=f"write {KEY_TIMESTAMP}:2024-11-18T04:25:32.07+00:00",
        ) from cause
