"""However a log is read in parts, what is put together is the log."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knit_workflows.pod.log_splice import LogSplice, NotALog
from tests.properties import examples

SECOND = 1_000_000_000
Record = tuple[int, bytes]  # nanoseconds since 1970, what the runtime stored in one piece


def stamp(nanoseconds: int) -> bytes:
    import time

    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // SECOND))
    return f"{whole}.{nanoseconds % SECOND:09d}Z".encode()


def reading(records: list[Record], since: str | None) -> bytes:
    """What the kubelet sends: pieces from `since` on, stamped where a line starts."""
    sent = b""
    line_starts = True
    for at, content in records:
        second = stamp(at // SECOND * SECOND)[:19].decode() + "Z"
        if since is None or second >= since:
            sent += (stamp(at) + b" " if line_starts else b"") + content
        line_starts = content.endswith(b"\n")
    return sent


def pieces_of(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    return [*pieces, stream]


content = st.one_of(
    st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")),
    st.sampled_from([b"", b"2026-01-02T03:04:05.000000006Z ", b" ", b"x" * 60, b"same"]),
)
records = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 1000, 300_000_000, 999_999_999, SECOND, 3 * SECOND, -50_000_000]),
        content,
        st.sampled_from([b"\n", b"\n", b"\n", b""]),
    ),
    max_size=25,
)


def timed(steps: list[tuple[int, bytes, bytes]]) -> list[Record]:
    """Pieces within a line never begin like a stamp: with pieces of 16 KiB that does not happen."""
    now, made = 1_700_000_000 * SECOND, []
    for step, text, end in steps:
        now += step
        if made and not made[-1][1].endswith(b"\n"):
            text = text.removeprefix(b"2026-01-02T")
        if text or end:
            made.append((now, text + end))
    return made


@pytest.mark.patient
@settings(max_examples=examples(600), deadline=None)
@given(
    steps=records,
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 25)), max_size=6),
    sizes=st.lists(st.integers(0, 30), max_size=20),
)
def test_cut_anywhere_it_comes_out_whole(
    steps: list[tuple[int, bytes, bytes]], cuts: list[tuple[int, int]], sizes: list[int]
) -> None:
    """Each reading sees the log so far, and is cut after some bytes; the last one is complete."""
    log = timed(steps)
    whole = b"".join(text for _, text in log)
    splice, got = LogSplice(), b""
    grown = 0
    for cut, growth in cuts:
        grown = min(len(log), grown + growth)
        for piece in pieces_of(reading(log[:grown], splice.since)[:cut], sizes):
            got += splice.feed(piece)
        assert whole.startswith(got)
        splice.resume()
    for piece in pieces_of(reading(log, splice.since), sizes):
        got += splice.feed(piece)
    splice.finish()
    assert got == whole


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_a_line_stored_in_pieces_comes_out_unbroken(cut: int) -> None:
    start = 1_700_000_000 * SECOND
    log = [(start + n * SECOND // 3, b"x" * 100) for n in range(9)] + [(start + 4 * SECOND, b"\n")]
    stream = reading(log, None)
    splice = LogSplice()
    got = splice.feed(stream[:cut])
    splice.resume()
    assert splice.since is None
    got += splice.feed(stream)
    assert got == b"x" * 900 + b"\n"


def test_what_comes_again_is_limited_to_two_seconds() -> None:
    splice = LogSplice()
    start = 1_700_000_000 * SECOND
    splice.feed(reading([(start + n * SECOND // 10, b"line\n") for n in range(100)], None))
    assert splice.since == "2023-11-14T22:13:28Z"  # the last line's second is 29


def test_after_a_rotation_only_later_lines_pass() -> None:
    """The new file starts in the middle of what is known, or after it: then a gap is marked."""
    start = 1_700_000_000 * SECOND
    log = [(start + n * SECOND // 4, b"line %d\n" % n) for n in range(40)]
    for kept_from, gap in ((8, ""), (18, ""), (19, ""), (20, "0.2"), (30, "2.8")):
        splice = LogSplice()
        got = splice.feed(reading(log[:20], None))
        splice.resume()
        got += splice.feed(reading(log[kept_from:], splice.since))
        expected = [text for at, text in log[:20]] + [text for _, text in log[max(20, kept_from) :]]
        if gap:
            expected.insert(20, _mark(gap))
        assert got == b"".join(expected)
        assert splice.gaps == bool(gap)


def _mark(seconds: str) -> bytes:
    words = "s of the log not received, rotated away on the node"
    return f"[knit: up to {seconds} {words}]\n".encode()


def test_a_file_that_was_read_to_its_end_and_rotated_leaves_no_mark() -> None:
    """The next one goes on at once; after seconds, another one may have been between."""
    start = 1_700_000_000 * SECOND
    for later, expected in ((1, b""), (9, _mark("9.0"))):
        splice = LogSplice()
        got = splice.feed(reading([(start, b"one\n")], None))
        splice.finish()
        splice.resume()
        got += splice.feed(reading([(start + later * SECOND, b"two\n")], None))
        assert got == b"one\n" + expected + b"two\n"


def test_a_line_that_rotation_cut_is_ended_before_the_mark() -> None:
    start = 1_700_000_000 * SECOND
    splice = LogSplice()
    got = splice.feed(reading([(start, b"whole\n"), (start + 1, b"half")], None))
    splice.resume()
    got += splice.feed(reading([(start + 2 * SECOND, b"new\n")], None))
    assert got == b"whole\nhalf\n" + _mark("2.0") + b"new\n"


@pytest.mark.parametrize(
    ("size", "leap", "late", "marked"),
    [
        (2 << 20, 12, 60, True),
        (2 << 20, 12, 1, False),  # the program was silent: its next line did not exist yet
        (2 << 20, 2, 60, False),  # no two rotations are that near
        (1000, 12, 60, False),  # nothing is rotated away of so little
    ],
)
def test_a_kubelet_that_passes_over_a_file_leaves_a_mark(
    size: int, leap: int, late: int, marked: bool
) -> None:
    start = 1_700_000_000
    now = [start + late]
    splice = LogSplice(lambda: now[0])
    got = splice.feed(reading([(start * SECOND, b"x" * size + b"\n")], None))
    now[0] = start + late + leap
    got += splice.feed(reading([((start + leap) * SECOND, b"new\n")], None))
    assert got == b"x" * size + b"\n" + (_mark(f"{leap}.0") if marked else b"") + b"new\n"
    assert splice.gaps == marked


@pytest.mark.parametrize("zone", [b"+09:00", b"-03:30", b"Z"])
def test_stamps_of_any_zone_and_precision_are_understood(zone: bytes) -> None:
    splice = LogSplice()
    line = b"2024-02-29T23:59:59.5" + zone + b" a\n2024-02-29T23:59:59" + zone + b" b\n"
    assert splice.feed(line) == b"a\nb\n"
    expected = {b"+09:00": "2024-02-29T14:59:58Z", b"-03:30": "2024-03-01T03:29:58Z"}
    assert splice.since == expected.get(zone, "2024-02-29T23:59:58Z")


@pytest.mark.parametrize(
    "text", [b"unable to retrieve container logs\n", b"\n", b"2024-13-45T00:00:00Z x\n", b"x" * 90]
)
def test_words_of_the_kubelet_are_no_log(text: bytes) -> None:
    """Whether they come alone, after lines, or in place of what should come again."""
    alone = LogSplice()
    assert alone.feed(text) == b""
    with pytest.raises(NotALog):
        alone.finish()
    after = LogSplice()
    assert after.feed(stamp(SECOND) + b" line\n" + text) == b"line\n"
    with pytest.raises(NotALog):
        after.feed(b"more")
    after.resume()
    assert after.feed(text) == b""
    with pytest.raises(NotALog):
        after.finish()
    after.resume()
    assert after.feed(stamp(SECOND) + b" line\n" + text) == b""
    with pytest.raises(NotALog):
        after.finish()
    after.resume()
    log = stamp(SECOND) + b" line\n" + stamp(SECOND) + b" next\n"
    assert after.feed(log) == b"next\n"
    after.finish()


ROTATED = b"[knit: the end of the log may be missing, rotated away on the node]\n"


@pytest.mark.parametrize(
    ("readings", "marked"),
    [
        (["file", "file"], False),
        (["file", "cut", "file"], False),
        (["nothing", "nothing"], False),
        (["file", "rotated"], True),
        (["file", "cut", "rotated", "rotated"], True),
        (["file", "new file", "new file"], False),
        (["file", "new file", "rotated"], True),
    ],
)
def test_a_log_that_was_rotated_after_its_last_line_says_that_more_may_be_missing(
    readings: list[str], marked: bool
) -> None:
    """A kubelet goes on with the new file, and tells nobody what it has left in the old one."""
    start = 1_700_000_000 * SECOND
    splice, got = LogSplice(), b""
    files = {
        "file": [(start, b"one\n"), (start + 1, b"two")],
        "new file": [(start + 2, b"three\n")],  # within a second; the line goes on there
    }
    for name in readings:
        log = files.get(name, [])
        if sent := reading(log, splice.since):
            got += splice.feed(sent)
        if name != "cut":
            splice.finish()
        splice.resume()
    told = b"".join(text for name in dict.fromkeys(readings) for _, text in files.get(name, []))
    ends_line = b"" if told.endswith(b"\n") else b"\n"
    assert got + splice.end() == told + (ends_line + ROTATED if marked else b"")
    assert (splice.gaps, splice.doubts) == (0, marked)


DOUBTED = b"[knit: the start of the log may be missing, rotated away on the node]\n"


@pytest.mark.parametrize(
    ("late", "first_line", "marked"),
    [
        (2.9, None, False),
        (3.0, None, True),
        (2.9, 60.0, False),
        (60.0, 2.9, False),
        (60.0, 3.0, True),
    ],
)
def test_a_log_that_nobody_read_at_its_start_says_that_it_may_be_missing(
    late: float, first_line: float | None, marked: bool
) -> None:
    """Of a file that was rotated away before the first reading there is no trace."""
    start = 1_700_000_000
    now = [start + late]
    splice = LogSplice(lambda: now[0])
    splice.unwatched(start)
    got = b""
    if first_line is not None:
        lines = stamp(int((start + first_line) * SECOND)) + b" one\n"
        got = splice.feed(lines)
    splice.finish()
    splice.resume()
    splice.unwatched(start)  # what is known by now is not doubted
    if first_line is not None:
        assert splice.feed(lines) == b""
    splice.finish()
    assert got + splice.end() == (DOUBTED if marked else b"") + (
        b"" if first_line is None else b"one\n"
    )
    assert (splice.gaps, splice.doubts) == (0, marked)
