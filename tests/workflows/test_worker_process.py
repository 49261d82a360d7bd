"""`python -m knit_workflows` as a process: it says when it is ready, and ends when it is told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import psycopg
from temporalio.client import Client

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Role
from knit_workflows.store import migrate
from knit_workflows.store.migrations import REVISION
from tests.processes import WorkerProcess, bare_environment
from tests.waiting import until


async def test_it_says_when_it_is_ready_and_that_it_stops(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    url = postgres.url("worker_process")
    await migrate(url)
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": temporal_client.service_client.config.target_host,
        "KNIT_COMPUTE__KIND": "local",
        "KNIT_COMPUTE__LOCAL__STATE": str(tmp_path / "state"),
    }
    worker = WorkerProcess(environment, tmp_path)
    worker.start()
    try:
        await worker.ready()
    finally:
        await asyncio.to_thread(worker.end)
    said = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert [one["message"] for one in said if one.get("action", "").startswith("worker_")] == [
        "worker is ready",
        "worker stops",
    ]


async def test_it_ends_when_its_database_has_been_upgraded(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It says why, and does not start again."""
    told = (
        f"worker ended: the database has its tables in revision 9999, this knit needs revision "
        f"{REVISION}; this knit is older than its database: start the newer one"
    )
    url = postgres.url("worker_upgraded")
    await migrate(url)
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": temporal_client.service_client.config.target_host,
        "KNIT_COMPUTE__KIND": "memory",
    }
    worker = WorkerProcess(environment, tmp_path)
    worker.start()
    try:
        await worker.ready()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "COMMENT ON TABLE alembic_version IS 'serves programs from revision 9999 on'"
            )
            await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        assert await worker.ended() == 1
        assert told in worker.log.read_text()
        worker.start()
        assert await worker.ended() == 1
        assert told in worker.log.read_text()
        # Nor does one wait that has patience: no wait makes it any newer.
        patient = WorkerProcess(environment, tmp_path, arguments=["--patience", "600"])
        patient.start()
        assert await patient.ended() == 1
        assert told in patient.log.read_text()
        assert "waits: the database has its tables" not in patient.log.read_text()
    finally:
        await asyncio.to_thread(worker.end)


async def test_engine_and_hooks_need_no_credentials_for_the_cluster(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    url = postgres.url("no_credentials")
    await migrate(url)
    environment = {
        "KNIT_STORE__URL": url,
        "TEMPORAL_ADDRESS": temporal_client.service_client.config.target_host,
        "KNIT_COMPUTE__KIND": "kubernetes",
    }
    worker = WorkerProcess(environment, tmp_path, roles=(Role.ENGINE, Role.HOOKS))
    worker.start()
    try:
        await worker.ready()
    finally:
        await asyncio.to_thread(worker.end)
    (tmp_path / "other").mkdir()
    other = WorkerProcess(environment, tmp_path / "other", roles=(Role.WATCH,))
    other.start()
    await until(lambda: "no credentials for the cluster" in other.log.read_text())
    await asyncio.to_thread(other.end)


def test_it_may_have_a_connection_for_every_hook_that_hangs() -> None:
    program = (
        "import resource; from knit_workflows.worker import allow_connections;"
        "allow_connections(); print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    for before, after in (
        ("-Sn 256", "4000 8000"),
        ("-Sn 6000", "6000 8000"),
        ("-n 900", "900 900"),
    ):
        script = f'ulimit -n 8000 && ulimit {before} && exec "$0" -c "$1"'
        command = ["sh", "-c", script, sys.executable, program]
        found = subprocess.run(
            command, env=bare_environment(), stdout=subprocess.PIPE, text=True, check=True
        )
        assert found.stdout.strip() == after
