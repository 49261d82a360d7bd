"""Extra APIs of the API as a process: its file, its memory, and services behind TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.extra import PutInForce, extra
from tests.api.live_server import talk
from tests.api.test_extra_apis import message, parts, request
from tests.api.test_processes import MIB, NOBODY, api, memory_of
from tests.api.upstreams import OK, sends, service
from tests.cluster.certificates import make_authority, make_server
from tests.waiting import PATIENCE, wait_until

__all__ = ["extra"]

GIB = 1 << 30


def configured(folder: Path, port: int, path: str = "/x", scheme: str = "http") -> Path:
    file = folder / "extra.yaml"
    entry = {"path": path, "proxy_to": f"{scheme}://localhost:{port}/base"}
    replaced(file, json.dumps({"endpoints": [entry]}))
    return file


def replaced(file: Path, text: str) -> None:
    """Changes a file at once: who follows it may look at any moment."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


def started(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "knit_api", "--port", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.patient
def test_it_does_not_start_with_a_file_that_is_wrong(tmp_path: Path):
    done = started("--extra-apis-config", configured(tmp_path, 1, path="/api/x"))
    assert done.returncode == 2
    assert "/api/x is taken" in done.stderr
    assert "extra.yaml" in done.stderr
    done = started("--extra-apis-config", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert "No such file" in done.stderr


@contextmanager
def streaming(size: int) -> Iterator[tuple[int, list[int]]]:
    """A service in a thread: takes one body of that size, then sends as much back."""
    counted: list[int] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1 << 16)
            got = len(head.partition(b"\r\n\r\n")[2])
            buffer = bytearray(1 << 18)
            while got < size:
                got += connection.recv_into(buffer) or size
            counted.append(got)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // MIB):
                connection.sendall(bytes(MIB))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], counted
        thread.join(PATIENCE)


@pytest.mark.patient
def test_memory_does_not_grow_with_what_is_forwarded(tmp_path: Path):
    """A GiB goes to the service, and another comes back."""
    with (
        streaming(GIB) as (port, counted),
        api(tmp_path, "--extra-apis-config", str(configured(tmp_path, port)), **NOBODY) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client,
    ):
        assert client.get("/healthz").status_code == 200
        before = memory_of(running.pid, "VmHWM")
        content = (bytes(MIB) for _ in range(GIB // MIB))
        headers = {"Content-Length": str(GIB)}
        with client.stream("POST", "/x", content=content, headers=headers) as answer:
            got = sum(len(piece) for piece in answer.iter_raw())
        assert (counted, got) == ([GIB], GIB)
        assert memory_of(running.pid, "VmHWM") - before <= 40


@pytest.mark.patient
async def test_a_changed_file_is_in_force_without_a_restart(tmp_path: Path):
    async with service(sends(OK)) as behind:
        file = configured(tmp_path, behind.port)
        environment = {**NOBODY, "KNIT_EXTRA_APIS__CONFIG": str(file)}
        await asyncio.to_thread(_change_it, tmp_path, file, behind.port, environment)


def _change_it(folder: Path, file: Path, port: int, environment: dict[str, str]) -> None:
    with (
        api(folder, **environment) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client,
    ):
        assert client.get("/x").text == "ok"
        configured(folder, port, path="/y")
        wait_until(lambda: client.get("/y").status_code == 200)
        assert client.get("/x").status_code == 404
        replaced(file, "endpoints: 1")
        # The store is away, so it is not ready; what is wrong besides is told all the same.
        wait_until(lambda: "endpoints: not a list" in client.get("/readyz").text)
        assert client.get("/y").text == "ok", "the last valid file is in force"
        log = running.end()
        assert log.count("extra_apis_refused") == 1
        assert log.count("extra_apis_loaded") == 1


@pytest.mark.patient
async def test_a_client_of_this_machine_does_not_say_what_its_scheme_is(tmp_path: Path):
    async with service(sends(OK)) as behind:
        file = configured(tmp_path, behind.port)
        with api(tmp_path, "--extra-apis-config", str(file), **NOBODY) as running:
            async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
                await client.get(f"{running.url}/x", headers={"X-Forwarded-Proto": "https"})
        assert behind.last.one("x-forwarded-proto") == "http"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_server(folder, "server", ["127.0.0.1"], ["localhost"])
    return folder


@contextmanager
def over_tls(folder: Path) -> Iterator[ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    yield context


@pytest.mark.patient
async def test_a_service_behind_tls_is_trusted_by_its_authority(tmp_path: Path, certificates: Path):
    with over_tls(certificates) as context:
        async with service(sends(OK), tls=context) as behind:
            file = configured(tmp_path, behind.port, scheme="https")
            authority = str(certificates / "ca.crt")
            with api(
                tmp_path, "--extra-apis-config", str(file), SSL_CERT_FILE=authority, **NOBODY
            ) as running:
                async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
                    answer = await client.get(f"{running.url}/x/a")
            assert answer.text == "ok"
            assert behind.last.one("host") == f"localhost:{behind.port}"


async def test_a_certificate_that_nobody_knows_is_refused(
    port, extra: PutInForce, certificates: Path
):
    with over_tls(certificates) as context:
        async with service(sends(OK), tls=context) as behind:
            extra(behind.port, "https://localhost:{port}/")
            answer = await talk(port, request())
            assert behind.requests == []
    status, headers, _ = parts(answer)
    assert (status, headers["proxy-status"]) == (500, "knit; error=tls_certificate_error")
    assert "is not trusted" in message(answer)["reason"]


async def test_a_service_that_speaks_no_tls_is_said_so(port, extra: PutInForce):
    async with service(sends(OK)) as behind:
        extra(behind.port, "https://localhost:{port}/")
        status, headers, _ = parts(await talk(port, request()))
    assert (status, headers["proxy-status"]) == (500, "knit; error=tls_protocol_error")
