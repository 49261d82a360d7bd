"""Speaks the tar format: bytes to members and members to bytes; knows nothing of any file system.

Written by hand because the standard library's reader needs some 80 µs a member, follows pax headers
of any size into memory, and takes a stream that ends early for one that ends well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
CHUNK = 1 << 20
END_OF_ARCHIVE = bytes(2 * BLOCK)

FILE, HARD_LINK, SYMLINK, FOLDER = b"0", b"1", b"2", b"5"

_ZERO_BLOCK = bytes(BLOCK)
_PLAIN_FILES = (b"0", b"\0", b"7")
_NOT_DATA = {b"3": "character device", b"4": "block device", b"6": "named pipe"}
_MAX_META_BYTES = 256 << 10  # two paths of 4 KiB and some attributes of up to 64 KiB
_MAX_META_IN_A_ROW = 4  # long name, long link, pax, and one global header
_MAX_PADDING_BYTES = 16 << 20
_MAX_OCTAL_SIZE = 0o77777777777


class ArchiveRefused(ValueError):
    """The archive is broken, or would do something an archive of Data must not do.

    Attributes:
        reason: one sentence fragment for people, e.g. ``the name is absolute``.
        member: the entry at fault as text, or None when the stream as a whole is.
    """

    def __init__(self, reason: str, member: str | None = None) -> None:
        super().__init__(reason if member is None else f"{member!r}: {reason}")
        self.reason = reason
        self.member = member


class ArchiveCut(ArchiveRefused):
    """The archive ends before its own end: what came of it is fine, and not all."""


class Readable(Protocol):
    """What an archive is read from; a short answer is fine, an empty one is the end.

    What it gives need be good only until the next call, so that it can use one buffer for all.
    """

    def read(self, size: int, /) -> bytes | memoryview: ...  # noqa: D102


class Member(NamedTuple):
    """One entry as the archive states it; nothing in it has been judged yet."""

    kind: bytes
    """One of FILE, HARD_LINK, SYMLINK, FOLDER."""
    name: bytes
    link: bytes
    """Where a link points to, else empty."""
    mode: int
    mtime: int
    """Seconds since 1970, UTC."""
    size: int
    """Bytes of content that follow; 0 for everything but files."""


def shown(name: bytes) -> str:
    """The name as text that can always be printed."""
    return name.decode("utf-8", "backslashreplace")


class TarReader:
    """Reads members one after another from a stream, holding at most two chunks of it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._buffer = memoryview(b"")
        self._left = 0  # bytes of content of the current member not handed out yet
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """The members in the order of the stream; ends after end-of-archive blocks and padding.

        Content not taken by `content` is skipped.

        Raises:
            ArchiveRefused: the stream is not tar, ends early, or holds kinds Data cannot have.
        """
        meta: dict[bytes, bytes] = {}
        in_a_row = 0
        while (block := self._next_header()) is not None:
            kind = block[156:157]
            if kind in b"xXgLK":
                in_a_row += 1
                if in_a_row > _MAX_META_IN_A_ROW:
                    raise ArchiveRefused("too many header extensions in a row")
                self._read_meta(kind, block, meta)
                continue
            yield self._member(kind, block, meta)
            meta, in_a_row = {}, 0
        if in_a_row and meta:
            raise ArchiveRefused("the archive ends after a header extension")
        self._expect_only_padding()

    def content(self) -> Iterator[memoryview]:
        """The content of the current member in pieces."""
        while self._left:
            piece = self._some(self._left)
            self._left -= len(piece)
            yield piece

    # --- the stream -----------------------------------------------------------------------------

    def _some(self, most: int) -> memoryview:
        """Between 1 and `most` bytes."""
        if not self._buffer:
            self._buffer = memoryview(self._source.read(CHUNK))
            if not self._buffer:
                raise ArchiveCut("the archive is cut off")
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    def _exactly(self, size: int) -> bytes:
        piece = self._some(size)
        if len(piece) == size:
            return bytes(piece)
        gathered = bytearray(piece)
        while len(gathered) < size:
            gathered += self._some(size - len(gathered))
        return bytes(gathered)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))

    def _next_header(self) -> bytes | None:
        """The next header block, or None after the two zero blocks that end an archive."""
        self._skip(self._left + self._padding)
        self._left = self._padding = 0
        block = self._exactly(BLOCK)
        if block == _ZERO_BLOCK:
            if self._exactly(BLOCK) != _ZERO_BLOCK:
                raise ArchiveRefused("an empty block stands in the middle of the archive")
            return None
        stated = _number(block[148:156], "checksum")
        if stated != sum(block) - sum(block[148:156]) + 8 * 32:
            raise ArchiveRefused("this is not a tar archive, or it is damaged (header checksum)")
        return block

    def _expect_only_padding(self) -> None:
        """Reads the stream to its end, so that whoever feeds it sees its trailer.

        A second archive behind the first would be lost without a word; hence anything but zeros is
        refused.
        """
        seen = 0
        piece: memoryview | bytes = self._buffer
        while piece or (piece := self._source.read(CHUNK)):
            seen += len(piece)
            if seen > _MAX_PADDING_BYTES or bytes(piece).strip(b"\0"):
                raise ArchiveRefused("something follows the end of the archive")
            piece = b""
        self._buffer = memoryview(b"")

    # --- headers --------------------------------------------------------------------------------

    def _read_meta(self, kind: bytes, block: bytes, meta: dict[bytes, bytes]) -> None:
        size = _number(block[124:136], "size")
        if size > _MAX_META_BYTES:
            raise ArchiveRefused(f"a header extension of {size} bytes is too large")
        text = self._exactly(size) if size else b""
        self._padding = -size % BLOCK
        if kind == b"L":
            meta[b"L"] = text.rstrip(b"\0")
        elif kind == b"K":
            meta[b"K"] = text.rstrip(b"\0")
        else:
            records = dict(_pax_records(text))
            if any(key.startswith(b"GNU.sparse") for key in records):
                raise ArchiveRefused("sparse files are not supported; pack without --sparse")
            if kind == b"g":
                if not records.keys().isdisjoint((b"path", b"linkpath", b"size")):
                    raise ArchiveRefused("a global header gives every entry the same name or size")
                return
            meta.update(records)

    def _member(self, kind: bytes, block: bytes, meta: dict[bytes, bytes]) -> Member:
        name = meta.get(b"path") or meta.get(b"L") or _short_name(block)
        link = meta.get(b"linkpath") or meta.get(b"K") or block[157:257].partition(b"\0")[0]
        if kind in _PLAIN_FILES:
            kind = FOLDER if kind == b"\0" and name.endswith(b"/") else FILE  # as before POSIX
        elif kind not in (HARD_LINK, SYMLINK, FOLDER):
            what = _NOT_DATA.get(kind)
            reason = f"a {what} cannot be Data" if what else f"kind {kind!r} is not supported"
            raise ArchiveRefused(reason, shown(name))
        size = _pax_size(meta[b"size"]) if b"size" in meta else _number(block[124:136], "size")
        if size and kind != FILE:
            raise ArchiveRefused("a link or folder comes with content", shown(name))
        self._left, self._padding = size, -size % BLOCK
        link = link if kind in (HARD_LINK, SYMLINK) else b""
        mode = _number(block[100:108], "mode")
        before_1970 = block[136] == 0xFF
        mtime = 0 if before_1970 else min(_number(block[136:148], "time"), _MAX_OCTAL_SIZE)
        return Member(kind, name, link, mode, mtime, size)


