"""Repeats an upload until its outcome is known: in the end there is one Data, or an error.

An idempotency key tells the server which requests mean the same upload.

* Cut within the body: half an archive makes no Data, so it is sent again under a new key.
* Cut after the body: it may have arrived, so it is sent again under the same key. The server then
  answers with the Data it made, or says that it is still in progress, or that it failed; after a
  failure a new key is safe.
* Server unavailable or overloaded: sent again a few times, likewise under the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from knit_cli.api.retry import PATIENT_ATTEMPTS, Retry, postponed
from knit_cli.errors import ApiRefused, ApiUnreachable, ConnectionCut

T = TypeVar("T")

KEY_HEADER = "Idempotency-Key"
MAY_HAVE_ARRIVED = (
    "it may have arrived nevertheless; look for it before you push again: "
    "knit data find --since TIME"
)

_LOST_BY_A_PROXY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
_NOT_NOW = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


class IdempotentUpload(Generic[T]):
    """One upload under an idempotency key.

    Args:
        send: sends everything once under that key; raises errors of our tree.
        retry: how to wait.
    """

    def __init__(self, send: Callable[[UUID], T], retry: Retry) -> None:
        self._send = send
        self._retry = retry
        self._key = uuid4()
        self._response_lost = False  # under this key
        self._postponed = False  # the server was unavailable under this key

    def run(self) -> T:
        """Uploads, and returns the result; raises what `send` does."""
        try:
            return self._retry.on_cut(self._attempt, repeatable=True, attempts=PATIENT_ATTEMPTS)
        except ApiUnreachable as unreachable:
            if self._response_lost:
                unreachable.advice = MAY_HAVE_ARRIVED
            elif isinstance(unreachable.__cause__, ApiRefused):  # it is reachable, and says why not
                raise unreachable.__cause__ from None
            raise

    def _attempt(self) -> T:
        try:
            return self._retry.while_in_progress(self._once)
        except ApiRefused as refused:
            if not (self._response_lost or self._postponed):
                raise
            if refused.retry_after is not None:
                refused.advice = MAY_HAVE_ARRIVED
            if refused.retry_after is not None or refused.status != HTTPStatus.CONFLICT:
                raise
        self._retry.notify("the previous attempt produced no Data; uploading again")
        self._key, self._response_lost, self._postponed = uuid4(), False, False
        return self._once()

    def _once(self) -> T:
        try:
            return self._send(self._key)
        except ConnectionCut as cut:
            self._response_lost = self._response_lost or not cut.safe_to_retry
            if not self._response_lost:
                self._key = uuid4()
            raise
        except ApiRefused as refused:
            if refused.status in _LOST_BY_A_PROXY:
                self._response_lost = True
            elif refused.status in _NOT_NOW:
                self._postponed = True
            else:
                raise
            raise postponed(refused, "not uploaded yet") from refused


class UploadedBody:
    """The body of an upload; `ended`: the transport took all of it and may have sent its end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.ended = False

    def chunks(self) -> Iterator[bytes]:
        """Gives the chunks; from an iterator httpx sends a chunked body without a length."""
        yield from self._chunks
        self.ended = True
