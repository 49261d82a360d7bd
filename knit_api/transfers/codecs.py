"""The encodings of an archive in HTTP: plain tar or gzip, with a checksum of the encoded bytes."""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from typing import Final, Protocol

from knit_workflows.domain.errors import InvalidArchive
from knit_workflows.metrics.instruments import TRANSFER_BYTES

GZIPPED_TAR: Final = "application/tar+gzip"
PLAIN_TAR: Final = "application/x-tar"
CHECKSUM_TRAILER: Final = "x-checksum-md5"

_RECEIVED: Final = TRANSFER_BYTES.labels("upload")
_MAX_BYTES: Final = 1 << 20
_GZIP: Final = 31  # zlib's number for "a gzip header, the largest window"
_FAST: Final = 1
_BLOCK_BYTES: Final = 0xFFFF  # the most that one stored block can hold
_GZIP_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"
_PIECE_BYTES: Final = 256 << 10
_SAMPLES: Final = 4
_SAMPLE_BYTES: Final = 2048
_WORTH_IT: Final = 0.9
"""What a sample must shrink to: zlib takes ten times as long for what does not get smaller."""


class _Encoding(Protocol):
    """One encoding of a tar, being decoded."""

    def feed(self, data: bytes | memoryview) -> None: ...
    def read(self) -> bytes | memoryview: ...
    def finish(self) -> None: ...


class Decoder:
    """Turns the chunks of a body into chunks of plain tar of at most 1 MiB, in constant memory.

    Feed a chunk, then read until nothing comes; call `finish` at the end of the body. Not for
    several threads at once.
    """

    def __init__(self, media_type: str, *, with_checksum: bool) -> None:
        self._encoding: _Encoding = _Inflater() if media_type == GZIPPED_TAR else _Plain()
        self._md5 = hashlib.md5(usedforsecurity=False) if with_checksum else None

    def feed(self, data: bytes | memoryview) -> None:
        """Takes a chunk of the body, which must not change until `read` gives nothing."""
        _RECEIVED.inc(len(data))
        if self._md5 is not None:
            self._md5.update(data)
        self._encoding.feed(data)

    def read(self) -> bytes | memoryview:
        """Gives plain tar, empty when more of the body is needed; raises InvalidArchive."""
        return self._encoding.read()

    def finish(self, checksum: str | None) -> None:
        """Verifies the body as a whole.

        `checksum` is the trailer of the client; None (it sent none, or a proxy dropped it) leaves
        the archive's own checksums.

        Raises:
            InvalidArchive: the body is truncated, or was changed.
        """
        self._encoding.finish()
        if self._md5 is None or checksum is None:
            return
        if not hmac.compare_digest(
            checksum.strip().lower().encode(), self._md5.hexdigest().encode()
        ):
            raise InvalidArchive(
                "the checksum does not match: the body was changed on its way",
                advice="push again; if it happens again, look for a proxy that changes bodies",
            )


class _Plain:
    """No encoding."""

    def __init__(self) -> None:
        self._pending: bytes | memoryview = b""

    def feed(self, data: bytes | memoryview) -> None:
        self._pending = data

    def read(self) -> bytes | memoryview:
        chunk, self._pending = self._pending, b""
        return chunk

    def finish(self) -> None:
        pass


class _Inflater:
    """gzip: one or more members, possibly followed by zeros (as some tools leave)."""

    def __init__(self) -> None:
        self._pending = b""
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes | memoryview) -> None:
        self._pending += data

    def read(self) -> bytes:
        while True:
            if self._member is None:
                if self._members:
                    self._pending = self._pending.lstrip(b"\0")
                if not self._pending:
                    return b""
                self._member = zlib.decompressobj(_GZIP)
            if not self._pending:
                return b""
            chunk = self._inflate(self._member)
            if chunk:
                return chunk

    def _inflate(self, member: zlib._Decompress) -> bytes:
        try:
            chunk = member.decompress(self._pending, _MAX_BYTES)
        except zlib.error as error:
            raise InvalidArchive(
                f"the body is not gzip, or it is damaged ({error})",
                advice=f"send gzip(tar) as {GZIPPED_TAR}, or plain tar as {PLAIN_TAR}",
            ) from error
        if member.eof:
            self._pending = member.unused_data
            self._member = None
            self._members += 1
        else:
            self._pending = member.unconsumed_tail
        return chunk

    def finish(self) -> None:
        if self._member is not None or not self._members:
            raise InvalidArchive(
                "the gzip stream is cut off", advice="push again; the connection may have broken"
            )


