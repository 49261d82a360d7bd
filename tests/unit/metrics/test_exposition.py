"""The port of the metrics: what is answered there, and which addresses it can be."""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from knit_workflows.health import Health
from knit_workflows.metrics import exposition
from knit_workflows.metrics.exposition import Address, AddressInUse, listen, serving
from knit_workflows.metrics.instruments import OF_API, OF_WORKERS
from knit_workflows.names import VERSION
from knit_workflows.worker import Ports


async def ask(port: int | None, path: str = "/metrics") -> httpx.Response:
    # Nothing is encrypted; to read whom to trust would take longer than the test.
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


def series(text: str) -> dict[str, float]:
    """Every sample by its name and labels, as a scraper reads them."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@asynccontextmanager
async def core(reply: bytes) -> AsyncIterator[int]:
    """Stands for Temporal's core: gives its reply to whoever asks, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def worker(core_port: int | None = None) -> AbstractAsyncContextManager[int | None]:
    """The metrics of a worker, on a free port."""
    listener = listen(Address("127.0.0.1", 0))
    return serving(listener, "worker engine", OF_WORKERS, core_port=core_port)


async def test_metrics_are_what_a_scraper_reads() -> None:
    async with serving(listen(Address("127.0.0.1", 0)), "api", OF_API) as port:
        answer = await ask(port)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = series(answer.text)
    [build] = [name for name in found if name.startswith("knit_build_info") and "'api'" in name]
    assert found[build] == 1
    assert found["process_resident_memory_bytes[]"] > 1 << 20


def test_the_version_is_that_of_package_and_chart() -> None:
    root = Path(__file__).parents[3]
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"] == VERSION
    chart = (root / "charts" / "knit-app" / "Chart.yaml").read_text()
    assert re.findall('^appVersion: "?([^"\n]+)', chart, re.MULTILINE) == [VERSION]


async def test_a_worker_says_nothing_about_what_only_the_api_knows() -> None:
    async with worker() as port:
        told = (await ask(port)).text
    assert "knit_runs_ended_total" in told
    assert "knit_database_up" not in told
    assert "knit_runs_oldest" not in told


async def test_nothing_else_is_there() -> None:
    async with serving(listen(Address("127.0.0.1", 0)), "api", OF_API) as port:
        answer = await ask(port, "/api/runs")
    assert (answer.status_code, answer.text) == (404, "there is /metrics\n")


async def test_what_temporals_core_measures_is_there_too() -> None:
    line = b'temporal_request_total{operation="x"} 3\n'
    async with (
        core(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n" + line) as core_port,
        serving(
            listen(Address("127.0.0.1", 0)), "worker engine", OF_WORKERS, core_port=core_port
        ) as port,
    ):
        found = series((await ask(port)).text)
    assert found["temporal_request_total[('operation', 'x')]"] == 3


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.0 500 Internal Server Error\r\n\r\noh dear\n"])
async def test_a_core_without_an_answer_leaves_the_rest(reply: bytes) -> None:
    async with (
        core(reply) as core_port,
        serving(
            listen(Address("127.0.0.1", 0)), "worker engine", OF_WORKERS, core_port=core_port
        ) as port,
    ):
        answer = await ask(port)
    assert "process_resident_memory_bytes[]" in series(answer.text)
    assert "oh dear" not in answer.text


async def test_a_core_that_is_gone_leaves_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async with core(b"") as core_port:
        pass
    async with worker(core_port) as port:
        assert "process_resident_memory_bytes[]" in series((await ask(port)).text)
    assert "core tells no metrics" in caplog.text


async def test_what_must_be_asked_for_is_asked_first() -> None:
    asked: list[str] = []

    async def refresh() -> None:
        asked.append("now")

    async with serving(listen(Address("127.0.0.1", 0)), "api", OF_API, refresh=refresh) as port:
        assert not asked
        await ask(port)
    assert asked == ["now"]


async def test_a_worker_says_whether_it_is_ready() -> None:
    """One that waits at its start is there, and can do nothing."""
    health = Health()
    listener = listen(Address("127.0.0.1", 0))
    assert listener
    port = listener.getsockname()[1]
    ready = "knit_worker_ready[('component', 'worker compute engine')]"

    async def fine() -> None:
        """Nothing is wrong."""

    async with Ports(metrics=listener).open(health, ["engine", "compute"]):
        assert series((await ask(port)).text)[ready] == 0
        health.is_up({"Temporal": fine})
        assert series((await ask(port)).text)[ready] == 1
        health.waits_for("it is ending")
        assert series((await ask(port)).text)[ready] == 0


async def test_without_an_address_nothing_is_served() -> None:
    async with serving(listen(None), "api", OF_API) as port:
        assert port is None


async def test_the_event_loop_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_LOOKS_EVERY", 0.001)
    count = "knit_event_loop_lag_seconds_count[]"
    async with serving(listen(Address("127.0.0.1", 0)), "api", OF_API) as port:
        before = series((await ask(port)).text)[count]
        async with asyncio.timeout(60):
            while series((await ask(port)).text)[count] == before:
                pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9464", Address("", 9464)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:9464", Address("::1", 9464)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["9464", "", ":", "::1:9464", "host:", "host:65536", "host:٩"])
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"HOST:PORT|in brackets"):
        Address.parse(text)


def test_an_address_that_is_in_use_is_refused_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"--metrics-address 127.0.0.1:{port}: "):
            listen(Address("127.0.0.1", port))
