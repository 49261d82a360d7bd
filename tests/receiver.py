"""A receiver of hooks: a real HTTP server that answers as a test says and keeps what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
AGREED: Answer = (200, {}, b"")


def with_environment(**values: str) -> Answer:
    """Agrees, and asks for these variables in the container's environment."""
    body = json.dumps({"knitfabExtension": {"env": values}}).encode()
    return 200, {"Content-Type": "application/json"}, body


@dataclass(frozen=True)
class Call:
    """One request: its path, its headers (names in lower case) and its JSON body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def transition(self) -> tuple[str, str]:
        """From which status to which."""
        told = self.body["transition"]
        return told["from"], told["to"]


@dataclass
class Receiver:
    """What was received so far, in order of arrival; `answer` may be replaced at any time."""

    origin: str
    answer: Callable[[Call], Answer] = lambda _: AGREED
    calls: list[Call] = field(default_factory=list)

    def url(self, path: str) -> str:
        """Gives the URL of one of its hooks."""
        return f"{self.origin}{path}"

    def transitions(self, path: str) -> list[tuple[str, str]]:
        """Gives the transitions that one hook was told of, in order."""
        return [call.transition for call in self.calls if call.path == path]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Serves on a free port of this machine until left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, json.loads(body))
            serving.calls.append(call)
            status, fields, content = serving.answer(call)
            self.send_response(status)
            for name, value in {**fields, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield serving
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
