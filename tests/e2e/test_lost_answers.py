"""A push through a proxy that loses the answers: one Data at the end, on the real stack."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from knit_cli.config.profile import Profile, save_profile
from tests.e2e.stack import DevStack, shell_plan
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]


class Swallowing:
    """Relays connections to the API; the first answers to uploads are cut off at their first byte.

    `swallowed` gets the head of each upload whose answer was lost.
    """

    def __init__(self, api: tuple[str, int], losses: int, then: Callable[[], None]) -> None:
        self._api = api
        self._losses = losses
        self._then = then
        self.swallowed: list[bytes] = []

    def relay(self, client: socket.socket) -> None:
        """Carries one connection to its end."""
        with client, suppress(OSError), self._connected() as server:
            first = client.recv(1 << 16)
            server.sendall(first)
            sending = threading.Thread(target=_carry, args=(client, server), daemon=True)
            sending.start()
            lost = first.startswith(b"POST /api/data") and len(self.swallowed) < self._losses
            while piece := server.recv(1 << 16):
                if lost:
                    self.swallowed.append(first.partition(b"\r\n\r\n")[0])
                    self._then()
                    # With a reset: the kernel must not end the connection politely.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RD)
                    return
                client.sendall(piece)

    def _connected(self) -> socket.socket:
        """Waits while the API is being started again: it is its answers that are lost here."""
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(self._api)
            except OSError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(stack: DevStack, losses: int, then: Callable[[], None]) -> Iterator[Swallowing]:
    """Such a proxy, and a profile `proxied` that leads through it."""
    address = urlsplit(stack.status()["api"])
    swallowing = Swallowing((address.hostname or "", address.port or 0), losses, then)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=swallowing.relay, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        root = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        save_profile(Profile(root), store=stack.folder / "profiles", name="proxied")
        yield swallowing
        listener.shutdown(socket.SHUT_RDWR)


def kill_api(stack: DevStack) -> None:
    """Ends the API's process at once; its supervisor starts another."""
    for process in stack.processes():
        with suppress(psutil.Error):
            if "knit_api" in process.cmdline():
                process.kill()


@pytest.mark.parametrize("killed", [False, True], ids=["cut", "API killed"])
def test_a_push_whose_answer_is_lost_makes_one_data(
    stack: DevStack, tmp_path: Path, killed: bool
) -> None:
    """However often it is lost: one Data, done, with its tags; its Plan has one Run."""
    tag = f"lost:{killed}"
    plan = stack.apply(shell_plan("cat /in/word > /out/word", tag))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "word").write_text("heard")
    (tmp_path / "set" / "large").write_bytes(bytes(20_000_000))
    losses = 1 if killed else 2
    with proxy(stack, losses, lambda: kill_api(stack) if killed else None) as swallowing:
        said = stack.knit(
            *("--profile-store", stack.folder / "profiles", "--profile", "proxied"),
            *("data", "push", "--tag", tag, tmp_path / "set"),
        )
    assert said.err.count("retrying in") >= losses
    assert len(swallowing.swallowed) == losses
    assert len({_key(head) for head in swallowing.swallowed}) == 1
    [data] = stack.get("/data", tag=tag)
    assert data["knitId"] == said.json()["knitId"]
    assert data["upstream"]["run"]["status"] == "done"
    assert stack.run_in(plan, "done")["inputs"][0]["knitId"] == data["knitId"]


def _key(head: bytes) -> bytes:
    lines = head.lower().splitlines()
    return next(line for line in lines if line.startswith(b"idempotency-key:"))
