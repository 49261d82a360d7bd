"""Responds with the content of a Data as an archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from knit_api.deps import Deps
from knit_api.responses import StreamedResponse
from knit_api.server.streams import Chunks, finish_despite_cancel
from knit_api.transfers.codecs import CHECKSUM_TRAILER, GZIPPED_TAR, PLAIN_TAR, Encoder
from knit_api.transfers.direct_archive import DirectArchiveResponse
from knit_api.transfers.lifecycle import reading
from knit_api.transfers.volume_access import VolumeAccess
from knit_workflows.archive import Form, Span
from knit_workflows.domain import errors
from knit_workflows.domain.ids import KnitId

CODED: Final = "Content-Encoding"
CODING: Final = "zstd"


async def download(
    deps: Deps,
    knit_id: KnitId,
    media_type: str,
    form: Form,
    *,
    direct: bool = False,
    chunked: bool = True,
    accept_encoding: str = "",
) -> StreamedResponse:
    """Gives the response: an archive of that media type and form.

    With `direct` a thread may write it to the client's connection. Without `chunked` the volume is
    measured first, so that the response has a length, and is not compressed. A plain tar is
    compressed on its way if `accept_encoding`, the client's header, prefers zstd.

    Raises:
        DataNotFound: there is no such Data, or it has no content.
        TransferNotReady: its Run has not started.
        HttpProblem: its length cannot be measured (426).
        Unavailable: store, Temporal or volume.
    """
    store = await deps.store.get()
    run = (await store.data.get(knit_id)).upstream.run
    if not run.status.has_volumes:
        raise errors.TransferNotReady(
            "the Data has no volume yet: its Run has not started",
            advice="wait for its Run, or pull a Data that is done",
            see=run.run_id,
        )
    encoder = Encoder(media_type, stored=not chunked)
    headers = _coding(accept_encoding) if chunked and media_type == PLAIN_TAR else {}
    async with AsyncExitStack() as stack:
        volume = await stack.enter_async_context(reading(deps, knit_id))
        length = None if chunked else await _stored_bytes(volume, media_type, form)
        spans = volume.spans(form) if direct and media_type == PLAIN_TAR else None
        if spans is not None:
            return await _direct(deps, spans, stack, media_type, headers)
        chunks = await prefetched(stack, volume.archive(form))
        with_checksum = media_type == GZIPPED_TAR
        return StreamedResponse(
            _compressed(chunks, deps) if CODED in headers else _encoded(chunks, encoder, deps),
            stack.pop_all(),
            media_type,
            write_timeout=deps.timeouts.write,
            headers=headers,
            trailers=(lambda: {CHECKSUM_TRAILER: encoder.checksum()}) if with_checksum else None,
            trailer_names=CHECKSUM_TRAILER,
            length=length,
        )


def _coding(accept_encoding: str) -> dict[str, str]:
    """Gives the headers that say how a plain tar is coded, and that others may get it otherwise."""
    vary = {"Vary": "Accept, Accept-Encoding"}
    if CODING not in accept_encoding.lower():
        return vary
    # Here, since its library takes some MiB.
    from knit_api.transfers.zstd_coding import is_wanted

    return {CODED: CODING, **vary} if is_wanted(accept_encoding) else vary


def _compressed(chunks: AsyncIterator[bytes], deps: Deps) -> AsyncGenerator[bytes, None]:
    from knit_api.transfers.zstd_coding import compressed_chunks

    return compressed_chunks(chunks, deps.threads.steps)


async def _direct(
    deps: Deps,
    spans: Generator[bytes | Span, None, None],
    stack: AsyncExitStack,
    media_type: str,
    headers: Mapping[str, str],
) -> StreamedResponse:
    """Gives the response that a thread writes; what cannot be read at all is raised here."""
    if CODED in headers:
        from knit_api.transfers.zstd_coding import compressed_spans

        spans = compressed_spans(spans)
    loop = asyncio.get_running_loop()
    first = await finish_despite_cancel(
        loop.run_in_executor(deps.threads.downloads, next, spans, b"")
    )
    return DirectArchiveResponse(
        first,
        spans,
        stack.pop_all(),
        media_type,
        deps.threads.downloads,
        write_timeout=deps.timeouts.write,
        headers=headers,
    )


async def _stored_bytes(volume: VolumeAccess, media_type: str, form: Form) -> int:
    return Encoder.stored_bytes(media_type, await volume.archive_bytes(form))


async def _encoded(
    chunks: AsyncIterator[bytes], encoder: Encoder, deps: Deps
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    async for chunk in chunks:
        if data := await loop.run_in_executor(deps.threads.steps, encoder.encode, chunk):
            yield data
    if remainder := encoder.finish():
        yield remainder


async def prefetched(stack: AsyncExitStack, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """Fetches the first chunk, so that what cannot be read at all still gets an error response.

    The chunks are closed with the stack.
    """
    stack.push_async_callback(chunks.aclose)
    first = await anext(chunks, None)

    async def all_chunks() -> AsyncGenerator[bytes, None]:
        if first is not None:
            yield first
            async for chunk in chunks:
                yield chunk

    return all_chunks()
