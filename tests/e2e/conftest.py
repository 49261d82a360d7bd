"""One running stack per module, with a container engine if this machine has one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.e2e.cluster_stack import Knit, cluster_stack
from tests.e2e.stack import DevStack, dev_stack

SANDBOX = Path(__file__).parents[2] / "tools" / "sandbox.py"


@pytest.fixture(scope="session")
def sandbox() -> dict[str, str]:
    """What the repository's tool says about containers here; skips when there is nothing."""
    done = subprocess.run(
        [sys.executable, str(SANDBOX), "--for-tests"], capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tools/sandbox.py failed").splitlines()[-1])
    found: dict[str, str] = json.loads(done.stdout)
    return found


class _EmptyRegistry(BaseHTTPRequestHandler):
    """An image registry that has no image."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"{}"
        if self.path.rstrip("/") != "/v2":
            body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        self.send_response(200 if body == b"{}" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """The host and port of an image registry without images."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyRegistry) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def stack(
    sandbox: dict[str, str], registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevStack]:
    """A stack that is up."""
    plain = tmp_path_factory.mktemp("registries") / "registries.conf"
    plain.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    environment = {key: value for key, value in sandbox.items() if not key.startswith("KNIT_")}
    environment |= {
        "CONTAINERS_REGISTRIES_CONF": str(plain),
        "KNIT_COMPUTE__LOCAL__ENGINE": sandbox["KNIT_TEST_ENGINE"],
        # The tests' machine need not be able to set up networks of containers.
        "KNIT_COMPUTE__LOCAL__NETWORK": "false",
        "KNIT_ENGINE__IMAGE_PULL_DEADLINE": "PT3S",
        "KNIT_ENGINE__STOP_GRACE": "PT2S",
        # The user's, for another database than the stack's own.
        "PGCHANNELBINDING": "require",
        "PGHOSTADDR": "192.0.2.1",
    }
    with dev_stack(**environment) as running:
        extra = {"endpoints": [{"path": "/registry", "proxy_to": f"http://{registry}/v2"}]}
        (running.folder / "extra.yaml").write_text(json.dumps(extra))
        running.up("--extra-apis", "extra.yaml")
        yield running


@pytest.fixture(scope="module")
async def knit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Knit]:
    """A stack on the cluster that is up, and collects what is discarded at once."""
    at_once = {"KNIT_ENGINE__GC_INTERVAL": "PT1S", "KNIT_ENGINE__GC_GRACE_PERIOD": "PT1S"}
    async with cluster_stack(tmp_path_factory.mktemp("knit"), **at_once) as running:
        yield running
