"""Calls of hooks, against real receivers on loopback that do what receivers should not."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from importlib import metadata

import pytest

from knit_workflows.domain.hooks import MAX_ANSWER, HookAnswer
from knit_workflows.hooks.caller import HookCaller
from knit_workflows.hooks.file import Allowed, HooksFile
from tests.unit.hooks.conftest import BODY, MESSAGE, Callers
from tests.unit.hooks.receiver import Script, answer, receiving, repeating, saying
from tests.waiting import until

SHORT = timedelta(seconds=3)
OK = b"HTTP/1.1 200 OK\r\n"


async def called(caller: HookCaller, script: Script) -> HookAnswer:
    async with receiving(script) as receiver:
        return await caller.call(receiver.url(), MESSAGE)


def failed(result: HookAnswer) -> tuple[str, int | None]:
    assert not result.succeeded
    assert result.environment == {}
    return result.text, result.status_code


async def test_a_call_is_one_post_of_the_body(caller_with: Callers) -> None:
    async with receiving(answer(204)) as receiver:
        result = await caller_with().call(receiver.url("/a%2Fb?x=%20y"), MESSAGE)
        (heard,) = receiver.heard
    assert (result.succeeded, result.text, result.status_code) == (True, "", 204)
    assert result.duration > timedelta()
    assert heard.line == "POST /a%2Fb?x=%20y HTTP/1.1"
    assert heard.body == BODY.encode()
    assert heard.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-type": "application/json",
        "content-length": str(len(BODY.encode())),
        "accept": "application/json, */*;q=0.5",
        "accept-encoding": "identity",
        "webhook-id": MESSAGE.delivery_id,
        "user-agent": f"knit/{metadata.version('knit')}",
        "connection": "close",
    }


async def test_a_call_as_a_cloud_event(caller_with: Callers) -> None:
    caller = caller_with()
    caller.configure(HooksFile(format="cloudevents"))
    async with receiving(answer(200)) as receiver:
        assert (await caller.call(receiver.url(), MESSAGE)).succeeded
        (heard,) = receiver.heard
    assert heard.headers["content-type"] == "application/cloudevents+json"
    assert json.loads(heard.body) == {
        "specversion": "1.0",
        "id": MESSAGE.delivery_id,
        "source": "/knit/runs",
        "type": "knit.run.before.starting",
        "subject": "r",
        "time": "2024-05-17T04:19:33.325+00:00",
        "datacontenttype": "application/json",
        "data": MESSAGE.body,
    }


async def test_an_answer_may_extend_the_environment(caller_with: Callers) -> None:
    body = b'{"knitfabExtension": {"env": {"A": "b"}}}'
    result = await called(caller_with(), answer(200, body, "application/json; charset=utf-8"))
    assert (result.succeeded, result.environment) == (True, {"A": "b"})
    assert result.text == '{"knitfabExtension": {"env": {"A": "…"}}}'


@pytest.mark.parametrize("wanted", [True, False])
async def test_no_value_of_an_environment_is_kept(caller_with: Callers, wanted: bool) -> None:
    """Whether or not it is asked for: everybody may read the record, and it may be a secret."""
    body = b'{"a": 1, "knitfabExtension": {"env": {"A": "s3cret"}, "more": "s3cret"}}'
    async with receiving(answer(200, body, "application/json")) as receiver:
        message = replace(MESSAGE, wants_environment=wanted)
        result = await caller_with().call(receiver.url(), message)
    assert result.succeeded
    assert result.text == '{"a": 1, "knitfabExtension": {"env": {"A": "…"}}}'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", b"{"),
        ("text/plain", b"fine"),
        ("application/vnd.x+json", b"{"),
        ("application/json", b""),
    ],
)
async def test_other_successes_extend_nothing(
    caller_with: Callers, content_type: str, body: bytes
) -> None:
    result = await called(caller_with(), answer(201, body, content_type))
    assert (result.succeeded, result.environment, result.text) == (True, {}, body.decode())


async def test_an_answer_that_cannot_be_used_has_failed(caller_with: Callers) -> None:
    result = await called(caller_with(), answer(200, b"{", "application/json"))
    text, status = failed(result)
    assert text.startswith("its answer says that it is application/json, but is not JSON: ")
    assert status == 200


async def test_the_beginning_of_an_answer_is_kept(caller_with: Callers) -> None:
    text = "no\x1b[31m\r\n" + "ü" * 5000
    result = await called(caller_with(), answer(503, text.encode()))
    assert failed(result) == (
        ("answered 503 Service Unavailable: no [31m " + "ü" * 5000)[:MAX_ANSWER],
        503,
    )


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
async def test_redirects_are_not_followed(caller_with: Callers, status: int) -> None:
    async with receiving(answer(200)) as other:
        location = f"Location: {other.url('/x')}\r\n"
        text, said = failed(await called(caller_with(), answer(status, headers=location)))
        assert f"to {other.url('/x')}: redirects are never followed" in text
        assert said == status
        assert other.connections == 0


async def test_a_receiver_that_is_not_there(caller_with: Callers) -> None:
    async with receiving(answer(200)) as receiver:
        url = receiver.url()
    assert failed(await caller_with().call(url, MESSAGE)) == (
        "no connection: Connection refused; is the receiver running there?",
        None,
    )
    text, _ = failed(await caller_with().call("http://name.invalid/", MESSAGE))
    assert text.startswith("the name name.invalid cannot be resolved: ")
    assert "Errno" not in text
    assert text.endswith("; check the host in the hooks file, from where the hooks worker runs")


@pytest.mark.patient
async def test_late_receivers(caller_with: Callers) -> None:
    """All at once, because each takes as long as the time-out."""
    caller = caller_with(timeout=SHORT)
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    scripts = {
        "no answer within 3 s": [
            saying(then="hang"),
            saying(b"HTTP/1.1 200", then="hang"),
            repeating(OK, b"X: y\r\n", pause=0.1),
            repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.1),
        ],
        "answered 200 OK, but the answer was not complete within 3 s": [
            repeating(OK + b"Content-Length: 999\r\n\r\n", b"x", pause=0.1),
            repeating(chunked, b"1\r\nx\r\n", pause=0.1),
            saying(chunked, then="hang"),
            saying(OK, b"\r\nno end", then="hang"),
        ],
        "answered 503 Service Unavailable, but the answer was not complete within 3 s": [
            saying(b"HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\n", then="hang"),
        ],
    }
    calls = [called(caller, script) for group in scripts.values() for script in group]

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # never begins to speak TLS
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        *results, unconnected = await asyncio.gather(*calls, caller.call(url, MESSAGE))
    assert failed(unconnected) == (
        "no connection within 3 s; is the receiver running, and can it be reached?",
        None,
    )
    expected = [words for words, group in scripts.items() for _ in group]
    advice = "let it answer first and work later, or raise KNIT_HOOKS__TIMEOUT"
    assert [one.text for one in results] == [f"{words}; {advice}" for words in expected]
    assert [one.status_code for one in results] == [None] * 4 + [200] * 4 + [503]
    assert not any(one.succeeded for one in results)


@pytest.mark.patient
async def test_hanging_receivers_delay_nobody_else(caller_with: Callers) -> None:
    caller = caller_with()
    async with receiving(saying(then="hang")) as hanging, receiving(answer(200)) as other:
        calls = [asyncio.create_task(caller.call(hanging.url(), MESSAGE)) for _ in range(300)]
        await until(lambda: len(hanging.heard) == 300)
        assert (await caller.call(other.url(), MESSAGE)).succeeded
        for one in calls:
            one.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)


async def test_answers_up_to_the_limit_are_read(caller_with: Callers) -> None:
    limit = 1 << 20
    assert (await called(caller_with(), answer(200, b"x" * limit))).succeeded
    advice = "let it answer less, or raise KNIT_HOOKS__MAX_ANSWER_BYTES"
    words = (f"answered 200 OK with more than 1048576 bytes; {advice}", 200)
    for script in (
        answer(200, b"x" * (limit + 1)),
        repeating(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        repeating(OK + b"\r\n", b"x" * 4096),
    ):
        assert failed(await called(caller_with(), script)) == words
    assert failed(await called(caller_with(max_answer_bytes=3), answer(200, b"four"))) == (
        f"answered 200 OK with more than 3 bytes; {advice}",
        200,
    )


async def test_only_the_beginning_of_a_refusal_is_read(caller_with: Callers) -> None:
    async with receiving(repeating(b"HTTP/1.1 500 x\r\n\r\n", b"x" * 4096)) as receiver:
        text, status = failed(await caller_with().call(receiver.url(), MESSAGE))
        assert (text[:35], status) == ("answered 500 Internal Server Error:", 500)
        await until(lambda: receiver.ended == 1)


@pytest.mark.patient
async def test_a_compressed_answer_is_not_unpacked(caller_with: Callers) -> None:
    bomb = gzip.compress(b" " * (50 << 20))
    assert len(bomb) < 1 << 20
    head = "Content-Encoding: gzip\r\n"
    result = await called(caller_with(), answer(200, bomb, "application/json", head))
    assert failed(result) == ("its answer is compressed, which was not asked for", 200)
    assert (await called(caller_with(), answer(200, bomb, "text/plain", head))).succeeded


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (saying(), "the connection was closed before an answer"),
        (saying(b"HTTP/1.1 200 OK\r\nA: "), "the connection was closed before an answer"),
        (saying(then="reset"), "the connection "),
        (saying(OK + b"Content-Length: 9\r\n\r\nx"), "the connection was closed before the answer "
         "was complete"),
        (saying(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"), "the connection was closed "
         "before the answer was complete"),
        (saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "the answer is not HTTP: "),
        (saying(OK + b"A" * 20_000 + b": x\r\n\r\n"), "the answer is not HTTP: "),
        (saying(OK + b"".join(b"A: x\r\n" for _ in range(500)) + b"\r\n"), "the answer is not "
         "HTTP: "),
        (saying(OK + b"Content-Length: x\r\n\r\n"), "the answer is not HTTP: "),
        (saying(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nno"), "the answer is not "
         "HTTP: "),
        (saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
         "answered 101 Switching Protocols"),
    ],
)  # fmt: skip
async def test_broken_receivers(caller_with: Callers, script: Script, words: str) -> None:
    text, _ = failed(await called(caller_with(), script))
    assert text.startswith(words)
    assert "\n" not in text


async def test_a_receiver_may_take_its_time_to_continue(caller_with: Callers) -> None:
    script = saying(b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n")
    assert (await called(caller_with(), script)).succeeded


async def test_a_call_that_is_cancelled_ends_its_connection(caller_with: Callers) -> None:
    async with receiving(repeating(OK + b"\r\n", b"x", pause=0.01)) as receiver:
        call = asyncio.create_task(caller_with().call(receiver.url(), MESSAGE))
        await until(lambda: receiver.heard)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: receiver.ended == 1)


async def test_a_caller_that_was_closed_can_call_again(caller_with: Callers) -> None:
    caller = caller_with(lookup=lambda host, port: ["127.0.0.1"])
    caller.configure(HooksFile(format="cloudevents"))
    async with receiving(answer(200)) as receiver:
        for _ in range(2):
            assert (await caller.call(receiver.url(host="hook.example"), MESSAGE)).succeeded
            await caller.aclose()
            await caller.aclose()
    assert {heard.headers["content-type"] for heard in receiver.heard} == {
        "application/cloudevents+json"
    }


@pytest.mark.patient
def test_the_http_client_is_loaded_by_the_first_call() -> None:
    """Every worker loads the caller, and few of them call."""
    program = (
        "import sys; from knit_workflows.hooks.caller import HookCaller; "
        "from knit_workflows.settings import HookSettings; HookCaller(HookSettings()); "
        "sys.exit('aiohttp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0


# ---------------------------------------------------------------- where calls go


async def test_this_machine_is_called_only_if_that_is_allowed(caller_with: Callers) -> None:
    caller = caller_with(allow_loopback=False)
    async with receiving(answer(200)) as receiver:
        for host in ("127.0.0.1", "localhost"):
            text, _ = failed(await caller.call(receiver.url(host=host), MESSAGE))
            assert "a loopback address: hooks may be on this machine only under `knit dev`" in text
        assert receiver.connections == 0


async def test_a_name_is_resolved_once_and_its_address_is_called(caller_with: Callers) -> None:
    """DNS rebinding: a name that is good when it is checked, and bad when it is connected to."""
    asked: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    caller = caller_with(lookup=lookup)
    async with receiving(answer(200)) as receiver:
        url = receiver.url(host="hook.example")
        assert (await caller.call(url, MESSAGE)).succeeded
        assert (asked, receiver.heard[0].headers["host"]) == (
            ["hook.example"],
            f"hook.example:{receiver.port}",
        )
        text, _ = failed(await caller.call(url, MESSAGE))
        assert text.startswith(
            "hook.example is at 169.254.169.254, the metadata service of a cloud"
        )
        assert receiver.connections == 1


async def test_an_address_that_does_not_answer_is_followed_by_the_next(
    caller_with: Callers,
) -> None:
    caller = caller_with(lookup=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    async with receiving(answer(200)) as receiver:
        assert (await caller.call(receiver.url(host="hook.example"), MESSAGE)).succeeded
    text, _ = failed(await caller.call(receiver.url(host="hook.example"), MESSAGE))
    assert text.startswith("no connection: ")


async def test_what_the_file_allows_holds_from_the_next_call_on(caller_with: Callers) -> None:
    # Refused, whatever is there; only `allow` makes it an attempt, which no route leads to.
    caller = caller_with(timeout=timedelta(seconds=0.2))
    url = "http://[fe80::1]:9/"
    assert "a link-local address" in failed(await caller.call(url, MESSAGE))[0]
    caller.configure(HooksFile(allow=Allowed(hosts=frozenset({"fe80::1"}))))
    assert failed(await caller.call(url, MESSAGE))[0].startswith("no connection")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "127.0.0.1.", "①27.0.0.1"])
async def test_unusual_ways_to_write_an_address_lead_nowhere(
    caller_with: Callers, host: str
) -> None:
    caller = caller_with(allow_loopback=False)
    async with receiving(answer(200)) as receiver:
        failed(await caller.call(receiver.url(host=host), MESSAGE))
        assert receiver.connections == 0


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "http://:1/", "ftp://127.0.0.1/", "http://a:x/"]
)
async def test_what_is_no_url_is_a_failed_call(caller_with: Callers, url: str) -> None:
    failed(await caller_with().call(url, MESSAGE))


async def test_a_receiver_may_want_to_be_left_alone(caller_with: Callers) -> None:
    busy = answer(503, b"busy", "text/plain", "Retry-After: 20\r\n")
    assert (await called(caller_with(), busy)).retry_after == timedelta(seconds=20)
    later = answer(429, b"", "text/plain", "Retry-After: Sun, 09 Sep 2001 01:47:00 GMT\r\n")
    result = await called(caller_with(clock=lambda: 1_000_000_000.0), later)
    assert result.retry_after == timedelta(seconds=20)


async def test_an_answer_that_comes_before_the_body_was_read_counts(caller_with: Callers) -> None:
    """Also if the receiver reads no more of it, and closes."""
    large = replace(MESSAGE, body={"inputs": ["x" * 1000] * 20_000})

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hasty, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await caller_with().call(url, large)
    assert not result.succeeded
    assert result.status_code == 403, result.text


async def test_a_receiver_at_an_ipv6_address(caller_with: Callers) -> None:
    async def agree(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(agree, "::1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await caller_with().call(f"http://[::1]:{port}/", MESSAGE)
        assert result.succeeded, result.text
        refused = await caller_with(allow_loopback=False).call(f"http://[::1]:{port}/", MESSAGE)
        assert "loopback" in failed(refused)[0]
