from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from knit_workflows.compute.kubernetes import probe
from knit_workflows.compute.kubernetes.probe import status_of


@asynccontextmanager
async def agent(answer, heard=None):
    async def serve(reader, writer):
        heard_now = await reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(heard_now.decode())
        writer.write(answer)
        await asyncio.sleep(0 if answer else 60)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_the_agent_is_asked_and_its_status_given():
    heard = []
    async with agent(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", heard) as port:
        assert await status_of("POST", "127.0.0.1", port, "/", {"Authorization": "Bearer x"}) == 409
    assert heard[0].splitlines()[:2] == ["POST / HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    assert "Authorization: Bearer x" in heard[0]
    assert "Content-Length" not in heard[0]


@pytest.mark.parametrize("answer", [b"\r\n", b"nonsense\r\n", b"HTTP/1.1 \xff\r\n", b"x" * 5000])
async def test_what_is_not_http_is_no_answer(answer):
    async with agent(answer) as port:
        assert await status_of("GET", "127.0.0.1", port, "/healthz", {}) is None


async def test_an_agent_that_is_silent_or_away_gives_no_answer(monkeypatch):
    monkeypatch.setattr(probe, "_TIMEOUT", 0.05)
    async with agent(b"") as port:
        assert await status_of("GET", "127.0.0.1", port, "/healthz", {}) is None
    assert await status_of("GET", "127.0.0.1", port, "/healthz", {}) is None
