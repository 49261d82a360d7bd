"""The tar format: parses bytes into members and encodes members; uses no file system.

Written by hand because the standard library's reader needs some 80 µs per member, reads pax headers
of any size into memory, and takes a truncated stream for a complete one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from knit_workflows.archive import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
CHUNK = 1 << 20
END_OF_ARCHIVE = bytes(2 * BLOCK)

FILE, HARD_LINK, SYMLINK, FOLDER, PIPE = b"0", b"1", b"2", b"5", b"6"
NOTE = b"g"
"""Not an entry: a note of what was left out of the archive, and why."""

MAX_PATH_BYTES = 1 << 20
"""Longer paths are neither packed nor unpacked: 4,000 folders whose names have 255 bytes."""
MAX_DEPTH = 1 << 16
"""More folders inside folders are neither packed nor unpacked."""

_ZERO_BLOCK = bytes(BLOCK)
_PLAIN_FILES = (b"0", b"\0", b"7")
_OLD_SPARSE = b"S"
_KINDS = (HARD_LINK, SYMLINK, FOLDER, PIPE)
_REFUSED = {
    b"3": "a character device cannot be Data",
    b"4": "a block device cannot be Data",
    b"V": "it is a volume label, which cannot be Data; pack without --label",
    b"M": "it continues a file of another archive; pack without --multi-volume",
    b"D": "it is the listing of an incremental backup; pack without --listed-incremental",
    b"N": "it is a list of long names as very old tools wrote it; pack with another tool",
    b"A": "it is an access list as Solaris writes it; pack without them",
    b"E": "it is an attribute as Solaris writes it; pack without them",
    b"I": "it is an entry without content, as Solaris writes it; pack with another tool",
}
_NOTE_START = b"left out by knit: "
_MAX_META_BYTES = (2 * MAX_PATH_BYTES) + (256 << 10)  # two paths and some attributes
_SHOWN_BYTES = 2048
_MAX_META_IN_A_ROW = 4  # long name, long link, pax, and one global header
_MAX_PADDING_BYTES = 16 << 20
_MAX_OCTAL_SIZE = 0o77777777777


class ArchiveRefused(ValueError):
    """The archive is invalid, or contains what an archive of Data must not contain.

    Attributes:
        reason: one sentence fragment for people, e.g. ``the name is absolute``.
        member: the entry at fault as text, or None when the stream as a whole is.
    """

    def __init__(self, reason: str, member: str | None = None) -> None:
        super().__init__(reason if member is None else f"{member!r}: {reason}")
        self.reason = reason
        self.member = member


class ArchiveCut(ArchiveRefused):
    """The archive is truncated: what was read of it is valid, but not complete."""


class Readable(Protocol):
    """The source of an archive; short reads are fine, an empty one is the end.

    The result of a read need only be valid until the next, so that one buffer serves all.
    """

    def read(self, size: int, /) -> bytes | memoryview: ...  # noqa: D102


class Member(NamedTuple):
    """One entry as the archive states it; nothing in it has been checked yet."""

    kind: bytes
    """One of FILE, HARD_LINK, SYMLINK, FOLDER, PIPE, NOTE."""
    name: bytes
    link: bytes
    """Where a link points to; in a note what the thing is; else empty."""
    mode: int
    mtime: int
    """Seconds since 1970, UTC."""
    size: int
    """Bytes of the file, holes included; 0 for everything but files."""
    segments: sparse.Segments | None = None
    """Where the content that follows belongs in a file with holes."""


def shown(name: bytes) -> str:
    """Formats the name as printable text; a very long one without its middle."""
    if len(name) > 2 * _SHOWN_BYTES:
        name = name[:_SHOWN_BYTES] + b" ... " + name[-_SHOWN_BYTES:]
    return name.decode("utf-8", "backslashreplace")


class TarReader:
    """Reads members one after another from a stream; holds at most two chunks of it."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._buffer = memoryview(b"")
        self._left = 0  # bytes of content of the current member not handed out yet
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Yields the members in order; ends after the end-of-archive blocks and padding.

        Content that is not read with `content` is skipped.

        Raises:
            ArchiveRefused: the stream is not tar, ends early, or holds kinds Data cannot have.
        """
        meta: dict[bytes, bytes] = {}
        in_a_row = 0
        extended = False  # whether what comes next must be a member
        while (block := self._next_header()) is not None:
            kind = block[156:157]
            if kind in b"xXgLK":
                note = self._read_meta(kind, block, meta)
                if note is not None and not extended:
                    yield note
                    continue
                in_a_row += 1
                if in_a_row > _MAX_META_IN_A_ROW:
                    raise ArchiveRefused("too many header extensions in a row")
                extended = extended or kind != b"g"
                continue
            yield self._member(kind, block, meta)
            meta, in_a_row, extended = {}, 0, False
        if extended:
            raise ArchiveRefused("the archive ends after a header extension")
        self._expect_only_padding()

    def content(self) -> Iterator[memoryview]:
        """Yields the content of the current member in chunks."""
        while self._left:
            chunk = self._some(self._left)
            self._left -= len(chunk)
            yield chunk

    # --- the stream -----------------------------------------------------------------------------

    def _some(self, limit: int) -> memoryview:
        """Returns between 1 and `limit` bytes."""
        if not self._buffer:
            self._buffer = memoryview(self._source.read(CHUNK))
            if not self._buffer:
                raise ArchiveCut("the archive is cut off")
        chunk, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return chunk

    def _exactly(self, size: int) -> bytes:
        chunk = self._some(size)
        if len(chunk) == size:
            return bytes(chunk)
        gathered = bytearray(chunk)
        while len(gathered) < size:
            gathered += self._some(size - len(gathered))
        return bytes(gathered)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))

    def _next_header(self) -> bytes | None:
        """Returns the next header block; None after the two zero blocks that end an archive."""
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
        """Reads the stream to its end, so that the source can check its trailers.

        A second archive after the first would be lost silently, so anything but zeros is refused.
        """
        seen = 0
        chunk: memoryview | bytes = self._buffer
        while chunk or (chunk := self._source.read(CHUNK)):
            seen += len(chunk)
            if seen > _MAX_PADDING_BYTES or bytes(chunk).strip(b"\0"):
                raise ArchiveRefused("something follows the end of the archive")
            chunk = b""
        self._buffer = memoryview(b"")

    # --- headers --------------------------------------------------------------------------------

    def _read_meta(self, kind: bytes, block: bytes, meta: dict[bytes, bytes]) -> Member | None:
        """Reads a header extension of the next member; a note is itself a member."""
        size = _number(block[124:136], "size")
        if size > _MAX_META_BYTES:
            raise ArchiveRefused(f"a header extension of {size} bytes is too large")
        text = self._exactly(size) if size else b""
        self._padding = -size % BLOCK
        if kind in b"LK":
            meta[kind] = text.rstrip(b"\0")
            return None
        if kind == b"g":
            return _global_note(text)
        segments: list[bytes] = []
        for key, value in _pax_records(text):
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
                meta[key] = value
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0: many of each
                segments.append(value)
        if segments:
            meta[b"GNU.sparse.map"] = b",".join(segments)
        return None

    def _member(self, kind: bytes, block: bytes, meta: dict[bytes, bytes]) -> Member:
        name = (
            meta.get(b"GNU.sparse.name") or meta.get(b"path") or meta.get(b"L")
            or _short_name(block)
        )  # fmt: skip
        link = meta.get(b"linkpath") or meta.get(b"K") or block[157:257].partition(b"\0")[0]
        if kind in _PLAIN_FILES:
            kind = FOLDER if kind == b"\0" and name.endswith(b"/") else FILE  # as before POSIX
        elif kind not in _KINDS and kind != _OLD_SPARSE:
            reason = _REFUSED.get(kind, f"entries of kind {kind.decode('latin-1')!r} are not known")
            raise ArchiveRefused(reason, shown(name))
        stored = _pax_size(meta[b"size"]) if b"size" in meta else _number(block[124:136], "size")
        if stored and kind not in (FILE, _OLD_SPARSE):
            raise ArchiveRefused("what has no content comes with content", shown(name))
        self._left, self._padding = stored, -stored % BLOCK
        try:
            segments = self._segments(kind, block, meta)
            size = stored if segments is None else _expanded_size(kind, block, meta)
            if segments is not None:
                sparse.check(segments, size, self._left)
        except sparse.BadMap as bad:
            raise ArchiveRefused(str(bad), shown(name)) from None
        kind = FILE if kind == _OLD_SPARSE else kind
        link = link if kind in (HARD_LINK, SYMLINK) else b""
        mode = _number(block[100:108], "mode")
        before_1970 = block[136] == 0xFF
        mtime = 0 if before_1970 else min(_number(block[136:148], "time"), _MAX_OCTAL_SIZE)
        return Member(kind, name, link, mode, mtime, size, segments)

    def _segments(
        self, kind: bytes, block: bytes, meta: dict[bytes, bytes]
    ) -> sparse.Segments | None:
        """Where the data of a file with holes belongs; None for other members."""
        if kind == _OLD_SPARSE:
            return sparse.read_gnu_header(block, lambda: self._exactly(BLOCK))
        if kind != FILE:
            return None
        if b"GNU.sparse.map" in meta:
            text = meta[b"GNU.sparse.map"]
            return sparse.read_numbers(text.split(b",") if text else [])
        if b"GNU.sparse.major" not in meta:
            return None
        version = meta[b"GNU.sparse.major"], meta.get(b"GNU.sparse.minor", b"0")
        if version != (b"1", b"0"):
            raise sparse.BadMap("a sparse file is stored in an unknown way")
        return sparse.read_map_block(self._map_block)

    def _map_block(self) -> bytes:
        if self._left < BLOCK:
            raise sparse.BadMap("the map of a sparse file is cut off")
        self._left -= BLOCK
        return self._exactly(BLOCK)


def _expanded_size(kind: bytes, block: bytes, meta: dict[bytes, bytes]) -> int:
    if kind == _OLD_SPARSE:
        return _number(block[483:495], "size")
    text = meta.get(b"GNU.sparse.realsize") or meta.get(b"GNU.sparse.size")
    if text is None:
        raise sparse.BadMap("a sparse file does not say its size")
    return _pax_size(text)


def _global_note(text: bytes) -> Member | None:
    """The note in a global header, if it is one of ours; others may say nothing about entries."""
    for key, value in _pax_records(text):
        if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
            raise ArchiveRefused("a global header gives every entry the same name or size")
        if key == b"comment" and value.startswith(_NOTE_START):
            what, _, path = value[len(_NOTE_START) :].partition(b": ")
            return Member(NOTE, path, what, 0, 0, 0)
    return None


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
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
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

    Owner and group are always 0, without names: they mean nothing on another machine. For
    the same reason set-id bits are dropped: unpacked by root, they would lend root's rights.
    """
    if member.kind == NOTE:
        return _encoded_note(member)
    records = b""
    prefix, name = _split_name(member.name)
    if name is None:
        records += _pax_record(b"path", member.name)
        name = member.name[:100]
    if len(member.link) > 100:
        records += _pax_record(b"linkpath", member.link)
    size = member.size
    before_content = b""
    if member.segments is not None:
        # Tools that do not know sparse files unpack map and data under this other name.
        prefix, name = b"", b"GNUSparseFile.0/" + member.name.rpartition(b"/")[2][:80]
        before_content = sparse.map_block(member.segments)
        records = b"".join([
            _pax_record(b"GNU.sparse.major", b"1"),
            _pax_record(b"GNU.sparse.minor", b"0"),
            _pax_record(b"GNU.sparse.name", member.name),
            _pax_record(b"GNU.sparse.realsize", b"%d" % member.size),
        ])  # fmt: skip
        size = len(before_content) + sparse.stored_bytes(member.segments)
    if size > _MAX_OCTAL_SIZE:
        records += _pax_record(b"size", b"%d" % size)
        size = 0
    block = _block(member.kind, name, prefix, member, size) + before_content
    return _extension(b"x", b"././@PaxHeader", records, member.mtime) + block if records else block


def _encoded_note(note: Member) -> bytes:
    text = _NOTE_START + note.link + b": " + note.name
    return _extension(b"g", b"pax_global_header", _pax_record(b"comment", text), 0)


def _extension(kind: bytes, name: bytes, records: bytes, mtime: int) -> bytes:
    block = _block(kind, name, b"", Member(kind, b"", b"", 0o644, mtime, 0), len(records))
    return block + records + bytes(-len(records) % BLOCK)


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
        name.ljust(100, b"\0"), member.mode & 0o777, 0, 0, size, mtime,
    )  # fmt: skip
    tail = b"%s%sustar\0%s%07o\0%07o\0%s" % (
        kind, member.link[:100].ljust(100, b"\0"), b"00" + bytes(64), 0, 0,
        prefix.ljust(167, b"\0"),
    )  # fmt: skip
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail
