"""Copies the archive of a Data as it arrives, and verifies on the way that it is complete.

HTTP framing only covers the last hop: behind a proxy that speaks HTTP/1.0 to the next one, a body
that was cut ends like a complete one. So completeness is read from the archive itself: the final
blocks of the tar, and the checksum and length at the end of gzip.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing

from knit_cli.api.streamed_response import StreamedResponse
from knit_cli.transfer.byte_streams import (
    ChunkReader,
    DamagedStream,
    copied_to,
    counted,
    gunzipped,
    prefetch,
)
from knit_workflows.archive import ArchiveCut, ArchiveRefused, TarReader
from knit_workflows.archive.tar import NOTE, shown

_CHECKSUM_TRAILER = "x-checksum-md5"
"""MD5 of the body as it was sent, in lower-case hex."""


def copy_verified(
    response: StreamedResponse,
    on_bytes: Callable[[int], None],
    write: Callable[[bytes], object],
    excluded: Callable[[str, str], object],
) -> None:
    """Writes gzip(tar) as it arrives, and returns once its end is verified.

    Entries that `unpack` would refuse are written too; the user may want them.

    Args:
        response: the download.
        on_bytes: receives the length of each chunk.
        write: receives each chunk.
        excluded: receives path and kind of each thing that the archive notes as left out.

    Raises:
        ArchiveCut, StreamCut: it ends too early, and so does what was written.
        ArchiveRefused, DamagedStream: it is not an archive, or a damaged one.
    """
    chunks = prefetch(counted(response.chunks, on_bytes))
    plain = gunzipped(copied_to(write, _verified(chunks, response.trailers)))
    with closing(plain):
        _read_to_end(plain, excluded)


def _read_to_end(plain: Iterator[bytes], excluded: Callable[[str, str], object]) -> None:
    try:
        for member in TarReader(ChunkReader(plain)).members():
            if member.kind == NOTE:
                excluded(shown(member.name), shown(member.link))
    except ArchiveRefused as refused:
        if isinstance(refused, ArchiveCut) or refused.member is None:
            raise
        for _ in plain:
            pass


def _verified(chunks: Iterator[bytes], trailers: Mapping[str, str]) -> Generator[bytes, None, None]:
    """Passes the chunks on, then compares their checksum with the trailer, if one arrived."""
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        md5.update(chunk)
        yield chunk
    stated = trailers.get(_CHECKSUM_TRAILER)
    if stated is None:
        return
    if not hmac.compare_digest(stated.lower().encode(), md5.hexdigest().encode()):
        raise DamagedStream("the checksum does not match: the archive was altered in transit")
