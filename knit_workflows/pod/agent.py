"""The transfer agent: one small HTTP server that moves the content of one volume in or out.

Run: ``python3 -m knit_workflows.pod.agent --path /data --mode read|write --port 18082 --idle 180``,
the secret in ``KNIT_TRANSFER_TOKEN``. Bodies are plain tar; compression and checksums are the
caller's. It ends by itself when nobody has asked for anything for a while.

    write   POST /           204; 400 refused, 409 has content, 507 disk full, 500 else
            DELETE /         204, the volume is empty and may be written again
    read    GET /            the volume as tar; GET /log: all files, one after another;
            GET /log?follow  the same, then what is added to the file `log`, until the client goes
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
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

from knit_workflows.pod import archive
from knit_workflows.pod.activity import Activity, Ending
from knit_workflows.pod.http_body import (
    BadBody,
    request_body,
    send_chunk,
    send_last_chunk,
)
from knit_workflows.pod.termination import explain
from knit_workflows.pod.volume import Volume, VolumeBusy

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


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "knit-agent"
    sys_version = ""
    rbufsize = 64 << 10
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Opens the connection to be ended from outside."""
        super().setup()
        self.connection.settimeout(self.server.stall_seconds)
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        """Forgets the connection."""
        self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        """Answers a request; `_dispatch` knows which."""
        self._dispatch()

    do_POST = do_DELETE = do_PUT = do_HEAD = do_GET  # noqa: N815  names are http.server's

    def handle_expect_100(self) -> bool:
        """Says no before the client has sent the body, where that is known already."""
        try:
            self._check_allowed()
            if self.command == "POST" and self.server.mode == "write":
                self._check_writable()
        except Refused as refused:
            self._refuse(refused)
            return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server finds wrong with a request, in our shape."""
        self._refuse(Refused(code, message or explain or "the request is malformed"))

    def log_message(self, format: str, *args: object) -> None:
        """One line per answer; probes are left out."""
        if getattr(self, "path", "") != "/healthz":
            _say(f"{self.address_string()} {format % args}")

    # --- what is asked for ----------------------------------------------------------------------

    def _dispatch(self) -> None:
        path, _, query = self.path.partition("?")
        try:
            if path == "/healthz":
                self._answer(200, b"")
                return
            self._check_allowed()
            with self.server.activity.request():
                self._serve(path, query)
        except Refused as refused:
            self._refuse(refused)
        except Ending:
            self._refuse(Refused(503, "the agent is ending"))

    def _check_allowed(self) -> None:
        if not self.server.allows(self.headers.get("Authorization")):
            raise Refused(401, "the transfer token is missing or wrong")

    def _check_writable(self) -> None:
        try:
            self.server.volume.check_writable()
        except VolumeBusy as busy:
            raise Refused(409, str(busy)) from None

    def _serve(self, path: str, query: str) -> None:
        match self.server.mode, self.command, path:
            case "write", "POST", "/":
                self._write()
            case "write", "DELETE", "/":
                self._clear()
            case "read", "GET", "/":
                pieces = archive.iter_pack(self.server.volume.root)
                self._stream("application/x-tar", pieces)
            case "read", "GET", "/log":
                follow = "follow" in {part.partition("=")[0] for part in query.split("&")}
                pieces = self.server.volume.log(follow=follow, wait=self._wait_for_more)
                self._stream("application/octet-stream", pieces)
            case _, _, "/" | "/log":
                reason = f"{self.command} {path} is not served in {self.server.mode} mode"
                raise Refused(405, reason)
            case _:
                raise Refused(404, f"there is nothing at {path}")

    def _write(self) -> None:
        self._check_writable()
        try:
            summary = self.server.volume.write(request_body(self.rfile, self.headers.get))
        except VolumeBusy as busy:
            raise Refused(409, str(busy)) from None
        except archive.ArchiveRefused as refused:
            raise Refused(400, refused.reason, refused.member) from None
        except BadBody as bad:
            raise Refused(bad.status, str(bad)) from None
        except (ConnectionError, TimeoutError) as cut:
            self.close_connection = True
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

    def _stream(self, content_type: str, pieces: Iterator[bytes]) -> None:
        """Sends the pieces as chunks. What fails before the first still gets a proper answer."""
        if self.request_version == "HTTP/1.0":
            raise Refused(505, "HTTP/1.0 cannot tell a complete body from a broken one")
        try:
            first = next(pieces, b"")
        except archive.CannotPack as refused:
            raise Refused(500, refused.reason, refused.member) from None
        except OSError as error:
            raise _refused_by_disk(error) from error
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            send_chunk(self.connection, first)
            for piece in pieces:
                send_chunk(self.connection, piece)
            send_last_chunk(self.connection)
        except (archive.CannotPack, OSError) as error:
            # Without the last chunk the reader knows that it has not got everything.
            self.close_connection = True
            _say(f"the download was cut: {error}")

    def _wait_for_more(self) -> bool:
        """Pauses a follower shortly; False when the client has gone, or speaks out of turn."""
        readable, _, _ = select.select([self.connection], [], [], _FOLLOW_SECONDS)
        return not readable

    # --- answers --------------------------------------------------------------------------------

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, refused: Refused) -> None:
        """Answers, then closes: of a refused body an unknown part is still under way."""
        self.close_connection = True
        body = json.dumps({"reason": refused.reason, "member": refused.member}).encode()
        with suppress(OSError):
            self._answer(refused.status, body)
            self._linger()

    def _linger(self) -> None:
        """Reads on for a moment: closed at once, the kernel would destroy the answer on its way."""
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _LINGER_SECONDS
        self.connection.settimeout(_LINGER_SECONDS)
        while time.monotonic() < until and self.rfile.read1(64 << 10):
            pass


def _refused_by_disk(error: OSError) -> Refused:
    if error.errno in _DISK_FULL:
        return Refused(507, "the volume is full")
    member = str(error.filename) if error.filename is not None else None
    return Refused(500, error.strerror or str(error), member)


def _say(line: str) -> None:
    sys.stderr.write(f"agent: {line}\n")
    sys.stderr.flush()


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
    sys.exit(main())
