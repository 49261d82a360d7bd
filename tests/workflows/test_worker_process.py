"""`python -m knit_workflows` as a process: it says when it is ready, and ends when it is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from temporalio.client import Client

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate
from tests.processes import WorkerProcess


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
