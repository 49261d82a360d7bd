"""The body of an upload: its chunks as received, its decoder, and the checksum at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.server.sockets import DetachedBody, detached_body
from knit_api.server.trailers import request_trailers
from knit_api.transfers.codecs import CHECKSUM_TRAILER, GZIPPED_TAR, PLAIN_TAR, Decoder
from knit_workflows.archive import FILES_AND_LINKS, Form
from knit_workflows.domain.errors import InvalidArchive

_TYPES: Final = (GZIPPED_TAR, PLAIN_TAR)


class UploadBody:
    """The body of a request: iterated once over its chunks as sent, or `detached` for a thread.

    Raises:
        HttpProblem: the client sent nothing for `timeout` (408).
        ClientDisconnected: the client left.
    """

    def __init__(self, request: Request, media_type: str, timeout: timedelta) -> None:
        self._request = request
        self._detached: DetachedBody | None = None
        self._timeout = timeout.total_seconds()
        announced = request.headers.get("trailer", "").lower()
        # Hashing is half of an upload's work, so it is done only if there will be a checksum.
        self.decoder = Decoder(media_type, with_checksum=CHECKSUM_TRAILER in announced)

    def checksum(self) -> str | None:
        """Gives the checksum trailer, which follows the body; None if the client sent none."""
        if self._detached is not None:
            return self._detached.trailer(CHECKSUM_TRAILER)
        return request_trailers(self._request.scope).get(CHECKSUM_TRAILER)

    @contextmanager
    def detached(self) -> Iterator[DetachedBody | None]:
        """Detaches the body, for a thread that reads it from its socket; None: iterate instead."""
        with detached_body(self._request.scope, self._timeout) as self._detached:
            yield self._detached

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._request.stream())
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise HttpProblem(
                    408, "the client sent nothing for too long", "push again"
                ) from error
            except ClientDisconnect as error:
                raise ClientDisconnected(
                    "the client closed the connection within the body"
                ) from error
            if chunk is None:
                return
            if chunk:
                yield chunk


class EarlyResponse(Response):
    """A response that does not need the request's body, which is read and discarded.

    A client that reads while it sends sees the response at once and may hang up; one that reads
    only after its last byte finds it then, instead of a connection reset in the middle of the body.
    """

    def __init__(self, response: Response, request: Request, body: UploadBody) -> None:
        super().__init__(response.body, response.status_code, media_type=response.media_type)
        self._body = body
        # A client that expects `100 Continue` takes a final response for a refusal of the body.
        self._body_follows = "expect" not in request.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response; ends it when the body has ended, the client left, or it timed out."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if self._body_follows:
            with suppress(ClientDisconnected, HttpProblem):
                async for _ in self._body:
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def upload_body(request: Request, timeout: timedelta) -> UploadBody:
    """Gives the request's body as an archive; raises HttpProblem (415) for other types."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type not in _TYPES or encoding != "identity":
        raise HttpProblem(
            415,
            f"the media type {media_type[:80]!r} is not one of an archive",
            f"send gzip(tar) as {GZIPPED_TAR} or plain tar as {PLAIN_TAR}",
            headers={"Accept": ", ".join(_TYPES)},
        )
    return UploadBody(request, media_type, timeout)


def negotiate_archive(accept: str) -> tuple[str, Form]:
    """Gives media type and form of the archive: plain tar if `Accept` prefers it, else gzip(tar).

    The first supported type of the list counts; weights are ignored. Folders and holes are sent
    only if a parameter of that type asks for them: other clients would make files of them.
    """
    for part in accept.split(","):
        media_type, *parameters = (word.strip().lower() for word in part.split(";"))
        if media_type in _TYPES:
            asked = dict(word.partition("=")[::2] for word in parameters)
            return media_type, Form.asked(asked.get("entries"), asked.get("holes"))
    return GZIPPED_TAR, FILES_AND_LINKS


def refused_archive(reason: str, member: str | None) -> InvalidArchive:
    """Gives the error for an archive that cannot be unpacked, naming the member at fault."""
    place = f"{member!r}: " if member else ""
    return InvalidArchive(
        f"the archive is refused: {place}{reason}",
        advice="nothing of it was kept; pack the folder anew, then push again",
    )
