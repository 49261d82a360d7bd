"""Extra APIs whose services, or clients, break the rules: nothing broken is passed on as whole."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.extra import PutInForce, extra
from tests.api.live_server import chunk, talk, unchunked
from tests.api.test_extra_apis import message, parts, request
from tests.api.upstreams import OK, Received, sends, service
from tests.waiting import until

__all__ = ["extra"]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answered", "kind", "words"),
    [
        (b"", "http_response_incomplete", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "http_response_incomplete", "closed the connection"),
        (b"HTTP/1.1 103 Early\r\n\r\n", "http_response_incomplete", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "http_protocol_error", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n", "http_protocol_error", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "http_protocol_error", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n", "http_protocol_error", "does not speak HTTP"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "http_protocol_error", "status 999"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "http_protocol_error",
            "does not speak HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "http_protocol_error", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "http_protocol_error", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"x" * 200_000), "http_protocol_error", "HTTP"),
        (
            b"HTTP/1.1 200 OK\r\n%s\r\n" % (b"X-Header: value\r\n" * 10_000),
            "http_protocol_error",
            "does not speak HTTP",
        ),
        (b"HTTP/1.1 102 Wait\r\n\r\n" * 100, "http_protocol_error", "interim responses"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "http_protocol_error",
            "HTTP",
        ),
    ],
)
async def test_what_is_no_response_becomes_a_500_in_words(
    port, extra: PutInForce, answered, kind, words
):
    async with service(sends(answered)) as behind:
        extra(behind.port)
        answer = await talk(port, request())
    status, headers, _ = parts(answer)
    assert (status, headers["proxy-status"]) == (500, f"knit; error={kind}")
    assert words in message(answer)["reason"]
    assert str(behind.port) not in message(answer)["reason"], "the address is the operator's"


@pytest.mark.parametrize(
    "answered",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
        CHUNKED + b"9\r\npart",
        CHUNKED + chunk(b"part"),
        CHUNKED + chunk(b"part") + b"0\r\n",
        CHUNKED + chunk(b"part") + b"0\r\nX-Sum: 1\r\n",
        CHUNKED + chunk(b"part") + b"zz\r\n",
        CHUNKED + b"4\r\npartx\r\n0\r\n\r\n",
        CHUNKED + chunk(b"part") + b"-1\r\n",
        CHUNKED + chunk(b"part") + b"0\r\nbad trailer\r\n\r\n",
        CHUNKED + chunk(b"part") + b"0\r\n" + b"x: y\r\n" * 30_000 + b"\r\n",
    ],
)
async def test_a_body_that_breaks_off_never_looks_complete(port, extra: PutInForce, answered):
    async with service(sends(answered)) as behind:
        extra(behind.port)
        answer = await talk(port, request(close=False))
    status, headers, body = parts(answer)
    assert status == 200
    if "content-length" in headers:
        assert len(body) < int(headers["content-length"])
    else:
        content, _, complete = unchunked(body)
        assert content in (b"part", b"")
        assert not complete


async def test_what_follows_a_response_is_no_second_one(port, extra: PutInForce):
    """Otherwise the service could answer somebody else's request."""
    async with service(sends(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as behind:
        extra(behind.port)
        answer = await talk(port, request(close=False) + request("GET /healthz"))
    assert b"evil" not in answer
    assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_of_a_length_and_chunks_the_chunks_count(port, extra: PutInForce):
    both = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 100\r\n\r\n")
    async with service(sends(both + chunk(b"whole") + b"0\r\n\r\n")) as behind:
        extra(behind.port)
        status, headers, body = parts(await talk(port, request()))
    assert status == 200
    assert "content-length" not in headers
    assert unchunked(body)[0] == b"whole"


@pytest.mark.parametrize(
    "sent",
    [
        request("POST /x", "Content-Length: 4", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request("POST /x", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        request("POST /x", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        request("POST /x", "Content-Length: 1", "Content-Length: 2", body=b"ab"),
        request("POST /x", "Content-Length: +1", body=b"a"),
        request("GET /x", "X : a"),
        request("GET /x", "X: a\x00b"),
        request("GET /x HTTP/1.1\r\nGET /x"),
        request("GET /x\x01"),
        request("GET /x", f"X: {'x' * 100_000}"),
        request("POST /x", "Transfer-Encoding: chunked", body=b"zz\r\n"),
        request("POST /x", "Transfer-Encoding: chunked", body=b"4\r\npartx\r\n0\r\n\r\n"),
    ],
)
async def test_a_request_that_could_be_read_in_two_ways_is_never_complete(
    port, extra: PutInForce, sent
):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        answer = await talk(port, sent)
        for received in behind.requests:
            smuggled = received.all("content-length") and received.all("transfer-encoding")
            assert not smuggled
            assert received.body in (b"", b"part")
            assert not received.complete or received.head.count(b"HTTP/1.1") == 1
        assert not answer.startswith(b"HTTP/1.1 200 ") or behind.requests


@pytest.mark.patient
async def test_a_service_that_never_responds_is_given_up(port, extra: PutInForce):
    async with service(sends(), closes=False) as behind:
        extra(behind.port, idle_timeout=1.0)
        answer = await talk(port, request())
        status, headers, _ = parts(answer)
        assert (status, headers["proxy-status"]) == (504, "knit; error=http_response_timeout")
        assert "did not respond within 1 s" in message(answer)["reason"]
        await until(lambda: behind.ended)


@pytest.mark.patient
async def test_a_head_that_drips_is_given_up_too(port, extra: PutInForce):
    """Slow loris from behind: each byte is in time, and the response never begins."""

    async def drips(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with service(drips) as behind:
        extra(behind.port, idle_timeout=0.5)
        assert parts(await talk(port, request()))[0] == 504


@pytest.mark.patient
async def test_a_body_that_stops_is_cut(port, extra: PutInForce):
    async with service(sends(CHUNKED + chunk(b"part")), closes=False) as behind:
        extra(behind.port, idle_timeout=5.0)
        content, _, complete = unchunked(parts(await talk(port, request(close=False)))[2])
        assert (content, complete) == (b"part", False)
        await until(lambda: behind.ended)


@pytest.mark.patient
async def test_a_slow_body_that_moves_is_not_cut(port, extra: PutInForce):
    """It takes longer than the time-out in all, and each part much less."""
    slow = [chunk(b"%d" % number) for number in range(40)]
    async with service(sends(CHUNKED, *slow, b"0\r\n\r\n", pause=0.1)) as behind:
        extra(behind.port, idle_timeout=3.0)
        for _ in range(5):  # this process itself may be held up
            content, _, complete = unchunked(parts(await talk(port, request()))[2])
            if complete:
                break
        assert complete
        assert content.endswith(b"39")


@pytest.mark.patient
async def test_a_client_that_sends_nothing_more_is_told_so(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port, idle_timeout=5.0)
        answer = await talk(port, request("PUT /x", "Content-Length: 9", body=b"part"))
        assert parts(answer)[0] == 408
        assert "the client sent nothing" in message(answer)["reason"]
        await until(lambda: behind.ended)
        assert not behind.last.complete


@pytest.mark.patient
async def test_a_service_that_takes_nothing_more_is_given_up(port, extra: PutInForce):
    stop = asyncio.Event()

    async def waits(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stop.wait()

    async with service(waits, early=True) as behind:
        extra(behind.port, idle_timeout=5.0)
        size = 64 << 20
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("PUT /x", f"Content-Length: {size}"))

        async def push() -> None:
            for _ in range(size >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()

        pushing = asyncio.ensure_future(push())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 504 ")
        pushing.cancel()
        await asyncio.wait({pushing})
        writer.transport.abort()
        stop.set()


@pytest.mark.patient
async def test_a_client_that_takes_nothing_more_is_cut(port, extra: PutInForce):
    async def endless(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(chunk(bytes(1 << 16)))
            await writer.drain()

    async with service(endless) as behind:
        extra(behind.port, idle_timeout=0.5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request())
        await until(lambda: behind.ended)
        writer.transport.abort()
        del reader


async def test_a_service_that_resets_the_connection(port, extra: PutInForce):
    async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunk(b"part"))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    async with service(reset) as behind:
        extra(behind.port)
        assert not unchunked(parts(await talk(port, request(close=False)))[2])[2]
