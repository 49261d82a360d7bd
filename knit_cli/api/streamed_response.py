"""A response whose body is read as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

from knit_cli.api.archive_transport import TRAILERS
from knit_cli.api.responses import is_framed

_SIZE, _LOG_ID = "Log-Size", "Log-Knit-Id"


@dataclass(frozen=True)
class StreamedResponse:
    """A response whose body is still arriving."""

    chunks: Iterator[bytes]
    """The body; can be iterated once."""
    framed: bool
    """Whether the head says where the body ends, so that a cut raises an error."""
    trailers: Mapping[str, str]
    """By lower-case name, complete once the body was read; empty if a proxy drops them."""
    size: int | None
    """Bytes of a log at the time of the request; None while it is followed."""
    log_id: str | None
    """The Data whose content a log is; None if a proxy dropped the header."""
    coding: str = ""
    """The content coding of the body; empty if it has none."""

    @classmethod
    def of(cls, response: httpx.Response) -> StreamedResponse:
        """Wraps a response of which only the head has been read."""
        headers = response.headers
        return cls(
            response.iter_raw(),
            framed=is_framed(response),
            trailers=response.extensions.get(TRAILERS, {}),
            size=int(headers[_SIZE]) if _SIZE in headers else None,
            log_id=headers.get(_LOG_ID),
            coding=_coding_of(headers.get("Content-Encoding", "")),
        )


def _coding_of(header: str) -> str:
    coding = header.strip().lower()
    return "" if coding == "identity" else coding
