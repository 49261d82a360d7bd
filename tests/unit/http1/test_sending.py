"""A socket's time-out is for each piece that is sent, not for all of a chunk."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from knit_workflows.http1.body import send_chunk

LARGE = b"x" * (1 << 20)


@pytest.mark.patient
def test_a_slow_reader_that_takes_something_all_the_while_gets_it_all() -> None:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(3)
    got = bytearray()

    def read() -> None:
        while piece := theirs.recv(32 << 10):
            got.extend(piece)
            time.sleep(0.03)  # a megabyte in more than the time-out

    reader = threading.Thread(target=read)
    reader.start()
    with ours:
        send_chunk(ours, LARGE)
    reader.join()
    theirs.close()
    assert bytes(got) == b"100000\r\n" + LARGE + b"\r\n"


def test_a_reader_that_takes_nothing_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    with ours, theirs, pytest.raises(TimeoutError):
        send_chunk(ours, LARGE)
