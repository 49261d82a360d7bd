"""WebSockets through an extra API: the handshake is HTTP, all else are bytes in both directions."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from tests.api.extra import PutInForce, extra
from tests.api.live_server import talk
from tests.api.test_extra_apis import parts, request
from tests.api.upstreams import OK, sends, service
from tests.waiting import until

__all__ = ["extra"]

ASKED = ("Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
UPGRADE = request("GET /x/chat?a=1", "Connection: Upgrade", *ASKED, close=False)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HELLO = b"\x81\x05hello"


async def opened(port: int, more: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE + more)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 101 ")
    assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
    assert head.count("upgrade: websocket") == 1
    return reader, writer


async def socket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A service that says hello in the packet of its handshake, then sends back what it gets."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: upgrade" in head.lower()
    writer.write(SWITCHED + HELLO)
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_bytes_go_both_ways_until_the_client_ends(port, extra: PutInForce):
    server = await asyncio.start_server(socket, "127.0.0.1", 0)
    async with server:
        extra(server.sockets[0].getsockname()[1])
        reader, writer = await opened(port, b"early")
        assert await reader.readexactly(len(HELLO) + 5) == HELLO + b"early"
        large = bytes(range(256)) * 4096
        for _ in range(4):
            writer.write(large)
            assert await reader.readexactly(len(large)) == large
        writer.close()
        await writer.wait_closed()


async def test_a_library_at_both_ends_notices_nothing(port, extra: PutInForce):
    """With compression, fragments, pings and the closing handshake, as browsers speak it."""

    async def echo(asked: web.Request) -> web.WebSocketResponse:
        there = web.WebSocketResponse(protocols=["chat"])
        await there.prepare(asked)
        async for message in there:
            await there.send_str(f"{asked.path_qs} {message.data}")
        codes.append(there.close_code)
        return there

    codes: list[int | None] = []
    app = web.Application()
    app.router.add_get("/base/chat", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        extra(runner.addresses[0][1])
        url = f"http://127.0.0.1:{port}/x/chat?a=%20b"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, protocols=["chat"], compress=15) as here,
        ):
            assert here.protocol == "chat"
            for text in ("hello", "x" * 300_000, "ü"):
                await here.send_str(text)
                assert await here.receive_str() == f"/base/chat?a=%20b {text}"
            await here.close(code=4001)
        await until(lambda: codes == [4001])
    finally:
        await runner.cleanup()


async def test_the_handshake_is_passed_on_and_the_service_may_end(port, extra: PutInForce):
    async with service(sends(SWITCHED + HELLO)) as behind:
        extra(behind.port)
        reader, writer = await opened(port)
        assert await reader.read() == HELLO, "all that was sent before the end is there"
        writer.close()
        assert behind.last.target == "/base/chat?a=1"
        assert behind.last.one("sec-websocket-key") == "dGhlIHNhbXBsZSBub25jZQ=="
        assert behind.last.one("connection") == "upgrade"
        assert behind.last.one("upgrade") == "websocket"


async def test_a_service_may_refuse_the_upgrade(port, extra: PutInForce):
    async with service(sends(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE + request("GET /healthz"))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"HTTP/1.1 200 OK" in answer, "the connection goes on"
        writer.close()


async def test_a_client_that_leaves_ends_the_services_side(port, extra: PutInForce):
    async with service(sends(SWITCHED), closes=False) as behind:
        extra(behind.port)
        _, writer = await opened(port)
        writer.transport.abort()
        await until(lambda: behind.ended)


@pytest.mark.patient
async def test_where_nothing_moves_it_is_ended(port, extra: PutInForce):
    async with service(sends(SWITCHED), closes=False) as behind:
        extra(behind.port, idle_timeout=5.0)
        reader, writer = await opened(port)
        assert await reader.read() == b""
        writer.close()
        await until(lambda: behind.ended)


async def test_the_end_of_the_api_is_the_end_of_it(port, deps, extra: PutInForce):
    async with service(sends(SWITCHED), closes=False) as behind:
        extra(behind.port)
        reader, writer = await opened(port)
        deps.stopping.set()
        assert await reader.read() == b""
        writer.close()
        await until(lambda: behind.ended)


async def test_an_open_one_counts_among_the_requests_under_way(port, extra: PutInForce):
    async with service(sends(SWITCHED), closes=False) as behind:
        extra(behind.port, max_requests=1)
        _, writer = await opened(port)
        assert parts(await talk(port, request()))[0] == 503
        writer.close()
        await until(lambda: behind.ended)


@pytest.mark.parametrize("upgrade", ["h2c", "websocket, h2c", "TLS/1.0"])
async def test_no_other_upgrade_is_passed_on(port, extra: PutInForce, upgrade):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        sent = request("GET /x", "Connection: Upgrade", f"Upgrade: {upgrade}", "HTTP2-Settings: a")
        assert parts(await talk(port, sent))[0] == 200
        assert behind.last.all("upgrade") == []
        assert behind.last.all("connection") == []


async def test_a_request_with_a_body_does_not_become_one(port, extra: PutInForce):
    """Otherwise nobody could tell where the body ends and the WebSocket begins."""
    async with service(sends(OK)) as behind:
        extra(behind.port)
        asked = request("POST /x", "Connection: upgrade", *ASKED, "Content-Length: 2", body=b"hi")
        assert parts(await talk(port, asked))[0] == 200
        assert behind.last.all("upgrade") == []
        assert behind.last.body == b"hi"


async def test_knits_own_paths_know_no_upgrade(port):
    asked = request("GET /healthz", "Connection: Upgrade", *ASKED, close=False)
    answer = await talk(port, asked.replace(b"Connection: Upgrade", b"Connection: Upgrade, close"))
    assert parts(answer)[0] == 200
