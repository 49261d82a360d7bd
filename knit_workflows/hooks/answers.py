"""What an answer means.

A 2xx agrees. If it says that it is `application/json` (with or without parameters), its body has to
be a JSON object, `null`, or empty; any other body is not looked at. Everything else has failed, 3xx
too: redirects are never followed.
"""

from __future__ import annotations

import http
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from knit_workflows.hooks.failures import CallFailed, one_line

MAX_VALUE_BYTES: Final = (128 << 10) - 1
"""Linux starts no program with a longer `NAME=VALUE` in its environment."""
MAX_VARIABLES: Final = 1000
MAX_ENVIRONMENT_BYTES: Final = 512 << 10
"""Of all hooks together: with the command it has to fit into an object of a cluster (1.5 MiB)."""
_MAX_RETRY_AFTER: Final = 40
"""Characters."""
_MAX_SECONDS: Final = 86_400
_NAME: Final = re.compile(r"(?!\.\.?$|\.\.)[-._a-zA-Z][-._a-zA-Z0-9]*", re.ASCII)
"""Names of environment variables that every Kubernetes accepts."""


def is_json(content_type: str) -> bool:
    """Says whether a `Content-Type` is that of JSON; its parameters and case do not matter."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def refusal(status: int, location: str | None, beginning: str) -> str:
    """Explains an answer that is no 2xx; `beginning` is that of its body."""
    told = f"answered {phrase(status)}"
    if 300 <= status < 400:
        where = f" to {one_line(location)}" if location else ""
        return f"{told}{where}: redirects are never followed; put the hook's own URL into the file"
    return f"{told}: {beginning}" if beginning else told


def retry_after(text: str | None, now: float) -> timedelta:
    """Reads a `Retry-After`, seconds or a date; nothing if it is neither, or is over.

    Args:
        text: the value of the header; None if there is none.
        now: seconds since 1970, with which a date is compared.
    """
    if text is None or len(text) > _MAX_RETRY_AFTER:
        return timedelta()
    try:
        if text.strip().isdecimal():
            return timedelta(seconds=min(int(text), _MAX_SECONDS))
        seconds = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return timedelta()
    return timedelta(seconds=max(0.0, seconds))


def phrase(status: int) -> str:
    """Gives a status with its standard phrase."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def environment_of(body: bytes, *, wanted: bool) -> dict[str, str]:
    """Gives the environment that a hook asks for: `knitfabExtension.env` of a JSON body.

    Nothing of it is looked at unless it is `wanted`, but a body has to be JSON.

    Raises:
        CallFailed: the body is not such JSON, or has a name or value that no container could have.
    """
    document = _document(body)
    if not wanted:
        return {}
    extension = _mapping(document.get("knitfabExtension"), "knitfabExtension")
    asked = _mapping(extension.get("env"), "knitfabExtension.env")
    for name, value in asked.items():
        if fault := _variable_fault(name, value):
            raise CallFailed(f"its answer cannot be used: {fault}")
    return dict(asked)


def for_the_record(body: bytes) -> bytes:
    """Gives a JSON answer as it may be kept and shown: its environment without values, which may
    be secrets.

    Raises:
        CallFailed: see `environment_of`.
    """
    document = _document(body)
    if "knitfabExtension" not in document:
        return body
    extension = document["knitfabExtension"]
    asked = extension.get("env") if isinstance(extension, dict) else None
    names = dict.fromkeys(asked, "…") if isinstance(asked, dict) else "…"
    shown = {**document, "knitfabExtension": {"env": names}}
    return json.dumps(shown, ensure_ascii=False).encode(errors="replace")


def environment_fault(environment: Mapping[str, str]) -> str | None:
    """Says in words why no container could have what all hooks want together; None if one could."""
    size = sum(len(f"{name}={value}".encode()) for name, value in environment.items())
    if len(environment) > MAX_VARIABLES:
        found = f"{len(environment):,} variables, more than {MAX_VARIABLES:,}"
    elif size > MAX_ENVIRONMENT_BYTES:
        found = f"{size:,} bytes, more than {MAX_ENVIRONMENT_BYTES:,}"
    else:
        return None
    return f"its answer cannot be used: knitfabExtension.env of it and the hooks before has {found}"


def _document(body: bytes) -> Mapping[str, Any]:
    """Parses a body; empty and null count as `{}`."""
    if not body.strip():
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as cause:
        words = "too deep" if isinstance(cause, RecursionError) else one_line(str(cause))
        raise CallFailed(
            f"its answer says that it is application/json, but is not JSON: {words}"
        ) from cause
    return _mapping(document, "the JSON")


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CallFailed(f"its answer cannot be used: {place} is not an object")
    return value


def _variable_fault(name: str, value: object) -> str | None:
    shown = one_line(name)[:80]
    place = f"knitfabExtension.env has {shown!r}"
    if not _NAME.fullmatch(name):
        return (
            f"{place}, which is no name of an environment variable: use letters, digits, `-`, `_` "
            "and `.`, and no digit first"
        )
    if not isinstance(value, str):
        return f"{place} with a value that is not a string; put it into quotes"
    if "\0" in value:
        return f"{place} with a NUL character in its value"
    try:
        size = len(f"{name}={value}".encode())
    except UnicodeEncodeError:
        return f"{place} with half a surrogate pair in its value"
    if size > MAX_VALUE_BYTES:
        return f"{place} with {size} bytes, more than the {MAX_VALUE_BYTES} a program can be given"
    return None
