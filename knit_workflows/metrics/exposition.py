"""Serves the metrics of a process at `/metrics`, in Prometheus' text format.

Temporal's core, written in Rust, exposes what it measures on a port of its own. It listens on the
loopback address, and is read whenever somebody reads ours, so that a process has one port.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from knit_workflows import names
from knit_workflows.http1.plain_http import Answer, answering, at
from knit_workflows.metrics import instruments

log = logging.getLogger(__name__)

Refresh = Callable[[], Awaitable[None]]
"""Brings what has to be asked for up to date; raises nothing."""

_PATH: Final = "/metrics"
_LOOKS_EVERY: Final = 1.0
_CORE_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where metrics are served; without a host on all addresses."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `HOST:PORT`, `[IPv6]:PORT` or `:PORT`, for argparse."""
        host, colon, digits = text.rpartition(":")
        if not colon or not digits.isdecimal() or not digits.isascii() or int(digits) > 65535:
            raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, nor :PORT")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise argparse.ArgumentTypeError(f"{text!r}: write an IPv6 address in brackets")
        return cls(host.strip("[]"), int(digits))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option of API and workers."""
    parser.add_argument(
        "--metrics-address",
        type=Address.parse,
        metavar="[HOST]:PORT",
        help="answer /metrics over HTTP there, without authentication; without a host on all "
        "addresses (default: nowhere)",
    )


class AddressInUse(Exception):
    """Metrics cannot be served there; the message says why."""


def listen(address: Address | None) -> socket.socket | None:
    """Takes the address, if there is one; raises AddressInUse."""
    if address is None:
        return None
    try:
        return at(address.host, address.port)
    except OSError as error:
        raise AddressInUse(f"--metrics-address {address}: {error.strerror or error}") from error


@asynccontextmanager
async def serving(
    listener: socket.socket | None,
    component: str,
    registry: CollectorRegistry,
    *,
    core_port: int | None = None,
    refresh: Refresh | None = None,
) -> AsyncIterator[int | None]:
    """Serves metrics while inside; without a listener nothing is done.

    `component` says what this process is, `registry` has what only its kind measures, and
    `core_port` is that of Temporal's core.
    """
    if listener is None:
        yield None
        return
    instruments.BUILD.labels(names.VERSION, component).set(1)

    async def answer(path: str) -> Answer:
        if path != _PATH:
            return Answer.of_line(HTTPStatus.NOT_FOUND, f"there is {_PATH}")
        if refresh is not None:
            await refresh()
        ours = generate_latest(instruments.EVERYWHERE) + generate_latest(registry)
        core = b"" if core_port is None else await _of_core(core_port)
        return Answer(HTTPStatus.OK, ours + core, CONTENT_TYPE_PLAIN_0_0_4)

    async with AsyncExitStack() as stack:
        measuring = asyncio.create_task(_measure_lag())
        stack.callback(measuring.cancel)
        port = await stack.enter_async_context(answering(listener, answer))
        log.info("metrics are served", extra={"action": "metrics_served", "port": port})
        yield port


async def _measure_lag() -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _LOOKS_EVERY
        await asyncio.sleep(_LOOKS_EVERY)
        instruments.LOOP_LAG.observe(max(clock() - due, 0))


async def _of_core(port: int) -> bytes:
    """Reads what Temporal's core has measured; nothing, if it does not answer."""
    try:
        async with asyncio.timeout(_CORE_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                # In HTTP/1.0 the body is never in chunks, and its end is that of the connection.
                writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        log.warning("Temporal's core tells no metrics: %r", error, extra={"action": "core_silent"})
        return b""
    return body if b" 200 " in head.partition(b"\r\n")[0] else b""
