"""The transfer agent: one small HTTP server that moves the content of one volume in or out.

Run: ``python3 -m knit_workflows.pod.agent --path /data --mode read|write --port 18082 --idle 180``,
the secret in ``KNIT_TRANSFER_TOKEN``. Bodies are plain tar; compression and checksums are the
caller's. It ends by itself when nobody has asked for anything for a while.

    write   POST /           204; 400 refused, 409 has content, 507 disk full, 500 else
            DELETE /         204, the volume is empty and may be written again
    read    GET /            the volume's files and links as tar; with ?entries=all also folders,
                             pipes and notes, with ?holes=kept holes as GNU's sparse format 1.0;
            GET /log         all files, one after another;
            GET /log?follow  the same, then what is added to the file `log`, until the client goes
            HEAD / and /log  how long what GET gives would be now
    both    GET /healthz     200, needs no token and does not count as use

Errors have the body ``{"reason": …, "member": …}``. A response that breaks off without its final
chunk is incomplete.
"""

from __future__ import annotations

import argparse
import errno
import hmac
import json
import os
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from knit_workflows import archive
from knit_workflows.archive.volume import Volume, VolumeBusy
from knit_workflows.http1.body import (
    BadBody,
    request_body,
    send_chunk,
    send_file_chunk,
    send_last_chunk,
)
from knit_workflows.http1.buffered_reader import BufferedReader
from knit_workflows.http1.request import BadRequest, Request, read_request
from knit_workflows.pod.idle_timer import Activity, Ending
from knit_workflows.pod.termination import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_VARIABLE = "KNIT_TRANSFER_TOKEN"

_ENDING = {signal.SIGTERM, signal.SIGINT}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_CONNECTIONS = 64
_LEAST_STALL_SECONDS = 60.0
_LINGER_SECONDS = 5.0
_FOLLOW_SECONDS = 0.2
_CLEAN_UP_SECONDS = 25.0  # Kubernetes kills 30 s after SIGTERM


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, reason: str, member: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.member = member


