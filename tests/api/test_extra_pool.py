"""Connections to services are used again, and no request is lost or doubled because of that."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
import pytest

from knit_api.deps import Deps
from knit_api.extra.pool import MOST
from tests.api.access import nobody_asks
from tests.api.extra import PutInForce, extra
from tests.api.live_server import talk
from tests.api.test_extra_apis import message, parts, request
from tests.api.upstreams import OK, Received, sends, service
from tests.waiting import until

__all__ = ["extra"]


async def get(port: int, *headers: str, method: str = "GET") -> int:
    return parts(await talk(port, request(f"{method} /x", *headers)))[0]


async def test_a_connection_serves_one_request_after_the_other(port, extra: PutInForce):
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port)
        assert [await get(port) for _ in range(3)] == [200] * 3
        assert (len(behind.requests), behind.connections) == (3, 1)


async def test_requests_at_the_same_time_have_a_connection_each(port, extra: PutInForce):
    async def together(_: Received, writer: asyncio.StreamWriter) -> None:
        """Answers when all of its turn have asked."""
        wanted = 4 if len(behind.requests) <= 4 else 8
        await until(lambda: len(behind.requests) == wanted)
        writer.write(OK)

    async with service(together, keeps=True) as behind:
        extra(behind.port)
        for _ in range(2):
            assert await asyncio.gather(*(get(port) for _ in range(4))) == [200] * 4
        assert behind.connections == 4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PROPFIND"])
async def test_what_must_not_be_made_twice_begins_on_a_new_connection(
    port, extra: PutInForce, method
):
    """And leaves it for others."""
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port)
        assert [await get(port), await get(port, method=method)] == [200, 200]
        assert behind.connections == 2
        assert [await get(port), await get(port)] == [200, 200]
        assert behind.connections == 2


async def test_a_body_begins_on_a_new_connection(port, extra: PutInForce):
    """It could not be sent again."""
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port)
        await get(port)
        answer = await talk(port, request("GET /x", "Content-Length: 2", body=b"hi"))
        assert parts(answer)[0] == 200
        assert behind.last.body == b"hi"
        assert behind.connections == 2


@pytest.mark.patient
async def test_a_connection_that_the_service_has_ended_is_not_used(port, extra: PutInForce):
    """It has not said so beforehand."""
    async with service(sends(OK, pause=0)) as behind:
        extra(behind.port)
        assert [await get(port) for _ in range(20)] == [200] * 20
        assert len([one for one in behind.requests if one.head]) == 20


@pytest.mark.parametrize("how", ["ends", "resets"])
async def test_a_request_that_met_the_end_of_a_connection_is_made_on_another(
    port, extra: PutInForce, how
):
    """The service sees what has come too late to be answered, and says nothing."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        if len(behind.requests) == 2:
            writer.transport.abort() if how == "resets" else writer.close()
            return
        writer.write(OK)

    async with service(respond, keeps=True) as behind:
        extra(behind.port)
        assert [await get(port), await get(port)] == [200, 200]
        assert (len(behind.requests), behind.connections) == (3, 2)


async def test_it_is_not_made_again_once_there_is_a_response(port, extra: PutInForce):
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        if len(behind.requests) == 2:
            writer.write(b"HTTP/1.1 2")
            writer.close()
            return
        writer.write(OK)

    async with service(respond, keeps=True) as behind:
        extra(behind.port)
        assert await get(port) == 200
        answer = await talk(port, request())
        assert parts(answer)[0] == 500
        assert "before its response ended" in message(answer)["reason"]
        assert len(behind.requests) == 2


async def test_on_a_new_connection_it_is_not_made_again(port, extra: PutInForce):
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with service(respond, keeps=True) as behind:
        extra(behind.port)
        assert await get(port) == 500
        assert len(behind.requests) == 1


