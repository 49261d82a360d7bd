"""A real little proxy between a client and a server, which speaks HTTP/1.0 where it is told to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.waiting import PATIENCE


@dataclass
class Hop:
    """What it does to the connections through it; may be changed at any time.

    Attributes:
        upstream: asks the server in HTTP/1.0, as nginx does by default.
        downstream: answers the client in HTTP/1.0 and ends bodies by closing the connection.
        rechunk: gives the client whatever came from the server, in faultless chunks of its own.
        cuts: of each connection in turn, after how many bytes of a body the server is lost; None:
            never.
        change: changes each piece of an answer; its length must stay.
        accept: what the server is asked for, in place of what the client wants.
        idle: seconds after which a server that has begun to answer, and is silent, is given up, and
            the client's connection closed.
        heads: the head of every request that was passed on.
    """

    port: int
    upstream: bool = False
    downstream: bool = False
    rechunk: bool = False
    cuts: list[int | None] = field(default_factory=list)
    change: Callable[[bytes], bytes] = bytes
    accept: bytes = b""
    idle: float = PATIENCE
    heads: list[bytes] = field(default_factory=list)


@contextmanager
def hop_to(port: int, **how: object) -> Iterator[Hop]:
    """Gives a proxy to that port of this machine; its connections end with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hop = Hop(listener.getsockname()[1])
        for name, value in how.items():
            setattr(hop, name, value)
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                cut = hop.cuts.pop(0) if hop.cuts else None
                threads.append(threading.Thread(target=_serve, args=(hop, client, port, cut)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield hop
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(PATIENCE)
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()


def _serve(hop: Hop, client: socket.socket, port: int, cut: int | None) -> None:
    """Passes one request on, with its body, and the answer back; then closes."""
    client.settimeout(PATIENCE)
    with client, suppress(OSError), client.makefile("rb") as asked:
        head = _head(asked)
        if not head:
            return
        hop.heads.append(head)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as server,
            server.makefile("rb") as answer,
        ):
            if hop.accept:
                head = re.sub(rb"(?i)\naccept: [^\r]*", b"\nAccept: " + hop.accept, head)
            server.sendall(_changed(head, to_1_0=hop.upstream))
            if b"transfer-encoding: chunked" in head.lower():
                for chunk in _chunks(asked, []):
                    server.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                server.sendall(b"0\r\n\r\n")
            head = _head(answer)
            server.settimeout(hop.idle)
            _answer(hop, client, head, answer, cut)


def _answer(
    hop: Hop, client: socket.socket, head: bytes, answer: BinaryIO, cut: int | None
) -> None:
    trailers: list[bytes] = []
    pieces = map(hop.change, _cut(_body(head, answer, trailers), cut))
    lowered = head.lower()
    framed = b"content-length:" in lowered or b"transfer-encoding:" in lowered
    if hop.downstream:
        client.sendall(_changed(head, to_1_0=True, without_framing=True))
        for piece in pieces:
            client.sendall(piece)
    elif hop.rechunk or not framed:
        # As nginx does with a server that ends its bodies by closing: it sees no difference.
        said_less = b"content-length:" in lowered and cut is not None
        client.sendall(_changed(head, without_framing=True, more=b"Transfer-Encoding: chunked\r\n"))
        for piece in pieces:
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        if not said_less:
            client.sendall(b"0\r\n\r\n")
    else:
        client.sendall(_changed(head))
        chunked = b"transfer-encoding:" in lowered
        for piece in pieces:
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked and cut is None:
            client.sendall(b"0\r\n%s\r\n" % b"".join(trailers))


def _changed(
    head: bytes, *, to_1_0: bool = False, without_framing: bool = False, more: bytes = b""
) -> bytes:
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if to_1_0:
        lines[0] = lines[0].replace(b"HTTP/1.1", b"HTTP/1.0")
    dropped = (b"connection:", b"trailer:")
    if without_framing:
        dropped += (b"transfer-encoding:", b"content-length:")
    kept = [lines[0], *(line for line in lines[1:] if not line.lower().startswith(dropped))]
    return b"\r\n".join([*kept, b"Connection: close", more]) + b"\r\n"


def _head(stream: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def _body(head: bytes, stream: BinaryIO, trailers: list[bytes]) -> Iterator[bytes]:
    if b"transfer-encoding: chunked" in head.lower():
        yield from _chunks(stream, trailers)
        return
    while piece := stream.read1(1 << 16):  # we have asked the server to close
        yield piece


def _chunks(stream: BinaryIO, trailers: list[bytes]) -> Iterator[bytes]:
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    while (line := stream.readline()).strip():
        trailers.append(line)


def _cut(pieces: Iterator[bytes], after: int | None) -> Iterator[bytes]:
    if after is None:
        yield from pieces
        return
    for piece in pieces:
        if passed := piece[:after]:
            yield passed
        after -= len(piece)
        if after <= 0:
            return
