"""Hands on the archive of a Data as it came, and proves on the way that all of it did.

The framing of HTTP tells only what the last hop has heard: behind a proxy that speaks HTTP/1.0 to
the next one, a body that was cut ends like a whole one. So an archive is believed for what is in
it: the blocks at the end of a tar, and the checksum and length at the end of gzip.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing

from knit_cli.api.client import PLAIN_TAR
from knit_cli.api.streamed_response import Stream
from knit_cli.transfer.byte_streams import (
    ChunkReader,
    DamagedStream,
    copied_to,
    counted,
    gunzipped,
    gzipped_to,
    prefetch,
)
from knit_workflows.archive import ArchiveCut, ArchiveRefused, TarReader
from knit_workflows.archive.tar import NOTE, shown

_CHECKSUM_TRAILER = "x-checksum-md5"
"""MD5 of the body as it was sent, in lower-case hex."""


def plain_tar(stream: Stream, on_bytes: Callable[[int], None]) -> Generator[bytes, None, None]:
    """Gives the archive as plain tar; `on_bytes` is told what came in.

    Raises:
        StreamCut, DamagedStream: as `gunzipped` does; or the checksum behind it is another one.
    """
    chunks = counted(stream.chunks, on_bytes)
    if stream.media_type == PLAIN_TAR:
        return chunks  # the kernel receives ahead; a thread of ours would only be in its way
    return gunzipped(_verified(prefetch(chunks), stream.trailers))


def copy_verified(
    stream: Stream,
    on_bytes: Callable[[int], None],
    write: Callable[[bytes], object],
    left_out: Callable[[str, str], object],
) -> None:
    """Writes the archive as gzip(tar) as it comes, to its proven end.

    An archive is kept with entries in it that we would not unpack: the user may. `left_out` is told
    the path of each thing that the archive says it does not hold, and what it is.

    Raises:
        ArchiveCut, StreamCut: it ends too early; so does what was written.
        ArchiveRefused, DamagedStream: it is no archive, or a damaged one.
    """
    chunks = counted(stream.chunks, on_bytes)
    if stream.media_type == PLAIN_TAR:
        plain = gzipped_to(write, chunks)
    else:
        plain = gunzipped(copied_to(write, _verified(prefetch(chunks), stream.trailers)))
    with closing(plain):
        _read_through(plain, left_out)


def _read_through(plain: Iterator[bytes], left_out: Callable[[str, str], object]) -> None:
    try:
        for member in TarReader(ChunkReader(plain)).members():
            if member.kind == NOTE:
                left_out(shown(member.name), shown(member.link))
    except ArchiveRefused as refused:
        if isinstance(refused, ArchiveCut) or refused.member is None:
            raise
        for _ in plain:
            pass


def _verified(chunks: Iterator[bytes], trailers: Mapping[str, str]) -> Generator[bytes, None, None]:
    """Gives the same pieces; compares the checksum behind them, where one has come through."""
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        md5.update(chunk)
        yield chunk
    stated = trailers.get(_CHECKSUM_TRAILER)
    if stated is None:
        return
    if not hmac.compare_digest(stated.lower().encode(), md5.hexdigest().encode()):
        raise DamagedStream("the checksum does not match: the archive was changed on its way")
