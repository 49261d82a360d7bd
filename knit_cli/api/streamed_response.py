"""What is known of a body while it is being received."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

from knit_cli.api.archive_transport import TRAILERS
from knit_cli.api.responses import is_framed

_OFFSET, _SIZE, _LOG_ID = "Log-Offset", "Log-Size", "Log-Knit-Id"


@dataclass(frozen=True)
class Stream:
    """A body that is being received."""

    media_type: str
    """Without parameters, in lower case."""
    chunks: Iterator[bytes]
    """Given once."""
    framed: bool
    """Whether its head says where it ends, so that a cut is an error while reading."""
    trailers: Mapping[str, str]
    """By lower-case name, there when all was read; empty where they do not come through."""
    offset: int
    """How many bytes of a log were left out before the first, as was asked for."""
    size: int | None
    """How many bytes a log had in all when it was asked for; not of one that is followed."""
    log_id: str | None
    """Of which Data a log is the content; older servers do not say so."""


def stream_of(response: httpx.Response) -> Stream:
    """Gives the body of an answer of which only the head has been read."""
    headers = response.headers
    return Stream(
        headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        response.iter_raw(),
        framed=is_framed(response),
        trailers=response.extensions.get(TRAILERS, {}),
        offset=int(headers.get(_OFFSET, "0")),
        size=int(headers[_SIZE]) if _SIZE in headers else None,
        log_id=headers.get(_LOG_ID),
    )
