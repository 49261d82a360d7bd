"""Maps of sparse files: where they have data and where holes, on disk and in formats of tar.

A map is a flat array: offset and length of one segment of data after another, ascending and
disjoint; what is between them and after the last is a hole. The last may be empty and only mark the
end of the file.
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Segments: TypeAlias = "array[int]"  # of the type code Q

MAX_SEGMENTS = 1 << 18
"""The most in an archive that is read: 4 MiB of memory."""
_MAX_WRITTEN = 1 << 16
_BLOCK = 512
_MAX_DIGITS = 20


class BadMap(ValueError):
    """The map of a sparse file is invalid; the message is a sentence fragment for people."""


def segments_of(descriptor: int, size: int, limit: int = _MAX_WRITTEN) -> Segments | None:
    """Maps a file of that size; None if it has no holes, or its file system cannot tell.

    With more than `limit` segments, the last one extends to the end of the file, holes included.
    """
    found = array("Q")
    at = 0
    try:
        while at < size and len(found) < 2 * limit:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
            if start >= size:
                break
            found.extend((start, at - start))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        if error.errno != errno.ENXIO:  # there is no data any more
            raise
        at = size
    if at < size:
        found[-1] = size - found[-2]
    end = found[-2] + found[-1] if found else 0
    if found[:2] == array("Q", (0, size)):
        return None
    if end < size:
        found.extend((size, 0))  # without it GNU tar would leave out the hole at the end
    return found


def write_segments(
    descriptor: int, content: Iterator[memoryview], segments: Segments, size: int
) -> None:
    """Writes the data of the segments, which `content` yields without gaps, into an empty file."""
    os.ftruncate(descriptor, size)
    chunk = memoryview(b"")
    for at, length in pairs(segments):
        end = at + length
        while at < end:
            chunk = chunk or next(content)
            written = os.pwrite(descriptor, chunk[: end - at], at)
            chunk = chunk[written:]
            at += written


def pairs(segments: Segments) -> Iterator[tuple[int, int]]:
    """Yields offset and length of each segment."""
    numbers = iter(segments)
    return zip(numbers, numbers, strict=True)


def stored_bytes(segments: Segments) -> int:
    """Gives the number of bytes of data."""
    return sum(segments[1::2])


def map_block(segments: Segments) -> bytes:
    """Encodes the map as GNU's format 1.0 has it before the data."""
    numbers = [len(segments) // 2, *segments]
    text = b"".join([b"%d\n" % number for number in numbers])
    return text + bytes(-len(text) % _BLOCK)


def read_map_block(blocks: Callable[[], bytes]) -> Segments:
    """Reads the map of format 1.0; `blocks` gives the next 512 bytes; raises BadMap."""
    found = array("Q")
    count: int | None = None
    remainder = b""
    while count is None or len(found) < 2 * count:
        *lines, remainder = (remainder + blocks()).split(b"\n")
        for line in lines:
            if count is None:
                count = _number(line)
                if count > MAX_SEGMENTS:
                    raise BadMap(f"a sparse file has more than {MAX_SEGMENTS} segments")
            elif len(found) < 2 * count:
                found.append(_number(line))
        if len(remainder) > _MAX_DIGITS and (count is None or len(found) < 2 * count):
            raise BadMap("the map of a sparse file is broken")
    return found


def read_numbers(numbers: Iterable[bytes]) -> Segments:
    """Reads the map of format 0.1, alternating offsets and lengths; raises BadMap."""
    found = array("Q", map(_number, numbers))
    if len(found) % 2 or len(found) > 2 * MAX_SEGMENTS:
        raise BadMap("the map of a sparse file is broken, or too long")
    return found


def read_gnu_header(block: bytes, more: Callable[[], bytes]) -> Segments:
    """Reads the map of GNU's old type `S`: four segments in the header, more in blocks."""
    found = array("Q")
    fields, count, extended = block[386:482], 4, block[482]
    while True:
        for start in range(0, count * 24, 24):
            if not fields[start] and not fields[start + 12]:
                break
            found.append(_octal(fields[start : start + 12]))
            found.append(_octal(fields[start + 12 : start + 24]))
        if not extended:
            return found
        if len(found) > 2 * MAX_SEGMENTS:
            raise BadMap(f"a sparse file has more than {MAX_SEGMENTS} segments")
        fields = more()
        count, extended = 21, fields[504]


def check(segments: Segments, size: int, stored: int) -> None:
    """Raises BadMap unless the segments are ascending, inside the file, and match its data."""
    end = 0
    for at, length in pairs(segments):
        if at < end or at + length > size:
            raise BadMap("the segments of a sparse file overlap, or lie outside of it")
        end = at + length
    if stored_bytes(segments) != stored:
        raise BadMap("the map of a sparse file does not match its data")


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > _MAX_DIGITS or int(digits) >= 1 << 63:
        raise BadMap("the map of a sparse file is broken")
    return int(digits)


def _octal(field: bytes) -> int:
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
    else:
        text = field.partition(b"\0")[0].strip()
        try:
            number = int(text, 8) if text.isdigit() else -1
        except ValueError:
            number = -1
    if not 0 <= number < 1 << 63:
        raise BadMap("the map of a sparse file is broken")
    return number