def _short_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _number(field: bytes, what: str) -> int:
    """A header's number: octal text, or GNU's big-endian binary when the first bit is set."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise ArchiveRefused(f"a header has a negative or absurd {what}")
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not text:
        return 0
    if not text.isdigit():
        raise ArchiveRefused(f"this is not a tar archive, or it is damaged (header {what})")
    try:
        return int(text, 8)
    except ValueError:
        raise ArchiveRefused(f"a header's {what} is not octal") from None


def _pax_size(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ArchiveRefused("a header extension has an absurd size")
    return int(text)


def _pax_records(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records ``<length> <key>=<value>\\n`` of a pax header, in their order."""
    at = 0
    while at < len(text):
        digits, space, _ = text[at : at + 12].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else 0
        key, equals, value = text[at + len(digits) + 1 : end].partition(b"=")
        if not equals or end > len(text) or not value.endswith(b"\n"):
            raise ArchiveRefused("a header extension is malformed")
        yield key, value[:-1]
        at = end


def encode(member: Member) -> bytes:
    """The header of a member: one block, preceded by a pax header where a field does not fit.

    Owners are always 0 and nameless: whose account made a file is nobody's business elsewhere.
    """
    records = b""
    prefix, name = _split_name(member.name)
    if name is None:
        records += _pax_record(b"path", member.name)
        name = member.name[:100]
    if len(member.link) > 100:
        records += _pax_record(b"linkpath", member.link)
    size = member.size
    if size > _MAX_OCTAL_SIZE:
        records += _pax_record(b"size", b"%d" % size)
        size = 0
    block = _block(member.kind, name, prefix, member, size)
    if not records:
        return block
    extension = Member(b"x", b"", b"", 0o644, member.mtime, 0)
    head = _block(b"x", b"././@PaxHeader", b"", extension, len(records))
    return head + records + bytes(-len(records) % BLOCK) + block


def _split_name(name: bytes) -> tuple[bytes, bytes | None]:
    """The name as (prefix, name) of a ustar header; name is None when it fits in no way."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101, -1)
    if 0 < cut <= 155:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _pax_record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while length != len(body) + len(b"%d" % length):
        length = len(body) + len(b"%d" % length)
    return b"%d" % length + body


def _block(kind: bytes, name: bytes, prefix: bytes, member: Member, size: int) -> bytes:
    mtime = min(max(member.mtime, 0), _MAX_OCTAL_SIZE)
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(100, b"\0"), member.mode & 0o7777, 0, 0, size, mtime,
    )  # fmt: skip
    tail = b"%s%sustar\0%s%07o\0%07o\0%s" % (
        kind, member.link[:100].ljust(100, b"\0"), b"00" + bytes(64), 0, 0,
        prefix.ljust(167, b"\0"),
    )  # fmt: skip
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail
