"""What it takes to reach a service through an extra API: with connections kept, and without.

The API is a real process; the service answers at once, over HTTP/1.1, on this machine.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import psutil

from tests.api.test_processes import NOBODY, api
from tests.bench.api_figures import Client
from tests.bench.figures import figure, percentile

ROUNDS: Final = 20
REQUESTS: Final = 100
"""In each round and each way."""
WARM_UP: Final = 5
TARGET: Final = "p50 <= 5"


class _Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _service() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def proxy() -> None:
    """Prints the milliseconds of a GET, and the processor time that the API takes for it.

    Both ways are asked in turns, so that other work on the machine is in both figures.
    """
    with _service() as port, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "extra.yaml"
        service = f"http://127.0.0.1:{port}"
        config.write_text(json.dumps({"endpoints": [{"path": "/x", "proxy_to": service}]}))

        def started(name: str, keep: str) -> _Way:
            (folder / name).mkdir()
            settings = {**NOBODY, "KNIT_EXTRA_APIS__KEEP_ALIVE": keep}
            running = api(folder / name, "--extra-apis-config", str(config), **settings)
            one = stack.enter_context(running)
            return _Way(name, Client(one.url), "/x/", psutil.Process(one.pid))

        direct = _Way("the service alone", Client(service), "/", psutil.Process())
        each = started("a connection each", "PT0S")
        kept = started("kept connections", "PT4S")
        for _ in range(ROUNDS):
            for way in (direct, each, kept):
                way.ask()
        for way in (kept, each):
            figure(
                f"GET through an extra API, {way.name}",
                percentile(way.took, 0.5),
                "ms",
                TARGET,
                p99=round(percentile(way.took, 0.99), 3),
                api_cpu_ms=round(way.cpu / len(way.took), 3),
                direct_p50=round(percentile(direct.took, 0.5), 3),
                requests=len(way.took),
            )


@dataclass
class _Way:
    """One way to the service, and what it took so far, in milliseconds."""

    name: str
    client: Client
    path: str
    process: psutil.Process
    took: list[float] = field(default_factory=list)
    cpu: float = 0

    def ask(self) -> None:
        self.client.time([self.path] * WARM_UP)
        before = sum(self.process.cpu_times()[:2])
        took, _ = self.client.time([self.path] * REQUESTS)
        self.took += took
        self.cpu += 1000 * (sum(self.process.cpu_times()[:2]) - before)
