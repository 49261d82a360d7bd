"""The small pure parts: arguments, times, streams."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import threading
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knit_cli.errors import BadInput
from knit_cli.shell.arguments import normalize_arguments, split_short_values
from knit_cli.time_flags import read_instant
from knit_cli.transfer.byte_streams import (
    ChunkReader,
    DamagedStream,
    StreamCut,
    gunzipped,
    prefetch,
)
from knit_cli.transfer.progress import transfer_bar
from tests.waiting import wait_until

# A loaded machine is slow, which is not a property of the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("given", "arranged"),
    [
        ("data find", "data find"),
        ("data --profile x find", "--profile x data find"),
        ("data find --env=y -t=a:b", "--env=y data find -t=a:b"),
        ("data find --quiet --profile-store p", "--quiet --profile-store p data find"),
        ("ext -- --profile x -a=b", "ext -- --profile x -a=b"),
        ("data find --profile", "--profile data find"),
    ],
)
def test_common_flags_go_first(given, arranged):
    assert normalize_arguments(given.split()) == arranged.split()


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("-t=a:b x", "-t a:b x"),
        ("-t=a -- -t=a -- -x=b", "-t a -- -t=a -- -x=b"),
        ("--t=a", "--t=a"),
    ],
)
def test_short_options_are_split_from_their_values(given, split):
    assert split_short_values(given.split()) == split.split()


WORDS = ["data", "--", "--profile", "--env=x", "--quiet", "-t", "--tag=a:b", "a:b", "", "-"]


@unhurried
@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_no_word_is_lost_or_invented(words):
    arranged = normalize_arguments(words)
    assert sorted(arranged) == sorted(words)
    if "--" in words:
        at = words.index("--")
        assert arranged[at:] == words[at:] or words[at - 1] == "--profile"


# ------------------------------------------------------------ times

TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2025-02-01", datetime(2025, 2, 1, tzinfo=TOKYO)),
        ("2025-02-01T10", datetime(2025, 2, 1, 10, tzinfo=TOKYO)),
        ("2025-02-01 10:11", datetime(2025, 2, 1, 10, 11, tzinfo=TOKYO)),
        ("2025-02-01 10:11:12.5Z", datetime(2025, 2, 1, 10, 11, 12, 500_000, UTC)),
        ("2025-02-01-03:30", datetime(2025, 2, 1, 3, 30, tzinfo=UTC)),
        ("2025-02-01T10:11:12.123456789+09:00", datetime(2025, 2, 1, 10, 11, 12, 123456, TOKYO)),
    ],
)
def test_loose_times(text, instant):
    assert read_instant(text, "--since", local=TOKYO) == instant
    assert read_instant(text, "--since").tzinfo is not None


@pytest.mark.parametrize("text", ["", "today", "2025", "2025-13-01", "2025-02-01T24", "25-01-01"])
def test_what_is_no_time(text):
    with pytest.raises(BadInput):
        read_instant(text, "--since")


# ------------------------------------------------------------ progress


class Terminal(io.StringIO):
    """A stderr that somebody looks at."""

    def isatty(self):
        return True


def terminal(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return shown


def test_a_bar_shows_name_bytes_and_rate(monkeypatch):
    """The name is a file's: it must not steer the terminal."""
    shown = terminal(monkeypatch)
    with transfer_bar("[red]\x1b]0;set", 4000, quiet=False) as meter:
        meter.add(3000)
        meter.restart()
        meter.add(1000)
    text = shown.getvalue()
    assert "[red]?]0;set" in text
    assert "1.0/4.0 kB" in text


def test_no_bar_when_quiet_or_when_nobody_looks(monkeypatch):
    shown = terminal(monkeypatch)
    with transfer_bar("set", None, quiet=True) as meter:
        meter.add(1)
    assert shown.getvalue() == ""
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    with transfer_bar("set", None, quiet=False) as meter:
        meter.add(1)
        meter.restart()
    assert pipe.getvalue() == ""


# ------------------------------------------------------------ streams


@unhurried
@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_gzip_there_and_back_in_any_pieces(chunks, size):
    packed = gzip.compress(b"".join(chunks))
    assert gzip.decompress(packed) == b"".join(chunks)
    cut = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert b"".join(gunzipped(cut)) == b"".join(chunks)


@pytest.mark.patient
def test_gunzip_takes_several_members_and_bounded_pieces():
    packed = gzip.compress(b"a" * 50_000_000) + gzip.compress(b"b")
    sizes = [len(chunk) for chunk in gunzipped([packed])]
    assert sum(sizes) == 50_000_001
    assert max(sizes) <= 1 << 20


@pytest.mark.parametrize("cut", [0, 1, 9, 15, 100])
def test_a_gzip_stream_that_ends_early_is_cut(cut):
    packed = gzip.compress(random.Random(1).randbytes(1000))
    with pytest.raises(StreamCut):
        list(gunzipped([packed[:cut]]))


def test_a_gzip_stream_with_a_wrong_checksum_is_damaged():
    packed = bytearray(gzip.compress(b"content"))
    packed[-5] ^= 1
    with pytest.raises(DamagedStream):
        list(gunzipped([bytes(packed)]))


def test_reading_ahead_keeps_order_and_passes_errors_after_what_came_before():
    def source():
        yield from (b"%d" % number for number in range(100))
        raise OSError("disk")

    chunks = prefetch(source())
    assert list(itertools.islice(chunks, 100)) == [b"%d" % number for number in range(100)]
    with pytest.raises(OSError, match="disk"):
        next(chunks)


@pytest.mark.patient
def test_reading_ahead_is_bounded_and_its_thread_ends():
    fetched = []

    def source():
        for number in itertools.count():
            fetched.append(number)
            yield b"x"

    before = set(threading.enumerate())
    chunks = prefetch(source())
    next(chunks)
    time.sleep(0.3)
    assert len(fetched) < 20
    chunks.close()
    wait_until(lambda: set(threading.enumerate()) <= before)


@unhurried
@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_pieces_read_as_a_file(chunks, size):
    reader = ChunkReader(chunks)
    got = b"".join(iter(lambda: bytes(reader.read(size)), b""))
    assert got == b"".join(chunks)
