"""Extra APIs through the real server: what reaches the service, and what reaches the client."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from knit_api.app import create_app
from knit_api.extra import exchange
from knit_api.extra.in_force import ExtraApis
from knit_workflows.settings import ExtraApisSettings
from tests.api.access import enforced, nobody_asks
from tests.api.extra import PutInForce, extra
from tests.api.live_server import chunk, talk, unchunked
from tests.api.upstreams import OK, Received, sends, service
from tests.waiting import PATIENCE, until

__all__ = ["extra"]


def request(
    line: str = "GET /x", *headers: str, body: bytes = b"", version: str = "1.1", close: bool = True
) -> bytes:
    lines = [f"{line} HTTP/{version}", "Host: knit.example:8080", *headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    once = [name.lower() for name, _ in pairs if name.lower() != "connection"]
    assert len(set(once)) == len(once), "a header is there twice"
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body


def message(answer: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(parts(answer)[2])["message"]
    return found


METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"]


@pytest.mark.parametrize("method", METHODS)
async def test_method_path_and_query_reach_the_service_as_sent(port, extra: PutInForce, method):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        answer = await talk(port, request(f"{method} /x/a//b%2Fc/?q=%20&q=2"))
        assert (behind.last.method, behind.last.target) == (method, "/base/a//b%2Fc/?q=%20&q=2")
        status, headers, body = parts(answer)
        assert (status, headers["content-length"]) == (200, "2")
        assert body == (b"" if method == "HEAD" else b"ok")


@pytest.mark.parametrize(
    ("path", "proxy_to", "sent", "target"),
    [
        ("/x", "http://127.0.0.1:{port}/api", "/x", "/api"),
        ("/x", "http://127.0.0.1:{port}/api", "/x/", "/api/"),
        ("/x", "http://127.0.0.1:{port}/api/", "/x", "/api/"),
        ("/x", "http://localhost:{port}/base", "/x/sub/path/?query=1", "/base/sub/path/?query=1"),
        ("/", "http://127.0.0.1:{port}", "/?query=1", "/?query=1"),
        ("/", "http://127.0.0.1:{port}", "/else", "/else"),
    ],
)
async def test_the_request_line_is_as_the_contract_says(
    port, extra: PutInForce, path, proxy_to, sent, target
):
    async with service(sends(OK)) as behind:
        extra(behind.port, proxy_to, path)
        await talk(port, request(f"GET {sent}"))
        assert behind.last.target == target


async def test_headers_go_both_ways_without_those_of_the_hop(deps, port, extra: PutInForce):
    answered = (
        b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nX-Kept: a\r\nSet-Cookie: a=1\r\n"
        b"Server: theirs\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Hop: no\r\n"
        b"Connection: x-hop\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\r\nok"
    )
    object.__setattr__(deps, "accounts", nobody_asks())  # else the Authorization is knit's
    async with service(sends(answered)) as behind:
        extra(behind.port)
        answer = await talk(
            port,
            request(
                "GET /x", "Cookie: c=1", "Authorization: Bearer theirs", "X-Twice: 1", "X-Twice: 2",
                "X-Hop: no", "Connection: x-hop, content-length", "Keep-Alive: 5",
                "Proxy-Authorization: Basic no", "Proxy-Connection: keep-alive", "Upgrade: h2c",
                "TE: gzip", "User-Agent: mine", close=False,
            )
            + request("GET /healthz"),
        )  # fmt: skip
        seen = behind.last
        assert seen.all("x-twice") == ["1", "2"]
        assert (seen.one("cookie"), seen.one("authorization")) == ("c=1", "Bearer theirs")
        assert seen.one("user-agent") == "mine"
        assert seen.one("host") == f"127.0.0.1:{behind.port}"
        hop = (
            "connection",
            "x-hop",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "upgrade",
            "te",
        )
        assert not [name for name, _ in seen.headers if name in hop]
    first, found, second = answer.partition(b"HTTP/1.1 200 OK")
    assert found, "the connection goes on"
    status, headers, body = parts(first)
    assert (status, body) == (201, b"ok")
    assert (headers["x-kept"], headers["set-cookie"], headers["server"]) == ("a", "a=1", "theirs")
    assert headers["date"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert not {"x-hop", "keep-alive", "proxy-authenticate", "connection"} & set(headers)
    assert b"date:" in second.lower(), "knit's own responses have their own"


async def test_the_service_learns_who_asked_and_for_what(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        await talk(
            port,
            request(
                "GET /x", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: evil.example",
                "X-Forwarded-Proto: gopher", "Forwarded: for=evil", "Via: 1.1 front",
            ),
        )  # fmt: skip
        seen = behind.last
        assert seen.one("x-forwarded-for") == "203.0.113.7, 127.0.0.1"
        assert seen.one("x-forwarded-host") == "knit.example:8080"
        assert seen.one("x-forwarded-proto") == "http"
        assert seen.all("forwarded") == []
        assert seen.one("via").startswith("1.1 front, 1.1 knit-")


@pytest.mark.parametrize(
    ("settings", "sent", "told"),
    [
        ({}, "https", "http"),
        ({}, "gopher", "http"),
        ({"trusted_proxies": ["127.0.0.0/8"]}, "https", "https"),
        ({"trusted_proxies": ["127.0.0.0/8"]}, "gopher", "http"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "https", "http"),
        ({"public_url": "https://knit.example"}, "http", "https"),
    ],
)
async def test_the_service_learns_the_scheme_from_whom_accounts_believe(
    deps, store, port, extra: PutInForce, settings, sent, told
):
    object.__setattr__(deps, "accounts", enforced(store, **settings))
    async with service(sends(OK)) as behind:
        extra(behind.port)
        await talk(port, request("GET /x", f"X-Forwarded-Proto: {sent}"))
        assert behind.last.one("x-forwarded-proto") == told


async def test_a_body_with_a_length_stays_one_with_a_length(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        sent = request("PUT /x", "Content-Length: 5", "Content-Type: a/b", body=b"hello")
        await talk(port, sent)
        assert (behind.last.body, behind.last.complete) == (b"hello", True)
        assert behind.last.one("content-length") == "5"
        assert behind.last.one("content-type") == "a/b"
        assert behind.last.all("transfer-encoding") == []


async def test_chunks_and_trailers_go_both_ways(port, extra: PutInForce):
    answered = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        + chunk(b"hel") + chunk(b"lo") + b"0\r\nX-Sum: 1\r\nX-Sum: 2\r\nSet-Cookie: no\r\n\r\n"
    )  # fmt: skip
    async with service(sends(answered)) as behind:
        extra(behind.port)
        answer = await talk(
            port,
            request(
                "POST /x", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-A",
                body=chunk(b"one") + chunk(b"two")
                + b"0\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 7\r\nHost: evil\r\n\r\n",
            ),
        )  # fmt: skip
        seen = behind.last
        assert (seen.body, seen.complete) == (b"onetwo", True)
        assert seen.one("transfer-encoding") == "chunked"
        assert seen.all("content-length") == []
        assert (seen.one("te"), seen.one("connection")) == ("trailers", "te")
        assert seen.one("trailer") == "X-A"
        assert seen.trailers == [("x-a", "1, 2")]
    status, headers, body = parts(answer)
    assert (status, headers["trailer"], headers["transfer-encoding"]) == (200, "X-Sum", "chunked")
    assert body.endswith(b"0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\n")
    assert unchunked(body)[0] == b"hello"


async def test_parts_of_a_response_are_passed_on_as_they_come(port, extra: PutInForce):
    """Such as server-sent events: the first one is there while the service still works."""
    go_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"first"))
        await go_on.wait()
        writer.write(chunk(b"second") + b"0\r\n\r\n")

    async with service(respond) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("GET /x"))
        assert (await reader.readuntil(b"first")).startswith(b"HTTP/1.1 200 OK")
        go_on.set()
        assert (await reader.read()).endswith(chunk(b"second") + b"0\r\n\r\n")
        writer.close()


async def test_parts_of_a_request_are_passed_on_as_they_come(port, extra: PutInForce):
    """A service may respond to what it has, while the client still sends."""

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"early"))
        writer.write(b"0\r\n\r\n")

    async with service(respond, early=True) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("POST /x", "Transfer-Encoding: chunked", close=False) + chunk(b"one"))
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.write(chunk(b"two") + b"0\r\n\r\n" + request("GET /healthz"))
        assert b"200 OK" in await reader.read(), "the connection can still be used"
        writer.close()


async def test_a_refusal_of_a_large_body_reaches_the_client(port, extra: PutInForce):
    """The service closes the connection without reading; its response counts all the same."""
    refused = b"HTTP/1.1 413 No\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"
    async with service(sends(refused), early=True) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("PUT /x", f"Content-Length: {50 << 20}"))
        assert (await reader.readuntil(b"large")).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_100_continue_comes_from_the_service(port, extra: PutInForce):
    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        assert received.one("expect") == "100-continue"
        asked.set()
        await go_on.wait()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    asked, go_on = asyncio.Event(), asyncio.Event()
    async with service(respond, early=True) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("PUT /x", "Content-Length: 2", "Expect: 100-continue"))
        await asked.wait()
        go_on.set()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.close()


async def test_a_client_that_waits_for_100_is_told_a_refusal_instead(
    port, extra: PutInForce, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exchange, "_CONTINUE_SECONDS", PATIENCE)
    async with service(
        sends(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), early=True
    ) as behind:
        extra(behind.port)
        sent = request("PUT /x", "Content-Length: 2", "Expect: 100-continue")
        answer = await talk(port, sent)
        assert parts(answer)[0] == 401
        assert b"100 Continue" not in answer


@pytest.mark.patient
async def test_a_service_that_knows_no_100_gets_the_body_all_the_same(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("PUT /x", "Content-Length: 2", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.read()).endswith(b"ok")
        assert behind.last.body == b"hi"
        writer.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body(port, extra: PutInForce, status):
    answered = b"HTTP/1.1 %d X\r\nETag: a\r\n\r\n" % status
    async with service(sends(answered)) as behind:
        extra(behind.port)
        found, headers, body = parts(await talk(port, request()))
        assert (found, headers["etag"], body) == (status, "a", b"")


async def test_interim_responses_are_not_final(port, extra: PutInForce):
    async with service(sends(b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" * 3, OK)) as behind:
        extra(behind.port)
        assert parts(await talk(port, request()))[0] == 200


async def test_a_redirect_is_passed_on_not_followed(port, extra: PutInForce):
    async with service(sends(OK)) as elsewhere:
        there = f"http://127.0.0.1:{elsewhere.port}/secret"
        moved = f"HTTP/1.1 307 Go\r\nLocation: {there}\r\nContent-Length: 0\r\n\r\n"
        async with service(sends(moved.encode())) as behind:
            extra(behind.port)
            status, headers, _ = parts(await talk(port, request("POST /x")))
            assert (status, headers["location"]) == (307, there)
        assert elsewhere.requests == []


async def test_a_redirect_within_the_service_leads_through_knit(port, extra: PutInForce):
    moved = b"HTTP/1.1 302 Go\r\nLocation: /base/next?a=1\r\nContent-Length: 0\r\n\r\n"
    async with service(sends(moved)) as behind:
        extra(behind.port)
        assert parts(await talk(port, request()))[1]["location"] == "/x/next?a=1"


async def test_http_1_0_gets_bodies_with_a_length_only(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        assert parts(await talk(port, request(version="1.0")))[2] == b"ok"
        assert parts(await talk(port, b"GET /x HTTP/1.0\r\n\r\n"))[2] == b"ok"
        assert behind.last.all("x-forwarded-host") == []
    answered = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x") + b"0\r\n\r\n"
    async with service(sends(answered)) as behind:
        extra(behind.port)
        status, headers, _ = parts(await talk(port, request(version="1.0")))
        assert (status, headers["upgrade"]) == (426, "HTTP/1.1")


async def test_a_body_that_ends_with_the_connection_is_passed_on_in_chunks(port, extra: PutInForce):
    async with service(sends(b"HTTP/1.0 200 OK\r\n\r\n", b"a", b"b")) as behind:
        extra(behind.port)
        status, headers, body = parts(await talk(port, request()))
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        content, _, complete = unchunked(body)
        assert (content, complete) == (b"ab", True)


async def test_knits_own_paths_stay_knits_own(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port, path="/")
        for path in (
            "/api/version",
            "/api/version/",
            "//api/version",
            "/%61pi/version",
            "/healthz",
        ):
            assert parts(await talk(port, request(f"GET {path}")))[2] != b"ok"
        assert b"parts" in await talk(port, request("GET /readyz"))
        assert behind.requests == []
        assert parts(await talk(port, request("GET /apis")))[2] == b"ok"


async def test_a_parent_of_the_path_is_unknown(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port, path="/a/b")
        assert parts(await talk(port, request("GET /a")))[0] == 404
        assert parts(await talk(port, request("GET /a/bc")))[0] == 404
        assert parts(await talk(port, request("GET /a/b/../c")))[0] == 400
        assert behind.requests == []


async def test_what_is_unreachable_is_a_500_with_the_reason(port, extra: PutInForce):
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    extra(number)
    answer = await talk(port, request())
    status, headers, _ = parts(answer)
    assert (status, headers["proxy-status"]) == (500, "knit; error=connection_refused")
    told = message(answer)
    assert told["reason"].startswith("the service behind /x cannot be reached: ")
    assert "refused" in told["reason"]
    assert told["advice"]


async def test_an_unknown_host_is_a_500_too(port, extra: PutInForce):
    extra(0, "http://no.such.host.invalid/")
    answer = await talk(port, request())
    assert parts(answer)[0] == 500
    assert parts(answer)[1]["proxy-status"] == "knit; error=dns_error"


async def test_connect_is_refused_in_words(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        status, headers, _ = parts(await talk(port, request("CONNECT /x")))
        assert status == 405
        assert "CONNECT" not in headers["allow"]
        assert behind.requests == []


async def test_a_request_that_comes_back_is_stopped(port, extra: PutInForce):
    extra(port, "http://127.0.0.1:{port}/x")
    answer = await talk(port, request())
    assert parts(answer)[0] == 508
    assert "leads back" in message(answer)["reason"]


async def test_no_more_than_the_limit_are_under_way(port, extra: PutInForce):
    go_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(OK)

    async with service(respond) as behind:
        extra(behind.port, max_requests=2)
        both = [asyncio.ensure_future(talk(port, request())) for _ in range(2)]
        await until(lambda: len(behind.requests) == 2)
        answer = await talk(port, request())
        assert parts(answer)[0] == 503
        assert parts(answer)[1]["retry-after"]
        assert parts(await talk(port, request("GET /healthz")))[0] == 200
        go_on.set()
        assert [parts(one)[0] for one in await asyncio.gather(*both)] == [200, 200]
        assert parts(await talk(port, request()))[0] == 200, "they are counted down again"


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"


@pytest.mark.parametrize("begun", [b"", HALF])
async def test_a_client_that_leaves_ends_the_request_of_the_service(port, extra: PutInForce, begun):
    async with service(sends(begun), closes=False) as behind:
        extra(behind.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await until(lambda: behind.requests and behind.last.complete)
        if begun:
            await reader.readuntil(b"part")
        assert not behind.ended
        writer.close()
        await until(lambda: behind.ended)


@pytest.mark.parametrize(
    ("framing", "body"),
    [("Content-Length: 9", b"part"), ("Transfer-Encoding: chunked", chunk(b"part"))],
)
async def test_a_client_that_leaves_within_its_body_does_not_complete_it(
    port, extra: PutInForce, framing, body
):
    async with service(sends(OK)) as behind:
        extra(behind.port)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("PUT /x", framing, body=body))
        await until(lambda: behind.requests and behind.last.body == b"part")
        writer.close()
        await until(lambda: behind.ended)
        assert not behind.last.complete


async def test_names_that_are_not_this_machines_are_refused_for_extra_apis_too(
    deps, extra: PutInForce
):
    """Else a web page could reach them under a name of its own (DNS rebinding)."""
    async with service(sends(OK)) as behind:
        extra(behind.port)
        without = replace(deps, accounts=nobody_asks())
        transport = httpx.ASGITransport(create_app(without, loopback_names_only=True))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://evil.example/x")).status_code == 403
            assert behind.requests == []
            assert (await client.get("http://127.0.0.1/x")).text == "ok"


async def test_readyz_tells_of_a_file_that_was_refused(
    deps, client: httpx.AsyncClient, tmp_path: Path
):
    file = tmp_path / "extra.yaml"
    file.write_text("endpoints: []")
    found = ExtraApis(ExtraApisSettings(config=file))
    object.__setattr__(deps, "extra_apis", found)
    ready = await client.get("http://x/readyz")
    assert ready.status_code == 200
    assert "extra_apis" not in ready.json()["parts"]
    file.write_text("endpoints: 1")
    for _ in range(2):
        await found.refresh(file)
    ready = await client.get("http://x/readyz")
    assert ready.status_code == 200, "the last valid file is in force, so this API can work"
    assert "endpoints: not a list" in ready.json()["parts"]["extra_apis"]
