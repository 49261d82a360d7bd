"""Processes that start before what they need: workers wait, and `bootstrap` prepares Temporal."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from temporalio import activity
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConnectConfig
from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker

from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.bootstrap import bootstrap
from knit_workflows.domain.errors import EngineUnavailable, StoreUnavailable
from knit_workflows.embedded import EmbeddedPostgres, free_port
from knit_workflows.plugin import Role
from knit_workflows.settings import Settings, StoreSettings
from knit_workflows.start_up import Interrupted, Patience, reach_namespace, require_schema
from knit_workflows.store import migrate
from knit_workflows.temporal import workers as temporal_workers
from knit_workflows.temporal.workers import Underway, working
from knit_workflows.worker import deps_from, workers
from tests.chaos.campaign.links import Link, Streams, to_socket
from tests.charts.promtool import OF_OTHERS
from tests.processes import WorkerProcess
from tests.waiting import PATIENCE, until


def address_of(client: Client) -> str:
    return client.service_client.config.target_host


def config(client: Client, namespace: str) -> ClientConnectConfig:
    return {"target_host": address_of(client), "namespace": namespace}


async def readiness(port: int) -> str:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{port}/readyz")).text.strip()
    except httpx.HTTPError:
        return ""


async def test_a_worker_waits_says_for_what_and_then_works(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    url, port, metrics_port = postgres.url("start_up"), free_port(), free_port()
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": address_of(temporal_client),
        "TEMPORAL_NAMESPACE": "later",
        "KNIT_COMPUTE__KIND": "memory",
    }
    arguments = ("--patience", str(PATIENCE), "--health-port", str(port))
    arguments += ("--metrics-address", f"127.0.0.1:{metrics_port}")
    worker = WorkerProcess(environment, tmp_path, arguments=arguments)
    worker.start()
    try:
        said = {""}
        while not any("no namespace 'later'" in one for one in said):
            said.add(await readiness(port))
        later = config(temporal_client, "later")
        await bootstrap(later, retention=timedelta(days=1), patience=Patience(timedelta(60)))
        while not any("no tables of knit" in one for one in said):
            said.add(await readiness(port))
        await migrate(url)
        await worker.ready()
        while await readiness(port) != "ok":
            await asyncio.sleep(0.05)
        told = await metrics(metrics_port)
        while not told.keys() >= OF_OTHERS:  # the core knows some only after the first activity
            await asyncio.sleep(0.05)
            told = await metrics(metrics_port)
    finally:
        await asyncio.to_thread(worker.end)
    assert 'component="worker compute engine hooks interactive watch"' in told["knit_build_info"]
    assert told["knit_worker_ready"].endswith(" 1.0")
    assert float(told["knit_database_connections_limit"].split()[-1]) > 0
    # What Temporal's core measures is there too, by the names that Prometheus wants.
    assert {"temporal_request_total", "temporal_request_latency_seconds_bucket"} <= told.keys()


async def metrics(port: int) -> dict[str, str]:
    """The last line of each metric, by its name."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {re.split("[{ ]", line)[0]: line for line in lines}


async def test_a_worker_that_waits_is_not_ready_and_ends_when_it_is_told(tmp_path: Path) -> None:
    nobody, port = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "KNIT_COMPUTE__KIND": "memory"}, free_port()
    arguments = ("--patience", "1000", "--metrics-address", f"127.0.0.1:{port}")
    worker = WorkerProcess(nobody, tmp_path, arguments=arguments)
    worker.start()
    await until(lambda: "start_waits" in worker.log.read_text())
    assert (await metrics(port))["knit_worker_ready"].endswith(" 0.0")
    await asyncio.to_thread(worker.end)
    assert worker.code == 0


async def test_a_database_that_goes_away_again_is_waited_for(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It has answered when the worker looked at its tables, and is away when it opens its pool."""
    url, asked = postgres.url("comes_and_goes"), 0
    await migrate(url)
    with psycopg.connect(url) as connection:
        info = connection.info
        socket = f"{info.host}/.s.PGSQL.{info.port}"

    async def second_time_refused() -> Streams:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ConnectionRefusedError
        return await to_socket(socket)()

    link = Link("postgres", second_time_refused)
    await link.open()
    environment = {
        "KNIT_STORE__URL": f"postgresql://postgres@127.0.0.1:{link.port}/comes_and_goes",
        "TEMPORAL_ADDRESS": address_of(temporal_client),
        "KNIT_COMPUTE__KIND": "memory",
    }
    worker = WorkerProcess(environment, tmp_path, arguments=("--patience", str(PATIENCE)))
    worker.start()
    try:
        await worker.ready()
    finally:
        await asyncio.to_thread(worker.end)
        await link.aclose()
    assert asked > 2
    assert worker.log.read_text().count("start_waits") == 1


async def test_a_back_end_that_cannot_be_opened_is_waited_for(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Here its folder cannot be made, because there is a file in the way."""
    url, in_the_way = postgres.url("no_back_end"), tmp_path / "folder"
    await migrate(url)
    in_the_way.touch()
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": address_of(temporal_client),
        "KNIT_COMPUTE__KIND": "local",
        "KNIT_COMPUTE__LOCAL__STATE": str(in_the_way / "state"),
    }
    worker = WorkerProcess(environment, tmp_path, arguments=("--patience", str(PATIENCE)))
    worker.start()
    try:
        await until(lambda: "waits: the state folder cannot be used" in worker.log.read_text())
        in_the_way.unlink()
        await worker.ready()
    finally:
        await asyncio.to_thread(worker.end)
    assert worker.code == 0