class _Packer(Protocol):
    """One way to write gzip."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Adapting:
    """gzip that compresses what gets smaller by it, and stores the rest, which is much quicker.

    Pieces are deflated one by one, each up to a byte boundary, so stored blocks fit in between.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._crc = 0
        self._size = 0
        self._head = _GZIP_HEAD

    def compress(self, data: bytes, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        if not self._pending and len(data) >= _PIECE_BYTES:
            return self._packed(data)
        self._pending += data
        if len(self._pending) < _PIECE_BYTES:
            return b""
        piece = bytes(self._pending)
        self._pending.clear()
        return self._packed(piece)

    def _packed(self, piece: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + (_deflated(piece) if _is_compressible(piece) else _stored(piece))

    def flush(self) -> bytes:
        rest = self._packed(bytes(self._pending))
        tail = struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF)
        return rest + _stored_block(b"", last=True) + tail


def _is_compressible(data: bytes) -> bool:
    """Judges a piece by some of its bytes, from all over it."""
    step = max(len(data) // _SAMPLES, _SAMPLE_BYTES)
    sample = b"".join(data[at : at + _SAMPLE_BYTES] for at in range(0, len(data), step))
    return len(zlib.compress(sample, _FAST)) < len(sample) * _WORTH_IT


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(_FAST, wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


def _stored(data: bytes) -> bytes:
    starts = range(0, len(data), _BLOCK_BYTES)
    return b"".join(_stored_block(data[at : at + _BLOCK_BYTES], last=False) for at in starts)


def _stored_block(content: bytes, *, last: bool) -> bytes:
    size = len(content)
    return struct.pack("<BHH", last, size, size ^ 0xFFFF) + content


class _Storing:
    """gzip that does not compress (RFC 1951, 3.2.4), so that its length is known in advance."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._crc = 0
        self._size = 0
        self._head = _GZIP_HEAD

    def compress(self, data: bytes, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._pending += data
        whole = len(self._pending) // _BLOCK_BYTES * _BLOCK_BYTES
        blocks = _stored(bytes(self._pending[:whole]))
        del self._pending[:whole]
        head, self._head = self._head, b""
        return head + blocks

    def flush(self) -> bytes:
        tail = struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF)
        return self._head + _stored_block(bytes(self._pending), last=True) + tail

    @staticmethod
    def length(size: int) -> int:
        return 10 + size + 5 * (size // _BLOCK_BYTES + 1) + 8


class Encoder:
    """Turns chunks of plain tar into a body and computes its checksum.

    With `stored`, gzip is not compressed: see `stored_bytes`.
    """

    def __init__(self, media_type: str, *, stored: bool = False) -> None:
        self._packer: _Packer | None = None
        if media_type == GZIPPED_TAR:
            # Fast rather than small: the network is seldom slower than zlib at its best.
            self._packer = _Storing() if stored else _Adapting()
        self._md5 = hashlib.md5(usedforsecurity=False)

    @staticmethod
    def stored_bytes(media_type: str, size: int) -> int:
        """Gives the size of the `stored` body of a plain tar of that size."""
        return _Storing.length(size) if media_type == GZIPPED_TAR else size

    def encode(self, chunk: bytes) -> bytes:
        """Gives the encoded bytes that are ready; may be empty."""
        if self._packer is None:
            return chunk
        data = self._packer.compress(chunk)
        self._md5.update(data)
        return data

    def finish(self) -> bytes:
        """Gives the remainder."""
        if self._packer is None:
            return b""
        data = self._packer.flush()
        self._md5.update(data)
        return data

    def checksum(self) -> str:
        """Gives the MD5 of everything encoded, in lower-case hex; for gzip only."""
        return self._md5.hexdigest()