@pytest.mark.parametrize(
    ("answered", "method", "header"),
    [
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), "GET", "X: y"),
        (OK.replace(b"1.1", b"1.0"), "GET", "X: y"),
        (OK + b"more", "GET", "X: y"),
        (OK + OK, "GET", "X: y"),
        (OK.removesuffix(b"ok"), "HEAD", "X: y"),
        (b"HTTP/1.1 204 No\r\n\r\n", "GET", "X: y"),
        (b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", "GET", "X: y"),
        (OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=0\r\n\r\n"), "GET", "X: y"),
    ],
)
async def test_a_connection_that_may_not_be_used_again_is_not(
    port, extra: PutInForce, answered, method, header
):
    async with service(sends(answered), keeps=True) as behind:
        extra(behind.port)
        for _ in range(2):
            assert await get(port, header, method=method) < 400
        await until(lambda: behind.ended == 2)
        assert behind.connections == 2


@pytest.mark.parametrize("credentials", ["NTLM TlRMTVNTUAAB", "negotiate YII="])
async def test_nor_one_on_which_the_client_is_logged_in(
    port, deps: Deps, extra: PutInForce, credentials
):
    """For all that follows on it. Only without accounts can a client log in at the service so."""
    object.__setattr__(deps, "accounts", nobody_asks())
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port)
        for _ in range(2):
            assert await get(port, f"Authorization: {credentials}") == 200
        await until(lambda: behind.ended == 2)
        assert behind.connections == 2


async def test_what_comes_late_is_not_taken_for_the_next_response(port, extra: PutInForce):
    answered = OK.replace(b"ok", b"no")

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        if len(behind.requests) == 1:
            await asyncio.sleep(0.05)
            writer.write(answered)
            late.set()

    late = asyncio.Event()
    async with service(respond, keeps=True) as behind:
        extra(behind.port)
        assert await get(port) == 200
        await late.wait()
        assert parts(await talk(port, request()))[2] == b"ok"
        assert behind.connections == 2


async def test_a_connection_does_not_wait_for_long(port, extra: PutInForce):
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port, keep_alive=0.05)
        await get(port)
        await until(lambda: behind.ended == 1)


@pytest.mark.patient
async def test_nor_for_longer_than_the_service_says(port, extra: PutInForce):
    answered = OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: max=9, timeout=1\r\n\r\n")
    async with service(sends(answered), keeps=True) as behind:
        extra(behind.port, keep_alive=1000.0)
        await get(port)
        await until(lambda: behind.ended == 1)


async def test_each_request_may_have_a_connection_of_its_own(port, extra: PutInForce):
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port, keep_alive=0.0)
        assert [await get(port), await get(port)] == [200, 200]
        await until(lambda: behind.ended == 2)


async def test_few_wait(port, extra: PutInForce):
    arrived = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        if len(behind.requests) == MOST + 4:
            arrived.set()
        await arrived.wait()
        writer.write(OK)

    async with service(respond, keeps=True) as behind:
        extra(behind.port, keep_alive=1000.0)
        assert await asyncio.gather(*(get(port) for _ in range(MOST + 4))) == [200] * (MOST + 4)
        await until(lambda: behind.ended == 4)


async def test_all_are_closed_at_the_end(port, deps, extra: PutInForce):
    async with service(sends(OK), keeps=True) as behind:
        extra(behind.port, keep_alive=1000.0)
        await get(port)
        deps.extra_apis.close()
        await until(lambda: behind.ended == 1)


@pytest.mark.patient
async def test_a_service_that_ends_connections_at_any_time_loses_and_doubles_nothing(
    port, extra: PutInForce
):
    """A hundred clients; it closes one after any response, at once or some moments later."""
    dice = random.Random(7)

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        if dice.random() < 0.5:
            asyncio.get_running_loop().call_later(dice.random() / 500, writer.close)

    async with service(respond, keeps=True) as behind:
        extra(behind.port)
        # The API ends idle connections after five seconds: the client must not use them till then.
        limits = httpx.Limits(max_connections=16, keepalive_expiry=1)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/x", trust_env=False, limits=limits, timeout=60
        ) as client:

            async def ask(number: int) -> int:
                method = dice.choice(["GET", "GET", "POST"])
                await asyncio.sleep(dice.random() / 2)
                return (await client.request(method, f"/{method}/{number}")).status_code

            assert set(await asyncio.gather(*map(ask, range(600)))) == {200}
        seen = Counter(one.target for one in behind.requests if one.head)
        assert len(seen) == 600
        assert {count for target, count in seen.items() if "/POST/" in target} == {1}
        assert behind.connections < 600, "some were used again"
