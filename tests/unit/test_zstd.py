"""The content coding zstd: who gets it, what is compressed, and what a client makes of it."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_api.transfers.zstd_coding import AdaptiveCompressor, is_wanted
from knit_cli.transfer.byte_streams import DamagedStream, StreamCut, decoded, unzstd
from knit_workflows.archive.zstd import zstd

MIB = 1 << 20
TEXT = b"".join(b"%d: a line that says little, %d\n" % (n, n * 7919) for n in range(30_000))[:MIB]
RANDOM = random.Random(5).randbytes(MIB)
PIECE = MIB // 2


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("zstd", True),
        ("zstd, identity;q=0.5", True),
        ("gzip, deflate, br, zstd", True),
        ("ZSTD;Q=0.5", True),
        ("zstd;q=0.5, identity", False),
        ("zstd;q=0", False),
        ("zstd;q=much", False),
        ("identity", False),
        ("gzip", False),
        ("*", False),
        ("xzstd", False),
    ],
)
def test_zstd_is_for_who_names_it_and_does_not_prefer_the_archive_as_it_is(
    header: str, wanted: bool
) -> None:
    assert is_wanted(header) is wanted


class Link:
    """A connection that takes so many bytes a second; compressing a piece takes 4 ms beside it."""

    def __init__(self, bytes_per_second: float) -> None:
        self.rate = bytes_per_second
        self.sent = bytearray()
        self.stored: list[bool] = []
        ticks = itertools.count()
        self.frames = AdaptiveCompressor(clock=lambda: next(ticks) * 0.004)

    def send(self, content: bytes, times: int = 1) -> None:
        """Sends all of it, and waits for each frame."""
        for at in [*range(0, len(content), PIECE)] * times:
            frame = self.frames.feed(content[at : at + PIECE])
            assert frame
            self.stored.append(len(frame) >= PIECE)
            self.sent += frame
            self.frames.sent(len(frame), len(frame) / self.rate)


@pytest.mark.patient
def test_what_goes_over_a_slow_connection_is_compressed() -> None:
    link = Link(10e6)
    link.send(TEXT, 50)
    assert link.stored.count(True) <= 2  # and tried otherwise once in a while
    assert b"".join(unzstd([bytes(link.sent), link.frames.flush()])) == TEXT * 50


@pytest.mark.patient
def test_what_goes_over_a_fast_one_is_stored() -> None:
    """That is quicker; the archive is whole all the same."""
    link = Link(1e9)
    link.send(TEXT, 50)
    assert link.stored.count(False) <= 8
    assert b"".join(unzstd([bytes(link.sent), link.frames.flush()])) == TEXT * 50


def test_what_gets_no_smaller_is_stored_until_something_does() -> None:
    link = Link(10e6)
    link.send(RANDOM, 20)
    assert all(link.stored)
    link.stored.clear()
    link.send(TEXT, 30)
    assert link.stored.count(True) <= 18
    assert link.stored[-30:].count(True) <= 1


def test_a_connection_that_becomes_slow_is_noticed() -> None:
    link = Link(1e9)
    link.send(TEXT, 20)
    link.rate = 1e6
    link.stored.clear()
    link.send(TEXT, 20)
    assert link.stored.count(True) <= 3


def test_an_archive_of_nothing_is_one_frame() -> None:
    frame = AdaptiveCompressor().flush()
    assert frame
    assert b"".join(unzstd([frame])) == b""


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_zstd_there_and_back_in_any_pieces(chunks: list[bytes], size: int) -> None:
    packed = b"".join(zstd.compress(chunk) for chunk in chunks) or zstd.compress(b"")
    cut = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert b"".join(unzstd(cut)) == b"".join(chunks)


def test_a_bomb_comes_in_bounded_pieces() -> None:
    sizes = [len(chunk) for chunk in unzstd([zstd.compress(bytes(50 * MIB)) * 2])]
    assert sum(sizes) == 100 * MIB
    assert max(sizes) <= MIB


def test_a_frame_that_wants_more_memory_than_a_decoder_need_have_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)  # without a known size, which would limit it
    packed = compressor.compress(os.urandom(1000)) + compressor.flush()
    with pytest.raises(DamagedStream, match="zstd"):
        list(unzstd([packed]))


@pytest.mark.parametrize("left", [0, 1, 5, 20])
def test_a_stream_that_ends_early_is_cut(left: int) -> None:
    with pytest.raises(StreamCut):
        list(unzstd([zstd.compress(RANDOM[:1000])[:left]]))


def test_a_stream_with_a_changed_byte_is_damaged() -> None:
    """Stored or compressed: each frame has a checksum."""
    for rate in (1e6, 1e12):
        link = Link(rate)
        link.send(TEXT, 2)
        for at in (len(link.sent) // 2, len(link.sent) - 1):
            changed = bytearray(link.sent)
            changed[at] ^= 1
            with pytest.raises(DamagedStream):
                list(unzstd([bytes(changed)]))


@pytest.mark.parametrize("content", [b"no zstd", zstd.compress(b"x") + b"more"])
def test_what_is_no_zstd_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedStream):
        list(unzstd([content]))


def test_a_coding_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(DamagedStream, match="'br', unasked"):
        list(decoded([b"x"], "br"))
    assert list(decoded([b"x"], "")) == [b"x"]


@pytest.mark.patient
def test_without_the_library_everything_goes_as_it_is() -> None:
    """The command line and the API load, and ask for nothing that they cannot read."""
    script = """
import sys
sys.modules["backports.zstd"] = sys.modules["compression"] = None
from knit_cli.transfer import pull
from knit_api.transfers.zstd_coding import is_wanted
assert not pull.is_available()
assert not is_wanted("zstd")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
