"""Asks a transfer pod's agent for a status: one request without a body, straight to the pod.

Without an HTTP client, which would take more memory than the rest of this back-end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

_TIMEOUT: Final = 1.0
"""Seconds for a response of the agent, which needs no disk for it."""
_MAX_LINE: Final = 1024


async def status_of(
    method: str, address: str, port: int, path: str, headers: Mapping[str, str]
) -> int | None:
    """Gives the status of the response; None if the agent does not answer in time."""
    host = f"[{address}]" if ":" in address else address
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection(address, port, limit=_MAX_LINE)
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode())
                _, status, *_ = (await reader.readline()).split(maxsplit=2)
            finally:
                writer.close()
        return int(status)
    except (OSError, ValueError):  # not up yet, unreachable from here, or not HTTP
        return None
