"""Reading from a connection with one buffer: lines, pieces, and what is left over."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from knit_workflows.http1.body import BadBody, BodyCut, ChunkedBody
from knit_workflows.http1.buffered_reader import BufferedReader
from tests.waiting import PATIENCE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of one connection."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(PATIENCE)
        there.settimeout(PATIENCE)
        yield here, there


def test_lines_and_pieces_come_in_their_order(pair):
    """What was received before comes first; a piece never crosses what was asked for."""
    here, there = pair
    there.sendall(b"wo\nthree\nrest")
    there.close()
    inflow = BufferedReader(here, b"one\nt")
    assert [inflow.readline(100) for _ in range(3)] == [b"one\n", b"two\n", b"three\n"]
    assert bytes(inflow.read1(2)) == b"re"
    assert inflow.rest() == b"st"
    assert bytes(inflow.read1(100)) == b"st"
    assert bytes(inflow.read1(100)) == b""


@pytest.mark.parametrize(("most", "lines"), [(4, [b"abcd", b"ef\n", b""]), (9, [b"abcdef\n", b""])])
def test_a_line_has_at_most_so_many_bytes(pair, most, lines):
    """A longer one comes in parts, so that nobody can fill the memory with it."""
    here, there = pair
    there.sendall(b"abcdef\n")
    there.close()
    inflow = BufferedReader(here)
    assert [inflow.readline(most) for _ in lines] == lines


def test_a_line_that_reaches_the_buffers_end_is_kept_whole(pair):
    """The buffer is used again from its beginning; what of the line was there moves with it."""
    here, there = pair
    inflow = BufferedReader(here, bytes(256 << 10))
    assert len(inflow.read1((256 << 10) - 2)) == (256 << 10) - 2
    there.sendall(b"xyz\nmore")
    assert inflow.readline(100) == b"\0\0xyz\n"
    assert bytes(inflow.read1(100)) == b"more"


def test_a_chunked_body_ends_where_it_says(pair):
    """Its trailers are kept, and what comes behind it is the next request's."""
    here, there = pair
    there.sendall(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\n\r\nGET /")
    inflow = BufferedReader(here)
    body = ChunkedBody(inflow)
    assert b"".join(bytes(piece) for piece in iter(lambda: body.read(99), b"")) == b"abcde"
    assert body.complete
    assert body.trailers == [b"X-Sum: 1"]
    assert inflow.rest() == b"GET /"


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"3\r\nab", BodyCut), (b"3\r\nabc\r\n", BodyCut), (b"3\r\nabc\r\n0\r\n", BodyCut),
     (b"3\r\nabcd\r\n0\r\n\r\n", BadBody), (b"x\r\n", BadBody), (b"-1\r\n", BadBody)],
)  # fmt: skip
def test_a_chunked_body_is_complete_or_an_error(pair, sent, error):
    """A connection that ends early, and chunks that lie, are never taken for the whole."""
    here, there = pair
    there.sendall(sent)
    there.close()
    body = ChunkedBody(BufferedReader(here))
    with pytest.raises(error):
        while body.read(99):
            pass
    assert not body.complete
