"""The body of an upload as it comes in: chunks, its decoder, and the checksum at its end."""

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

_TYPES: Final = (GZIPPED_TAR, PLAIN_TAR)


class UploadBody:
    """Iterates once over the chunks of a request's body as they were sent; or `taken` gives them.

    Raises HttpProblem (408) when the client sends nothing for `silence`, ClientDisconnected when it
    leaves.
    """

    def __init__(self, request: Request, media_type: str, silence: timedelta) -> None:
        self._request = request
        self._taken: DetachedBody | None = None
        self._silence = silence.total_seconds()
        announced = request.headers.get("trailer", "").lower()
        # Hashing is half of an upload's work, so it is done only for those who will compare.
        self.decoder = Decoder(media_type, with_checksum=CHECKSUM_TRAILER in announced)

    def checksum(self) -> str | None:
        """Gives what the client said at the end of the body; None when it said nothing."""
        if self._taken is not None:
            return self._taken.trailer(CHECKSUM_TRAILER)
        return request_trailers(self._request.scope).get(CHECKSUM_TRAILER)

    @contextmanager
    def taken(self) -> Iterator[DetachedBody | None]:
        """Holds the body for a thread that reads it from its socket; None: iterate instead."""
        with detached_body(self._request.scope, self._silence) as self._taken:
            yield self._taken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._request.stream())
        while True:
            try:
                async with asyncio.timeout(self._silence):
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
    """An answer that does not need the request's body: whatever of that comes is thrown away.

    Who looks for an answer while sending sees it at once and may hang up; who looks only after the
    last byte finds it then, and not a connection that was broken off under the body.
    """

    def __init__(self, answer: Response, request: Request, body: UploadBody) -> None:
        super().__init__(answer.body, answer.status_code, media_type=answer.media_type)
        self._body = body
        # Such a client waits for leave to send a body, and takes the answer for a no.
        self._comes = "expect" not in request.headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, then listens for the end of the body, the client leaving or silence."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if self._comes:
            with suppress(ClientDisconnected, HttpProblem):
                async for _ in self._body:
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def upload_body(request: Request, silence: timedelta) -> UploadBody:
    """Gives the request's body as an archive. Raises HttpProblem (415) for other types."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type not in _TYPES or encoding != "identity":
        raise HttpProblem(
            415,
            f"the media type {media_type[:80]!r} is not one of an archive",
            f"send gzip(tar) as {GZIPPED_TAR} or plain tar as {PLAIN_TAR}",
            headers={"Accept": ", ".join(_TYPES)},
        )
    return UploadBody(request, media_type, silence)


def negotiate_archive(accept: str) -> tuple[str, Form]:
    """Gives type and form of the archive to send: plain tar for who asks for it, else gzip(tar).

    Of a list the first type that we have counts; weights are not looked at. Folders and holes go
    only to who asks for them with parameters of that type: others make files of them.
    """
    for part in accept.split(","):
        media_type, *parameters = (word.strip().lower() for word in part.split(";"))
        if media_type in _TYPES:
            asked = dict(word.partition("=")[::2] for word in parameters)
            return media_type, Form.asked(asked.get("entries"), asked.get("holes"))
    return GZIPPED_TAR, FILES_AND_LINKS
