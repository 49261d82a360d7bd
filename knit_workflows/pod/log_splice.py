"""Assembles a container's log from several readings: nothing is lost, nothing appears twice.

The log is asked for with timestamps, so each line comes as ``<stamp> <content>\\n``, and a reading
can be resumed from a second on. This is how known lines are distinguished from new ones:

* Kubernetes resumes by whole seconds, so known lines come again. Stamps may be equal, and those of
  stdout and stderr may be out of order by a moment; but the order in the log never changes. So the
  *anchor*, the first line of the newest second, is looked for, and from it on as many lines are
  skipped as were seen. The reading starts a second before it, since where it starts it is ragged:
  there, of lines and of chunks of lines, some are left out by their stamp;
* a reading may be cut within a line: then as many bytes of that line are skipped as were seen;
* if the anchor does not come, the runtime has rotated the log meanwhile: then lines pass from the
  first stamp on that is later than all seen, after a line that marks the gap. If there is no such
  line, the mark ends the log: where in the earlier file the kubelet stopped, nobody knows.

A kubelet that follows a log goes from the end of one file to the newest, and passes over the files
that were rotated away meanwhile. Such a gap is marked too: a leap of the stamps to a line that had
been written before the last one was received. Files are looked at every ten seconds (three at
least), so what a gap took is no shorter. What was rotated away before anybody read leaves no trace;
so where the first reading was late, and the first line too, the start is marked as doubtful.

Since Kubernetes 1.26 only the start of a line has a stamp, also when the runtime stores a long line
in chunks of 16 KiB.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_MAX_STAMP_BYTES = 40
_GAP_SECONDS = 3
_GAP_AFTER_BYTES = 1 << 20  # nothing is rotated away before; a slow reader of few lines sees none


class NotALog(Exception):
    """A line has no timestamp: it is not from the container but an error of the kubelet."""


class LogSplice:
    """Turns chunks of readings into new content of the log.

    Give `feed` each chunk of a reading; call `finish` when a reading ended by itself, `resume`
    before each reading but the first, and `end` after the last. Call `unwatched` before a reading
    that begins late.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` is that of the stamps: a sidecar runs on the node whose runtime makes them."""
        self.gaps = 0
        """How many gaps were marked."""
        self.doubts = 0
        """How many ends of the log were marked as perhaps missing."""
        self._clock = clock
        self._received_at = 0.0  # the chunk before
        self._since_gap = 0  # bytes
        self._saw_last_line = True  # the last reading that ended by itself has shown it again
        self._unwatched: float | None = None  # since when, if no line has come yet
        # Over all readings.
        self._anchor: bytes | None = None
        self._anchor_second = 0
        self._since_anchor = 0  # complete lines, the anchor included
        self._latest = (0, b"")
        self._open_stamp: bytes | None = None  # of a line that has not ended yet
        self._open_bytes = 0
        # Within one reading.
        self._remainder = b""  # the start of a line, too short to know its stamp
        self._stamp: bytes | None = None  # of the line being read; None between lines
        self._passing = True
        self._seek: bytes | None = None
        self._skip_lines = 0
        self._skip_bytes = 0
        self._drop_line = False
        self._read_to_end = self._was_read_to_end = False  # this reading, and the one before
        self._known_came = False  # a line: then nothing is missing before the first new one
        self._latest_came = False  # the latest of the known lines
        self._alien: str | None = None
        self._fragment: str | None = None

    @property
    def since(self) -> str | None:
        """What to ask the next reading to start from, RFC 3339 in UTC; None for the start."""
        if self._anchor is None:
            return None
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._anchor_second - 1))

    def unwatched(self, since: float) -> None:
        """Tells that the coming reading is the first since an instant (seconds since 1970).

        Only a reading that begins three seconds later or more can have missed a file; and only the
        start of a log can be missed without the other signs.
        """
        nothing_came = self._anchor is None and self._open_stamp is None
        if nothing_came and self._clock() - since >= _GAP_SECONDS:
            self._unwatched = since

    def resume(self) -> None:
        """Gets ready for a reading that starts at `since`."""
        self._remainder, self._stamp = b"", None
        self._seek, self._skip_lines = self._anchor, self._since_anchor
        self._skip_bytes = 0
        self._passing = self._drop_line = self._known_came = self._latest_came = False
        self._was_read_to_end, self._read_to_end = self._read_to_end, False
        self._alien = self._fragment = None

    def feed(self, chunk: bytes) -> bytes:
        """The new content in the chunk, maybe none.

        Raises:
            NotALog: something else than the log came, before this chunk. All new content of the
                chunks before has been returned.
        """
        if self._alien is not None:
            raise NotALog(self._alien)
        data = self._remainder + chunk
        self._remainder = b""
        new: list[bytes] = []
        self._since_gap += len(chunk)
        at = 0
        while at < len(data):
            if self._stamp is None and not self._drop_line:
                start = self._start_line(data, at, new)
                if start is None:
                    self._remainder = data[at:]
                    break
                at = start
                continue
            end = data.find(b"\n", at) + 1
            self._content(data[at : end or None], new)
            if end:
                self._end_line()
            at = end or len(data)
        self._received_at = self._clock()
        return b"".join(new)

    def finish(self) -> None:
        """Raises NotALog if what the reading brought was, at its end or altogether, no log.

        Call it too for a reading that has brought all there was and waits for more.
        """
        if self._alien is None and self._seek is not None:
            self._alien = self._fragment
        if self._alien is not None:
            raise NotALog(self._alien)
        self._read_to_end = True
        # Of a file that is new within a second, the lines before its own do not come again.
        self._saw_last_line = self._skip_lines == 0 or self._latest_came

    def end(self) -> bytes:
        """Gives what ends the log: nothing, or a mark if its last lines, or all, may be missing."""
        if self._unwatched is not None:
            return self._doubted_start()
        if self._saw_last_line:
            return b""
        self.doubts += 1
        start = b"" if self._open_stamp is None else b"\n"
        return start + b"[knit: the end of the log may be missing, rotated away on the node]\n"

    def _start_line(self, data: bytes, at: int, new: list[bytes]) -> int | None:
        """Where the line's content starts; None when there is none, or more is needed to know."""
        head = data[at : at + _MAX_STAMP_BYTES]
        stamp, space, _ = head.partition(b" ")
        if not space and b"\n" not in head and len(head) < _MAX_STAMP_BYTES:
            return None
        key = _key(stamp) if space else None
        if key is not None:
            self._stamp = stamp
            if self._unwatched is not None:
                if _instant(key) - self._unwatched >= _GAP_SECONDS:
                    new.append(self._doubted_start())
                self._unwatched = None
            if not self._passing:
                self._decide(stamp, key, new)
            elif key[0] - self._latest[0] >= _GAP_SECONDS and self._is_gap(key):
                self._mark_gap(key, new)
            return at + len(stamp) + 1
        text = data[at : at + 500].partition(b"\n")[0].decode("utf-8", "replace")
        if self._seek is None and not self._skip_lines:
            self._alien = text
            return None
        self._fragment = text
        self._drop_line = True  # the end of a line that began before `since`
        return at

    def _doubted_start(self) -> bytes:
        self.doubts += 1
        return b"[knit: the start of the log may be missing, rotated away on the node]\n"

    def _is_gap(self, key: tuple[int, bytes]) -> bool:
        """Whether this line existed when the one before was received, and so what is between."""
        if not self._latest[0] or self._since_gap < _GAP_AFTER_BYTES:
            return False
        return key[0] < (self._received_at if self._received_at else self._clock())

    def _mark_gap(self, key: tuple[int, bytes], new: list[bytes]) -> None:
        seconds = max(0.1, _instant(key) - _instant(self._latest))
        new.append(
            b"[knit: up to %.1f s of the log not received, rotated away on the node]\n" % seconds
        )
        self.gaps += 1
        self._since_gap = 0

    def _decide(self, stamp: bytes, key: tuple[int, bytes], new: list[bytes]) -> None:
        """Whether this line is known, and how much of it."""
        if self._skip_lines and key > self._latest:
            self._seek, self._skip_lines = None, 0  # rotated: what was to be skipped is gone
            # What was read to its end, and goes on at once, was rotated and has no gap.
            leap = key[0] - self._latest[0] >= _GAP_SECONDS
            if not self._known_came and (leap or not self._was_read_to_end):
                if self._open_stamp is not None:
                    new.append(b"\n")  # of that line there is no more
                self._mark_gap(key, new)
        self._known_came = True
        self._latest_came = self._latest_came or key >= self._latest
        if self._seek is not None:
            if stamp != self._seek:
                self._drop_line = True
                return
            self._seek = None
        if self._skip_lines:
            self._skip_lines -= 1
            self._drop_line = True
            return
        self._passing = True
        if stamp == self._open_stamp:
            self._skip_bytes = self._open_bytes
        else:
            self._open_stamp = None

    def _content(self, content: bytes, new: list[bytes]) -> None:
        if self._drop_line:
            return
        if self._open_stamp is None:
            self._open_stamp, self._open_bytes = self._stamp, 0
        skipped = min(self._skip_bytes, len(content))
        self._skip_bytes -= skipped
        self._open_bytes += len(content) - skipped
        new.append(content[skipped:])

    def _end_line(self) -> None:
        if not self._drop_line and self._stamp is not None:
            self._count(self._stamp)
            self._open_stamp = None
            self._skip_bytes = 0
        self._stamp, self._drop_line = None, False

    def _count(self, stamp: bytes) -> None:
        key = _key(stamp)
        assert key is not None, stamp
        self._latest = max(self._latest, key)
        if key[0] > self._anchor_second:
            self._anchor, self._anchor_second, self._since_anchor = stamp, key[0], 0
        self._since_anchor += 1


def _key(stamp: bytes) -> tuple[int, bytes] | None:
    """The stamp as seconds since 1970 and nanoseconds, to be compared; None if it is no stamp."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return None
    second = _second(match[1], match[3])
    return None if second is None else (second, (match[2] or b"").ljust(9, b"0"))


def _instant(key: tuple[int, bytes]) -> float:
    return key[0] + int(key[1]) / 1e9


@lru_cache(maxsize=4)  # of the thousands of lines in a second, one is parsed
def _second(instant: bytes, zone: bytes) -> int | None:
    fields = [int(field) for field in re.split(rb"[-T:]", instant)]
    try:
        second = timegm((*fields, 0, 0, 0))
    except ValueError:
        return None
    if zone == b"Z":
        return second
    offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return second - offset if zone.startswith(b"+") else second + offset
