"""The transfer agent: one small HTTP server that moves the content of one volume in or out.

Run: ``python3 -m knit_workflows.pod.agent --path /data --mode read|write --port 18082 --idle 180``,
with the token in ``KNIT_TRANSFER_TOKEN``. Bodies are plain tar; compression and checksums are up to
the caller. The agent exits once it has been idle for long enough. After SIGTERM requests under way
have ten seconds to end by themselves; without any it exits at once.

    write   POST /           204; 400 refused, 409 not empty, 507 disk full, 500 anything else
            DELETE /         204, the volume is empty and may be written again
    read    GET /            the volume's files and links as tar; with ?entries=all also folders,
                             pipes and notes, with ?holes=kept holes in GNU's sparse format 1.0
            GET /log         all files, concatenated
            GET /log?follow  the same, then what is appended to the file `log`, until the client
                             disconnects
            HEAD / and /log  the length that the body of GET would have now
    both    GET /healthz     200, needs no token and does not reset the idle timer

Errors have the body ``{"reason": …, "member": …}``. A response without its final chunk is
incomplete.
"""

# ruff: noqa: E402
from __future__ import annotations

import signal

_ENDING = {signal.SIGTERM, signal.SIGINT}
if __name__ == "__main__":
    # Taken by sigtimedwait, in one place. Blocked before all that takes a while to import: the
    # kernel keeps for the first process of a container what that blocks, and drops what it has no
    # handler for; then the pod would live until it is killed.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)

import argparse
import errno
import hmac
import json
import os
import select
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
from knit_workflows.archive.volume import ServedVolume, VolumeNotWritable
from knit_workflows.http1.body import (
    BadBody,
    request_body,
    send_chunk,
    send_file_chunk,
    send_last_chunk,
)
from knit_workflows.http1.buffered_reader import BufferedReader
from knit_workflows.http1.request import BadRequest, Request, read_request
from knit_workflows.pod.idle_timer import IdleTimer, ShuttingDown
from knit_workflows.pod.termination import report

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_VARIABLE = "KNIT_TRANSFER_TOKEN"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_CONNECTIONS = 64
_MIN_STALL_SECONDS = 60.0
_DRAIN_SECONDS = 5.0
_FOLLOW_SECONDS = 0.2
_CLEAN_UP_SECONDS = 25.0  # the pod is killed 40 s after SIGTERM
_GRACE_SECONDS = 10.0


