"""Calls through the proxies of the environment."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from knit_workflows.hooks.caller import HookCaller
from knit_workflows.settings import HookSettings
from tests.unit.hooks.conftest import BODY, MESSAGE, Callers, server_context
from tests.unit.hooks.receiver import Heard, Script, answer, receiving, saying
from tests.waiting import until


def never(host: str, port: int) -> list[str]:
    """A name server that knows proxies alone, as behind a firewall."""
    if host == "proxy.example":
        return ["127.0.0.1"]
    raise AssertionError(f"{host} is the proxy's to resolve")


def tunnel(port: Callable[[], int]) -> Script:
    """A proxy that connects to this port of this machine, whatever it is asked for."""

    async def script(heard: Heard, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", port())
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()

        try:
            await asyncio.wait(
                [
                    asyncio.create_task(copy(heard.rest, to_upstream)),
                    asyncio.create_task(copy(upstream, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            to_upstream.close()

    return script


async def test_plain_http_goes_to_the_proxy_with_its_password(caller_with: Callers) -> None:
    async with receiving(answer(200, b"via")) as proxy:
        address = f"http://user:pass%20word@proxy.example:{proxy.port}"
        caller = caller_with(lookup=never, variables={"HTTP_PROXY": address})
        result = await caller.call("http://hook.example/x?y", MESSAGE)
        (heard,) = proxy.heard
    assert (result.succeeded, result.text) == (True, "via")
    assert heard.line == "POST http://hook.example/x?y HTTP/1.1"
    assert heard.body == BODY.encode()
    token = base64.b64encode(b"user:pass word").decode()
    assert heard.headers["proxy-authorization"] == f"Basic {token}"


async def test_https_goes_through_a_tunnel(caller_with: Callers, certificates: Path) -> None:
    context = server_context(certificates)
    async with (
        receiving(answer(200, b"fine"), tls=context) as receiver,
        receiving(tunnel(lambda: receiver.port)) as proxy,
    ):
        caller = caller_with(
            lookup=never,
            ca_file=certificates / "ca.pem",
            variables={"https_proxy": f"127.0.0.1:{proxy.port}"},
        )
        result = await caller.call("https://hook.example/x", MESSAGE)
        assert (result.succeeded, result.text) == (True, "fine")
        assert proxy.heard[0].line == "CONNECT hook.example:443 HTTP/1.1"
        assert receiver.heard[0].line == "POST /x HTTP/1.1"
        result = await caller.call("https://other.example/x", MESSAGE)
        assert "Hostname mismatch" in result.text
        assert len(receiver.heard) == 1


async def test_proxies_are_not_used_where_they_should_not_be(caller_with: Callers) -> None:
    def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with receiving(answer(200)) as proxy, receiving(answer(200)) as receiver:
        there = f"http://127.0.0.1:{proxy.port}"
        everything = {"HTTP_PROXY": there, "HTTPS_PROXY": there, "ALL_PROXY": there}
        for variables, settings, host in (
            (everything, {"proxies": False}, "hook.example"),
            (everything | {"NO_PROXY": "other,.example"}, {}, "hook.example"),
            (everything | {"no_proxy": "127.0.0.0/8"}, {}, "127.0.0.1"),
            (everything, {}, "127.0.0.1"),
            (everything, {}, "localhost"),
            ({"HTTPS_PROXY": there}, {}, "hook.example"),
        ):
            caller = caller_with(lookup=lookup, variables=variables, **settings)
            assert (await caller.call(receiver.url(host=host), MESSAGE)).succeeded
        assert proxy.connections == 0


async def test_the_environment_of_the_process_is_the_default(
    caller_with: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with receiving(answer(200)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        caller = HookCaller(HookSettings())
        assert (await caller.call("http://hook.example/", MESSAGE)).succeeded
        await caller.aclose()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answer(403), "refused with 403"),
        (answer(407), "refused with 407"),
        (saying(), "the connection was closed before an answer"),
        (saying(b"SSH-2.0\r\n\r\n"), "the answer is not HTTP: "),
    ],
)
async def test_a_proxy_that_refuses(caller_with: Callers, script: Script, words: str) -> None:
    async with receiving(script) as proxy:
        address = f"http://user:secret@127.0.0.1:{proxy.port}"
        caller = caller_with(variables={"HTTPS_PROXY": address})
        result = await caller.call("https://hook.example/", MESSAGE)
    assert not result.succeeded
    assert words in result.text
    assert "secret" not in result.text


async def test_a_proxy_that_is_not_there_is_named(caller_with: Callers) -> None:
    async with receiving(answer(200)) as proxy:
        port = proxy.port
    for name in ("HTTP_PROXY", "all_proxy"):
        caller = caller_with(variables={name: f"http://user:secret@127.0.0.1:{port}"})
        result = await caller.call("http://hook.example/", MESSAGE)
        assert result.text == (
            f"the proxy 127.0.0.1:{port} (from {name}) does not answer: Connection refused; see "
            "the proxy variables of the hooks worker, or put the hook's host into NO_PROXY"
        )


@pytest.mark.parametrize("proxy", ["socks5://user:secret@127.0.0.1:1", "ftp://x", "http://"])
async def test_proxies_that_cannot_be_used_are_refused_in_words(
    caller_with: Callers, proxy: str
) -> None:
    result = await caller_with(variables={"ALL_PROXY": proxy}).call("http://hook.example/", MESSAGE)
    assert "cannot be used: hooks can be called through http:// and https:// proxies" in result.text
    assert "secret" not in result.text


async def test_an_address_is_refused_before_a_proxy_is_asked_for_it(caller_with: Callers) -> None:
    async with receiving(answer(200)) as proxy:
        caller = caller_with(variables={"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"})
        for host in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"):
            result = await caller.call(f"http://{host}/", MESSAGE)
            assert "hooks may go there only if `allow` in the hooks file lists" in result.text
        assert proxy.connections == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_under_tls(caller_with: Callers, certificates: Path, scheme: str) -> None:
    """Also around TLS of the call itself."""
    context = server_context(certificates)
    tls = context if scheme == "https" else None
    async with receiving(answer(200, b"fine"), tls=tls) as receiver:
        script = tunnel(lambda: receiver.port) if tls else answer(200, b"fine")
        async with receiving(script, tls=context) as proxy:
            caller = caller_with(
                lookup=never,
                ca_file=certificates / "ca.pem",
                variables={"ALL_PROXY": f"https://127.0.0.1:{proxy.port}"},
            )
            result = await caller.call(f"{scheme}://hook.example/", MESSAGE)
            assert (result.succeeded, result.text) == (True, "fine")
            await until(lambda: proxy.ended == 1)
