"""The receivers in `examples/hooks` as processes, and a chat for them to write to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.waiting import wait_until

HOOKS = Path(__file__).parents[1] / "examples" / "hooks"


@dataclass
class Chat:
    """An incoming webhook: what was posted to it, in order; the first answers may be others."""

    url: str
    posted: list[bytes] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@contextmanager
def chat() -> Iterator[Chat]:
    """Serves on a free port until left."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            serving.posted.append(body)
            self.send_response(serving.statuses.pop(0) if serving.statuses else 200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = Chat(f"http://127.0.0.1:{server.server_port}/incoming/secret")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield serving
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running(folder: Path, *arguments: str | Path, **variables: str) -> Iterator[str]:
    """Starts a receiver; gives its URL. It is ended with SIGTERM, and has to end well."""
    environment = {**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / f"{arguments[0]}.out").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments), "--listen", "127.0.0.1:0"],
            cwd=HOOKS,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    said = Path(output.name)
    try:
        wait_until(lambda: "listening on " in said.read_text() or process.poll() is not None)
        first, *_ = said.read_text().splitlines()
        assert first.startswith("listening on "), said.read_text()
        yield first.removeprefix("listening on ")
        process.terminate()
        assert process.wait(60) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in said.read_text(), said.read_text()


def signed(images: Path, **variables: str) -> None:
    """Signs a list of images, as whoever approves them does."""
    subprocess.run(
        [sys.executable, "-m", "gate", "sign", str(images)],
        cwd=HOOKS,
        env={**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        timeout=60,
    )