class Refused(Exception):
    """An error response."""

    def __init__(self, status: int, reason: str, member: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.member = member


class AgentServer(socketserver.ThreadingTCPServer):
    """One volume behind one port; a thread per connection."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, volume: ServedVolume, mode: str, token: str, port: int, idle: float) -> None:
        """Listens at once; with port 0 on a free port, see `port`."""
        super().__init__(("", port), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = _listen(port)
        self.port: int = self.socket.getsockname()[1]
        self.volume = volume
        self.mode = mode
        self.idle_timer = IdleTimer(idle)
        self.stall_seconds = max(idle, _MIN_STALL_SECONDS)
        self.connections: set[socket.socket] = set()
        self._bearer = b"Bearer " + token.encode()

    def allows(self, authorization: str | None) -> bool:
        """Says whether the Authorization header holds the token; compares in constant time."""
        given = (authorization or "").encode("latin-1", "replace")
        return hmac.compare_digest(given, self._bearer)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Drops new connections when there are too many, since anybody may connect."""
        return len(self.connections) < _MAX_CONNECTIONS

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs a broken connection in one line instead of a stack trace."""
        error = sys.exc_info()[1]
        _log(f"a connection ended: {error!r}")

    def serve_until_idle(self, grace: float = _GRACE_SECONDS) -> None:
        """Serves until idle for long enough or signalled, then cleans up an unfinished upload.

        Requests under way have `grace` seconds to end by themselves. The signals must be blocked in
        all threads, so before this is called.
        """
        threading.Thread(target=self.serve_forever, args=(3600.0,), daemon=True).start()
        while left := self.idle_timer.seconds_left():
            if signal.sigtimedwait(_ENDING, left) is not None:
                break
        self.end(grace)

    def end(self, grace: float = _GRACE_SECONDS) -> None:
        """Refuses what comes, waits for requests under way, and cleans up an unfinished upload."""
        self.socket.close()
        self.idle_timer.wait_until_unused(grace)
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
    server: AgentServer
    reader: BufferedReader
    last: bool
    """Whether the connection is closed after the current response."""

    def setup(self) -> None:
        """Registers the connection, so that the server can shut it down."""
        super().setup()
        self.connection.settimeout(self.server.stall_seconds)
        self.reader = BufferedReader(self.connection)
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        """Unregisters the connection."""
        self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        """Serves requests until the client closes the connection or a request is malformed."""
        self.last = False
        while not self.last:
            try:
                request = read_request(self.reader)
            except BadRequest as bad:
                self._refuse(Refused(bad.status, str(bad)))
                return
            if request is None:
                return
            self.last = request.is_last
            self._dispatch(request)

    # --- requests -------------------------------------------------------------------------------

    def _dispatch(self, request: Request) -> None:
        try:
            if request.path == "/healthz":
                self._respond(200, b"{}")
                return
            if not self.server.allows(request.header("Authorization")):
                raise Refused(401, "the transfer token is missing or wrong")
            with self.server.idle_timer.request():
                self._serve(request)
        except Refused as refused:
            _log(f"{request.method} {request.path}: {refused.status} {refused}")
            self._refuse(refused)
        except ShuttingDown:
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
                chunks = self.server.volume.log(follow=follow, wait=self._wait_for_more)
                self._stream("application/octet-stream", chunks)
            case _, method, "/" | "/log":
                raise Refused(405, f"{method} is not served here in {self.server.mode} mode")
            case _:
                raise Refused(404, "there is nothing at this path")

    def _write(self, request: Request) -> None:
        try:
            self.server.volume.check_writable()
            if request.expects_continue:
                self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            summary = self.server.volume.write(request_body(self.reader, request.header))
        except VolumeNotWritable as busy:
            raise Refused(409, str(busy)) from None
        except archive.ArchiveRefused as refused:
            raise Refused(400, refused.reason, refused.member) from None
        except BadBody as bad:
            raise Refused(bad.status, str(bad)) from None
        except (ConnectionError, TimeoutError) as cut:
            self.last = True
            _log(f"the upload was cut and undone: {cut}")
        except OSError as error:
            raise _refused_by_disk(error) from error
        else:
            _log(f"written: {summary.files} files, {summary.bytes} bytes")
            self._respond(204, b"")

    def _clear(self) -> None:
        try:
            self.server.volume.clear()
        except VolumeNotWritable as busy:
            raise Refused(409, str(busy)) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        self._respond(204, b"")

    def _stream(self, content_type: str, chunks: Iterator[bytes | archive.Span]) -> None:
        """Sends the chunks. A failure before the first one still gets an error response."""
        try:
            first = next(chunks, b"")
        except archive.CannotPack as refused:
            raise Refused(500, refused.reason, refused.member) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        head = f"Content-Type: {content_type}\r\nTransfer-Encoding: chunked"
        try:
            self.connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
            self._send(first)
            for chunk in chunks:
                self._send(chunk)
            send_last_chunk(self.connection)
        except (archive.CannotPack, OSError) as error:
            # Without the final chunk the reader knows that the body is incomplete.
            self.last = True
            _log(f"the download was cut: {error}")

    def _send(self, chunk: bytes | archive.Span) -> None:
        if isinstance(chunk, bytes):
            send_chunk(self.connection, chunk)
        else:
            send_file_chunk(self.connection, chunk.descriptor, chunk.size, chunk.start)

    def _measure(self, chunks: Iterator[bytes | archive.Span]) -> None:
        """Responds with the length of all chunks together, without a body."""
        try:
            length = archive.length_of(chunks)
        except archive.CannotPack as refused:
            raise Refused(500, refused.reason, refused.member) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        self._respond(200, b"", length)

    def _wait_for_more(self) -> bool:
        """Pauses before the log is read again; False once the client has left or sent more."""
        readable, _, _ = select.select([self.connection], [], [], _FOLLOW_SECONDS)
        return not readable

    # --- responses ------------------------------------------------------------------------------

    def _respond(self, status: int, body: bytes, length: int | None = None) -> None:
        """Sends a response; `length` is that of a body that is not sent."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        if status != 204:
            length = len(body) if length is None else length
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        if self.last:
            lines.append("Connection: close")
        self.connection.sendall("\r\n".join([*lines, "\r\n"]).encode() + body)

    def _refuse(self, refused: Refused) -> None:
        """Responds and closes, since an unknown part of a refused body is still on its way."""
        self.last = True
        body = json.dumps({"reason": refused.reason, "member": refused.member}).encode()
        with suppress(OSError):
            self._respond(refused.status, body)
            self._drain()

    def _drain(self) -> None:
        """Drains the request for a moment: else the kernel would discard the response."""
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _DRAIN_SECONDS
        self.connection.settimeout(_DRAIN_SECONDS)
        while time.monotonic() < until and self.reader.read1(64 << 10):
            pass


def _refused_by_disk(error: OSError) -> Refused:
    if error.errno in _DISK_FULL:
        return Refused(507, "the volume is full")
    member = str(error.filename) if error.filename is not None else None
    return Refused(500, error.strerror or str(error), member)


def _form_of(request: Request) -> archive.Form:
    return archive.Form.asked(request.argument("entries"), request.argument("holes"))


def _log(line: str) -> None:
    with suppress(OSError):  # straight to the descriptor: whole lines, from many threads
        os.write(2, f"agent: {line}\n".encode("utf-8", "backslashreplace"))


def main(arguments: list[str] | None = None) -> int:
    """Serves until idle or signalled; returns the exit code: 0, or 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="agent", description="Moves one volume in or out.")
    parser.add_argument("--path", type=Path, required=True, help="where the volume is mounted")
    parser.add_argument("--mode", choices=("read", "write"), required=True)
    parser.add_argument("--port", type=int, default=18082, help="0 takes a free one")
    parser.add_argument(
        "--idle", type=float, default=180.0, help="seconds without use to end after"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=_GRACE_SECONDS,
        help="seconds that requests under way have to end after SIGTERM",
    )
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        report(f"agent: {TOKEN_VARIABLE} is not set; without it anybody could access the volume.")
        return 2
    if not options.path.is_dir():
        report(f"agent: {options.path} is not a folder.")
        return 2
    os.umask(0o022)  # whoever uses the Data may run under another account
    server = AgentServer(
        ServedVolume(options.path), options.mode, token, options.port, options.idle
    )
    _log(f"serving {options.path} for {options.mode} on port {server.port}")
    server.serve_until_idle(options.grace)
    return 0


if __name__ == "__main__":
    # Threads may still serve connections; an interpreter that shuts down under them would abort.
    os._exit(main())