class Server(socketserver.ThreadingTCPServer):
    """One volume behind one port; a thread per connection."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, volume: Volume, mode: str, token: str, port: int, idle: float) -> None:
        """Listens at once. Port 0 takes a free one; see `port`."""
        super().__init__(("", port), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = _listen(port)
        self.port: int = self.socket.getsockname()[1]
        self.volume = volume
        self.mode = mode
        self.activity = Activity(idle)
        self.stall_seconds = max(idle, _LEAST_STALL_SECONDS)
        self.connections: set[socket.socket] = set()
        self._bearer = b"Bearer " + token.encode()

    def allows(self, authorization: str | None) -> bool:
        """Whether the Authorization header holds the token; how long it takes tells nothing."""
        given = (authorization or "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._bearer)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Bounds what strangers can make it hold: of too many connections, new ones are dropped."""
        return len(self.connections) < _MOST_CONNECTIONS

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections break; that is told in one line, not in a stack trace."""
        error = sys.exc_info()[1]
        _say(f"a connection ended: {error!r}")

    def serve_until_idle(self) -> None:
        """Serves until idle for long enough, or told to end by a signal; then nothing is half-done.

        The signals must be blocked in all threads, hence before this is called.
        """
        threading.Thread(target=self.serve_forever, args=(3600.0,), daemon=True).start()
        while left := self.activity.seconds_left():
            if signal.sigtimedwait(_ENDING, left) is not None:
                break
        self.socket.close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it
        self.volume.close(_CLEAN_UP_SECONDS)


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


class Handler(socketserver.StreamRequestHandler):
    """The requests of one connection, one after another."""

    disable_nagle_algorithm = True
    server: Server
    inflow: BufferedReader
    last: bool
    """Whether the connection ends after the answer under way."""

    def setup(self) -> None:
        """Lets the connection be ended from outside."""
        super().setup()
        self.connection.settimeout(self.server.stall_seconds)
        self.inflow = BufferedReader(self.connection)
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        """Forgets the connection."""
        self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        """Answers until the client has no more requests, or one went wrong."""
        self.last = False
        while not self.last:
            try:
                request = read_request(self.inflow)
            except BadRequest as bad:
                self._refuse(Refused(bad.status, str(bad)))
                return
            if request is None:
                return
            self.last = request.is_last
            self._dispatch(request)

    # --- what is asked for ----------------------------------------------------------------------

    def _dispatch(self, request: Request) -> None:
        try:
            if request.path == "/healthz":
                self._answer(200, b"{}")
                return
            if not self.server.allows(request.header("Authorization")):
                raise Refused(401, "the transfer token is missing or wrong")
            with self.server.activity.request():
                self._serve(request)
        except Refused as refused:
            _say(f"{request.method} {request.path}: {refused.status} {refused}")
            self._refuse(refused)
        except Ending:
            self._refuse(Refused(503, "the agent is ending"))

    def _serve(self, request: Request) -> None:
        match self.server.mode, request.method, request.path:
            case "write", "POST", "/":
                self._write(request)
            case "write", "DELETE", "/":
                self._clear()
            case "read", "GET", "/":
                form = _form_of(request)
                self._stream("application/x-tar", archive.iter_spans(self.server.volume.root, form))
            case "read", "HEAD", "/":
                form = _form_of(request)
                self._measure(archive.iter_spans(self.server.volume.root, form))
            case "read", "HEAD", "/log":
                self._measure(archive.iter_content_spans(self.server.volume.root))
            case "read", "GET", "/log":
                follow = request.argument("follow") is not None
                pieces = self.server.volume.log(follow=follow, wait=self._wait_for_more)
                self._stream("application/octet-stream", pieces)
            case _, method, "/" | "/log":
                raise Refused(405, f"{method} is not served here in {self.server.mode} mode")
            case _:
                raise Refused(404, "there is nothing at this path")

    def _write(self, request: Request) -> None:
        try:
            self.server.volume.check_writable()
            if request.expects_continue:
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            summary = self.server.volume.write(request_body(self.inflow, request.header))
        except VolumeBusy as busy:
            raise Refused(409, str(busy)) from None
        except archive.ArchiveRefused as refused:
            raise Refused(400, refused.reason, refused.member) from None
        except BadBody as bad:
            raise Refused(bad.status, str(bad)) from None
        except (ConnectionError, TimeoutError) as cut:
            self.last = True
            _say(f"the upload was cut and undone: {cut}")
        except OSError as error:
            raise _refused_by_disk(error) from error
        else:
            _say(f"written: {summary.files} files, {summary.bytes} bytes")
            self._answer(204, b"")

    def _clear(self) -> None:
        try:
            self.server.volume.clear()
        except VolumeBusy as busy:
            raise Refused(409, str(busy)) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        self._answer(204, b"")

    def _stream(self, content_type: str, pieces: Iterator[bytes | archive.Span]) -> None:
        """Sends the pieces as chunks. What fails before the first still gets a proper answer."""
        try:
            first = next(pieces, b"")
        except archive.CannotPack as refused:
            raise Refused(500, refused.reason, refused.member) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        head = f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked"
        try:
            self.connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
            self._send(first)
            for piece in pieces:
                self._send(piece)
            send_last_chunk(self.connection)
        except (archive.CannotPack, OSError) as error:
            # Without the last chunk the reader knows that it has not got everything.
            self.last = True
            _say(f"the download was cut: {error}")

    def _send(self, piece: bytes | archive.Span) -> None:
        if isinstance(piece, bytes):
            send_chunk(self.connection, piece)
        else:
            send_file_chunk(self.connection, piece.descriptor, piece.size, piece.start)

    def _measure(self, pieces: Iterator[bytes | archive.Span]) -> None:
        """Answers with the length that the pieces have together, and not with them."""
        try:
            length = archive.length_of(pieces)
        except archive.CannotPack as refused:
            raise Refused(500, refused.reason, refused.member) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        self._answer(200, b"", length)

    def _wait_for_more(self) -> bool:
        """Pauses a follower shortly; False when the client has gone, or speaks out of turn."""
        readable, _, _ = select.select([self.connection], [], [], _FOLLOW_SECONDS)
        return not readable

    # --- answers --------------------------------------------------------------------------------

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        """Sends an answer; `length` is that of the body, where it is not sent."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        if status != 204:
            length = len(body) if length is None else length
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        if self.last:
            lines.append("Connection: close")
        self.connection.sendall("\r\n".join([*lines, "\r\n"]).encode() + body)

    def _refuse(self, refused: Refused) -> None:
        """Answers, then closes: of a refused body an unknown part is still under way."""
        self.last = True
        body = json.dumps({"reason": refused.reason, "member": refused.member}).encode()
        with suppress(OSError):
            self._answer(refused.status, body)
            self._linger()

    def _linger(self) -> None:
        """Reads on for a moment: closed at once, the kernel would destroy the answer on its way."""
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _LINGER_SECONDS
        self.connection.settimeout(_LINGER_SECONDS)
        while time.monotonic() < until and self.inflow.read1(64 << 10):
            pass


def _refused_by_disk(error: OSError) -> Refused:
    if error.errno in _DISK_FULL:
        return Refused(507, "the volume is full")
    member = str(error.filename) if error.filename is not None else None
    return Refused(500, error.strerror or str(error), member)


def _form_of(request: Request) -> archive.Form:
    return archive.Form.asked(request.argument("entries"), request.argument("holes"))


def _say(line: str) -> None:
    with suppress(OSError):  # straight to the descriptor: whole lines, from many threads
        os.write(2, f"agent: {line}\n".encode("utf-8", "backslashreplace"))


def main(arguments: list[str] | None = None) -> int:
    """Serves to the end; the exit code is 0, or 2 when it was started wrongly."""
    parser = argparse.ArgumentParser(prog="agent", description="Moves one volume in or out.")
    parser.add_argument("--path", type=Path, required=True, help="where the volume is mounted")
    parser.add_argument("--mode", choices=("read", "write"), required=True)
    parser.add_argument("--port", type=int, default=18082, help="0 takes a free one")
    parser.add_argument(
        "--idle", type=float, default=180.0, help="seconds without use to end after"
    )
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        explain(f"agent: {TOKEN_VARIABLE} is not set; without it anybody could read the volume.")
        return 2
    if not options.path.is_dir():
        explain(f"agent: {options.path} is not a folder.")
        return 2
    os.umask(0o022)  # whoever uses the Data may run under another account
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # taken by sigtimedwait, in one place
    server = Server(Volume(options.path), options.mode, token, options.port, options.idle)
    _say(f"serving {options.path} for {options.mode} on port {server.port}")
    server.serve_until_idle()
    return 0


if __name__ == "__main__":
    # Threads may still answer strangers; an interpreter that shuts down under them would abort.
    os._exit(main())
