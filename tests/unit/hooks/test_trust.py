"""Calls under TLS, against real handshakes."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from knit_workflows.hooks.caller import HookCaller
from tests.unit.hooks.conftest import MESSAGE, Callers, server_context
from tests.unit.hooks.receiver import answer, receiving


def local(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def call(caller: HookCaller, context: ssl.SSLContext, host: str = "127.0.0.1") -> str:
    """What was said about a call to a receiver that shows this certificate."""
    async with receiving(answer(200, b"fine"), tls=context) as receiver:
        result = await caller.call(receiver.url(host=host), MESSAGE)
        assert result.succeeded == (len(receiver.heard) == 1)
    return result.text


@pytest.mark.parametrize("host", ["127.0.0.1", "hook.example"])
async def test_an_authority_of_the_file_is_trusted(
    caller_with: Callers, certificates: Path, host: str
) -> None:
    caller = caller_with(ca_file=certificates / "ca.pem", lookup=local)
    assert await call(caller, server_context(certificates), host) == "fine"


async def test_the_authorities_of_the_system_are_trusted(
    caller_with: Callers, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    assert await call(caller_with(), server_context(certificates)) == "fine"
    # Also besides those of the file.
    caller = caller_with(ca_file=certificates / "other.pem")
    assert await call(caller, server_context(certificates)) == "fine"


@pytest.mark.parametrize(
    ("ca", "shown", "host", "words"),
    [
        (None, "server", "127.0.0.1", "unable to get local issuer certificate"),
        ("other.pem", "server", "127.0.0.1", "unable to get local issuer certificate"),
        ("ca.pem", "old", "127.0.0.1", "certificate has expired"),
        ("ca.pem", "server", "other.example", "Hostname mismatch, certificate is not valid for "
         "'other.example'."),
        ("ca.pem", "server", "127.0.0.2", "IP address mismatch, certificate is not valid for "
         "'127.0.0.2'."),
    ],
)  # fmt: skip
async def test_what_is_not_trusted_is_not_told_anything(
    caller_with: Callers, certificates: Path, ca: str | None, shown: str, host: str, words: str
) -> None:
    # As on a machine whose system trusts none of these.
    caller = caller_with(ca_file=certificates / ca if ca else None, lookup=local)
    if host == "127.0.0.2":
        async with receiving(
            answer(200), tls=server_context(certificates), host="127.0.0.2"
        ) as receiver:
            text = (await caller.call(receiver.url(host=host), MESSAGE)).text
            assert receiver.heard == []
    else:
        text = await call(caller, server_context(certificates, shown), host)
    assert text == (
        f"its certificate is not trusted: {words}; name the file of its authority in "
        "KNIT_HOOKS__CA_FILE, or have the certificate corrected"
    )


async def test_a_receiver_without_tls(caller_with: Callers) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        text = (await caller_with().call(url, MESSAGE)).text
    assert text.startswith("TLS cannot be agreed on: ")
    assert text.endswith("; is it really https?")


async def test_the_file_of_authorities_may_change(
    caller_with: Callers, certificates: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    caller = caller_with(ca_file=file)
    context = server_context(certificates)
    assert await call(caller, context) == (
        f"the file of authorities {file} cannot be read by the hooks worker: No such file or "
        "directory"
    )
    file.write_text("")
    assert "has no usable certificates (KNIT_HOOKS__CA_FILE wants PEM)" in await call(
        caller, context
    )
    shutil.copy(certificates / "other.pem", file)
    assert "its certificate is not trusted" in await call(caller, context)
    file.write_text(
        "# ours: ü\n" + file.read_text() + (certificates / "ca.pem").read_text(), encoding="utf-8"
    )
    assert await call(caller, context) == "fine"
    file.unlink()
    assert "cannot be read by the hooks worker" in await call(caller, context)
