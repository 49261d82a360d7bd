"""One upload, sent until it is known what became of it: one Data at the end, or an error.

A key tells the server that several requests mean the same upload. Half an archive makes no Data, so
what was cut within its body is sent anew under another key. What was cut behind it may have
arrived: it is sent again under its own key, and a server that has made a Data of it answers with
that; one that is just doing so says so; and one where it came to nothing says that too, so that it
is safe to begin anew. A server that cannot do it now is asked again some times, likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Generic, TypeVar
from uuid import UUID, uuid4

from knit_cli.api.retry import Retry
from knit_cli.errors import ApiBroken, ApiRefused, ApiUnreachable, ConnectionCut

T = TypeVar("T")

KEY_HEADER = "Idempotency-Key"
MAY_HAVE_ARRIVED = (
    "it may have arrived all the same; look for it before you push again: "
    "knit data find --since TIME"
)

_ATTEMPTS = 6
"""With their pauses, they outlast the restart of a server."""
_LOST_BY_A_PROXY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)


class IdempotentUpload(Generic[T]):
    """One upload to a server that knows what keys are for.

    Args:
        send: sends all of it once, under that key; raises errors of our tree.
        retry: how to wait.
    """

    def __init__(self, send: Callable[[UUID], T], retry: Retry) -> None:
        self._send = send
        self._retry = retry
        self._key = uuid4()
        self._lost = False  # whether an answer to this key was
        self._put_off = False  # whether the answer to this key was "not now"

    def run(self) -> T:
        """Gives what became of it. Raises what `send` does."""
        try:
            return self._retry.on_cut(self._attempt, repeatable=True, attempts=_ATTEMPTS)
        except ApiUnreachable as unreachable:
            if self._lost:
                unreachable.advice = MAY_HAVE_ARRIVED
            elif isinstance(unreachable.__cause__, ApiBroken):  # it does answer, and says why not
                raise unreachable.__cause__ from None
            raise

    def _attempt(self) -> T:
        try:
            return self._retry.while_in_progress(self._once)
        except ApiRefused as refused:
            if not (self._lost or self._put_off):
                raise
            if refused.retry_after is not None:
                refused.advice = MAY_HAVE_ARRIVED
            if refused.retry_after is not None or refused.status != HTTPStatus.CONFLICT:
                raise
        self._retry.notify("what was sent before has not become a Data, sending it anew")
        self._key, self._lost, self._put_off = uuid4(), False, False
        return self._once()

    def _once(self) -> T:
        try:
            return self._send(self._key)
        except ConnectionCut as cut:
            self._lost = self._lost or not cut.safe_to_retry
            if not self._lost:
                self._key = uuid4()
            raise
        except ApiBroken as broken:
            if broken.status in _LOST_BY_A_PROXY:
                self._lost = True
            elif broken.status == HTTPStatus.SERVICE_UNAVAILABLE:
                self._put_off = True
            else:
                raise
            again = ConnectionCut(f"no upload yet: {broken.reason}")
            again.retry_after = broken.retry_after
            raise again from broken


class UploadedBody:
    """The body of an upload; `ended`: all of it was taken, its end may have been sent."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.ended = False

    def chunks(self) -> Iterator[bytes]:
        """Gives the pieces; httpx sends what an iterator gives chunked, without a length."""
        yield from self._chunks
        self.ended = True