async def test_a_worker_whose_temporal_is_gone_ends_without_telling_it(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It need not report how its activities have ended: Temporal will have them tried again."""
    url = postgres.url("temporal_gone")
    await migrate(url)
    host, port = address_of(temporal_client).split(":")
    link = Link("temporal", lambda: asyncio.open_connection(host, int(port)))
    await link.open()
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": f"127.0.0.1:{link.port}",
        "KNIT_COMPUTE__KIND": "memory",
    }
    worker = WorkerProcess(environment, tmp_path)
    worker.start()
    try:
        await worker.ready()
    finally:
        await link.aclose()
        await asyncio.to_thread(worker.end)
    assert worker.code == 0
    # What the core says when it has given up to report an activity, after several tries.
    assert "Network error while completing activity" not in worker.log.read_text()


async def test_the_wait_has_an_end() -> None:
    async def attempt() -> None:
        raise StoreUnavailable("it is away")

    with pytest.raises(StoreUnavailable):
        await Patience(timedelta()).wait_for(attempt)
    told = Patience(timedelta(days=1))
    told.stopping.set()
    with pytest.raises(Interrupted):
        await told.wait_for(attempt)


async def test_bootstrap_makes_namespace_and_attributes_once(temporal_client: Client) -> None:
    wanted = config(temporal_client, "made")
    with pytest.raises(EngineUnavailable, match="no namespace 'made'"):
        await reach_namespace(wanted)
    for days in (2, 7):  # the second time everything is there
        await bootstrap(
            wanted, retention=timedelta(days=days), patience=Patience(timedelta(seconds=60))
        )
    client = await reach_namespace(wanted)
    assert await search_attributes_known(client)
    found = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace="made")
    )
    kept = found.config.workflow_execution_retention_ttl.ToTimedelta()
    assert kept == timedelta(days=2)


def test_bootstrap_says_what_is_away() -> None:
    command = [sys.executable, "-m", "knit_workflows.bootstrap", "--retention", "86400"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"TEMPORAL_ADDRESS": "127.0.0.1:1"}
    )
    assert done.returncode == 1
    assert "error: Temporal does not answer at 127.0.0.1:1" in done.stderr
    assert "hint: start it, or set TEMPORAL_ADDRESS" in done.stderr
    wrong = subprocess.run([*command, "--patience", "soon"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "'soon' is not a number of seconds" in wrong.stderr


@activity.defn
async def nothing() -> None:
    """Does nothing, so that a Worker has something to offer."""


class Failing(SimplePlugin):
    """One that fails before its Worker begins."""

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Any]) -> None:
        raise StoreUnavailable("blinks")


async def test_workers_end_when_one_has_failed_before_it_began(temporal_client: Client) -> None:
    """Temporal answers all the while: nobody waits for the end of what has never begun."""
    sound = Worker(temporal_client, task_queue="sound", activities=[nothing])
    failing = Worker(
        temporal_client, task_queue="failing", activities=[nothing], plugins=[Failing("failing")]
    )

    async def work() -> None:
        both = [sound, failing]
        async with working(both, temporal_client, Underway(), patience=timedelta()) as running:
            await asyncio.wait({running})

    with pytest.raises(StoreUnavailable, match="blinks"):
        await asyncio.wait_for(work(), PATIENCE)
    assert sound.is_shutdown


class Endless:
    """A Worker that has failed and does not come to its end, as Temporal's own may do."""

    def __init__(self, underway: Underway) -> None:
        self._underway = underway
        self.ending = asyncio.Event()

    async def run(self) -> None:
        await self._underway.on_fatal_error(LookupError("the namespace is gone"))
        await self.ending.wait()

    async def shutdown(self) -> None:
        await self.ending.wait()


async def test_a_worker_that_has_failed_and_never_ends_holds_nobody(
    temporal_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal answers all the while."""
    monkeypatch.setattr(temporal_workers, "_FAILED_ENDS_WITHIN", timedelta(seconds=0.1))
    underway = Underway()
    sound = Worker(temporal_client, task_queue="sound", activities=[nothing])
    endless = Endless(underway)

    async def work() -> None:
        both: Any = [sound, endless]
        async with working(both, temporal_client, underway, patience=timedelta()) as over:
            await over

    with pytest.raises(LookupError, match="the namespace is gone"):
        await asyncio.wait_for(work(), PATIENCE)
    endless.ending.set()


async def test_each_worker_tells_of_its_failure(temporal_client: Client) -> None:
    """Even if it does not end: that is what it is started again for."""
    underway = Underway()
    made = workers(temporal_client, deps_from(Settings()), frozenset({Role.HOOKS}), underway)
    assert [one.config()["on_fatal_error"] for one in made] == [underway.on_fatal_error]


async def test_a_newer_database_is_refused_in_words(postgres: EmbeddedPostgres) -> None:
    url = postgres.url("newer")
    await migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute(
            "COMMENT ON TABLE alembic_version IS 'serves programs from revision 9999 on'"
        )
    for refuse in (lambda: require_schema(StoreSettings(url=url)), lambda: migrate(url)):
        with pytest.raises(StoreUnavailable) as caught:
            await refuse()
        assert "9999" in caught.value.reason
        assert "newer" in caught.value.advice
