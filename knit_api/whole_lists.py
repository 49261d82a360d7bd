"""Whole lists: what is asked for without `limit`, in parts, so that no list is ever in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Final, Protocol, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from knit_api.responses import StreamedResponse, json_list_response
from knit_api.server.framing import accepts_chunks, needs_http_1_1
from knit_workflows.wire.base import Wire

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Q_contra = TypeVar("Q_contra", contravariant=True)
Parts = AsyncGenerator[Sequence[T], None]

PART: Final = 1000
"""So many items are read, rendered and sent before the next ones are."""
MAX_GATHERED: Final = 32 << 20
"""Bytes of a list that are kept in memory, for a client that can take no chunks."""
_JSON: Final = "application/json"


class Find(Protocol[Q_contra, T_co]):
    """A search in the store."""

    async def __call__(  # noqa: D102
        self, query: Q_contra, *, limit: int | None, after: str | None
    ) -> Sequence[T_co]: ...


class Searched(Protocol[Q_contra, T_co]):
    """A part of the store whose items move in the order of their list while they change."""

    async def find(  # noqa: D102
        self, query: Q_contra, *, limit: int | None, after: str | None
    ) -> Sequence[T_co]: ...
    async def find_ids(  # noqa: D102
        self, query: Q_contra, *, after: str | None
    ) -> Sequence[str]: ...
    async def get_each(self, ids: Sequence[str], /) -> Sequence[T_co]: ...  # noqa: D102


async def at_one_instant(
    store: Searched[Q_contra, T_co], query: Q_contra, after: str | None
) -> Parts[T_co]:
    """Gives all that a search finds at one instant, in its order.

    Each item comes once, as it is when its part is read, whatever is added, changed or moved
    meanwhile; one that is deleted is left out. Between two parts nothing is held but the ids, so a
    client may be as slow as it likes.
    """
    first = await store.find(query, limit=PART, after=after)
    if len(first) < PART:
        yield first
        return
    ids = await store.find_ids(query, after=after)
    for start in range(0, len(ids), PART):
        yield await store.get_each(ids[start : start + PART])


async def one_after_the_other(
    find: Find[Q_contra, T_co],
    query: Q_contra,
    after: str | None,
    cursor_of: Callable[[T_co], str],
) -> Parts[T_co]:
    """Gives all that a search finds, each part from where the one before has ended.

    Right for lists in which nothing moves: each item that is there all the time comes once.
    """
    while part := await find(query, limit=PART, after=after):
        yield part
        if len(part) < PART:
            return
        after = cursor_of(part[-1])


async def whole_list(
    request: Request,
    parts: Parts[T],
    to_wire: Callable[[], Callable[[T], Wire]],
    *,
    write_timeout: float,
) -> Response:
    """Gives all parts as one JSON array: with a length if there is only one part, else in chunks.

    An error after the first part ends the connection before the last chunk, and an array that is
    not closed is no JSON. Over HTTP/1.0, which has no chunks, a list is gathered first, and refused
    (426) if it has more than MAX_GATHERED bytes.

    Args:
        request: what is responded to.
        parts: closed in the end.
        to_wire: makes the mapping of one part.
        write_timeout: seconds that the client may take nothing.
    """
    first = await _next(parts) or ()
    second = await _next(parts)
    if second is None:
        return await json_list_response(first, to_wire())
    chunks = _chunks(_all(first, second, parts), to_wire)
    if not accepts_chunks(request.scope):
        async with aclosing(parts):
            return Response(await _gathered(chunks), media_type=_JSON)
    resources = AsyncExitStack()
    resources.push_async_callback(parts.aclose)
    return StreamedResponse(
        chunks, resources, _JSON, write_timeout=write_timeout, is_transfer=False
    )


async def _next(parts: Parts[T]) -> Sequence[T] | None:
    # Not `anext` with a default: in Python 3.11 that fails if it is a tuple.
    async for part in parts:
        return part
    return None


async def _chunks(
    parts: Parts[T], to_wire: Callable[[], Callable[[T], Wire]]
) -> AsyncGenerator[bytes, None]:
    """Gives the text of an array, a part at a time."""
    before = b"["
    async for part in parts:
        if part:
            yield before + await asyncio.to_thread(_items, part, to_wire())
            before = b","
    yield b"]\n" if before == b"," else b"[]\n"


async def _all(first: Sequence[T], second: Sequence[T], parts: Parts[T]) -> Parts[T]:
    yield first
    yield second
    async for part in parts:
        yield part


def _items(part: Sequence[T], to_wire: Callable[[T], Wire]) -> bytes:
    return to_json([to_wire(item) for item in part])[1:-1]


async def _gathered(chunks: AsyncGenerator[bytes, None]) -> bytes:
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) > MAX_GATHERED:
            raise needs_http_1_1("a list of this size")
    return bytes(gathered)
