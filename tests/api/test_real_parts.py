"""The API on the real store and Temporal: as a process, and while parts of it go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import KnitEnvironment, embedded_postgres, knit_environment, temporal
from tests.api.archives import HELLO, HOSTILE, files_in, tar_of
from tests.api.test_processes import api, memory_of
from tests.api.test_uploads import TAR
from tests.waiting import PATIENCE

PLAN = {
    "image": "memory/train:v1",
    "inputs": [{"path": "/in", "tags": ["type:raw"]}],
    "outputs": [{"path": "/out", "tags": ["type:model"]}],
    "log": {"tags": ["type:log"]},
}


@pytest.fixture(scope="module")
async def knit(postgres: EmbeddedPostgres) -> AsyncIterator[KnitEnvironment]:
    async with knit_environment(postgres=postgres) as environment:
        yield environment


def environment_of(knit: KnitEnvironment) -> dict[str, str]:
    return {
        "KNIT_STORE__URL": knit.url,
        "TEMPORAL_ADDRESS": knit.temporal.service_client.config.target_host,
        "KNIT_QUEUES__COMPUTE": "knit",
    }


@pytest.mark.patient
async def test_from_push_to_pull(knit: KnitEnvironment, tmp_path: Path):
    with api(tmp_path, **environment_of(knit)) as running:
        await asyncio.to_thread(running.waits_for, "store", "engine")
        async with httpx.AsyncClient(
            base_url=f"{running.url}/api", trust_env=False, timeout=PATIENCE
        ) as client:
            plan = (await client.post("/plans", json=PLAN)).json()
            pushed = await client.post("/data?tag=type:raw", content=tar_of(HELLO), headers=TAR)
            assert pushed.status_code == 200, pushed.text
            knit_id = pushed.json()["knitId"]
            assert "type:raw" in pushed.json()["tags"]
            (run,) = await knit.runs_of(plan["planId"], 1)
            run_id = run.summary.run_id

            shown = (await client.get(f"/runs/{run_id}")).json()
            assert shown["status"] == "done"
            assert shown["inputs"][0]["knitId"] == knit_id
            events = (await client.get(f"/runs/{run_id}/events")).json()
            assert events[-1]["to"] == "done"
            found = (await client.get("/data", params={"tag": "type:model"})).json()
            assert [one["upstream"]["run"]["runId"] for one in found] == [run_id]
            stamp = next(tag for tag in found[0]["tags"] if tag.startswith("knit#timestamp:"))
            pinned = await client.get("/data", params={"tag": [stamp, "type:model"]})
            assert pinned.json() == found
            assert (await client.get(f"/runs/{run_id}/log")).status_code == 200
            pulled = await client.get(f"/data/{knit_id}", headers={"Accept": "application/x-tar"})
            assert files_in(pulled.content) == HELLO

            again = await client.post("/plans", json=PLAN)
            assert (again.status_code, again.json()["message"]["see"]) == (409, plan["planId"])
            assert memory_of(running.pid, "VmRSS") <= 120
            log = await asyncio.to_thread(running.end)
            assert log.count('"plan_registered"') == 1
            assert log.count('"data_uploaded"') == 1


@pytest.mark.patient
async def test_what_is_refused_or_cut_never_matches(knit: KnitEnvironment, tmp_path: Path):
    with api(tmp_path, **environment_of(knit)) as running:
        await asyncio.to_thread(running.waits_for, "store", "engine")
        async with httpx.AsyncClient(
            base_url=f"{running.url}/api", trust_env=False, timeout=PATIENCE
        ) as client:
            hungry = PLAN | {"inputs": [{"path": "/in", "tags": ["type:hostile"]}]}
            plan = (await client.post("/plans", json=hungry)).json()
            media_type, body = HOSTILE["cut gzip"]
            answer = await client.post(
                "/data?tag=type:hostile", content=body, headers={"Content-Type": media_type}
            )
            assert answer.status_code == 400

            async def cut() -> AsyncIterator[bytes]:
                yield tar_of(HELLO)[:700]
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await client.post("/data?tag=type:hostile", content=cut(), headers=TAR)
            failed = "/data?tag=knit%23transient:failed&tag=type:hostile"
            async with asyncio.timeout(PATIENCE):
                while len((await client.get(failed)).json()) < 2:
                    await asyncio.sleep(0.05)
            assert (await client.get(f"/runs?plan={plan['planId']}")).json() == []


@pytest.mark.patient
async def test_a_process_killed_in_an_upload_leaves_a_failed_run_after_its_lease(
    knit: KnitEnvironment, tmp_path: Path
):
    with api(tmp_path, **environment_of(knit), KNIT_ENGINE__TRANSFER_LEASE="PT5S") as running:
        await asyncio.to_thread(running.waits_for, "store", "engine")

        async def deadly() -> AsyncIterator[bytes]:
            yield tar_of(HELLO)[:700]
            while not await knit.data_with({"type": "orphan"}):
                await asyncio.sleep(0.05)
            running.process.kill()
            yield tar_of(HELLO)[700:]

        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                target = f"{running.url}/api/data?tag=type:orphan"
                await client.post(target, content=deadly(), headers=TAR)
    async with asyncio.timeout(PATIENCE):
        while not await knit.data_with({"type": "orphan", "knit#transient": "failed"}):
            await asyncio.sleep(0.1)


@pytest.mark.patient
async def test_temporal_away(postgres: EmbeddedPostgres, tmp_path: Path):
    """What needs no Temporal goes on; what does is refused soon, and nothing is made of it."""
    async with (
        temporal() as client,
        knit_environment(postgres=postgres, client=client, work=False) as knit,
    ):
        environment = environment_of(knit)
    with api(tmp_path, **environment) as running:
        await asyncio.to_thread(running.waits_for, "store")
        async with httpx.AsyncClient(base_url=f"{running.url}/api", trust_env=False) as client:
            client.timeout = httpx.Timeout(PATIENCE)
            assert (await client.post("/plans", json=PLAN)).status_code == 200
            answer = await client.post("/data", content=tar_of(HELLO), headers=TAR)
            assert answer.status_code == 503
            assert answer.json()["message"]["advice"]
            assert (await client.get("/data")).json() == []
            ready = await client.get(f"{running.url}/readyz")
            assert "engine" in ready.json()["message"]["reason"]
            assert "store" not in ready.json()["message"]["reason"]


@pytest.mark.patient
async def test_temporal_going_away(postgres: EmbeddedPostgres, tmp_path: Path):
    server = temporal()
    connection = await server.__aenter__()
    async with knit_environment(postgres=postgres, client=connection, work=False) as knit:
        environment = environment_of(knit)
    with api(tmp_path, **environment) as running:
        await asyncio.to_thread(running.waits_for, "store", "engine")
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
            client.timeout = httpx.Timeout(PATIENCE)
            await server.__aexit__(None, None, None)
            answer = await client.post("/api/data", content=tar_of(HELLO), headers=TAR)
            assert answer.status_code == 503
            assert answer.json()["message"]["advice"]
            assert (await client.get("/api/data")).json() == []


@pytest.mark.patient
async def test_postgres_away_and_back(tmp_path: Path):
    with embedded_postgres() as server:
        async with knit_environment(postgres=server, work=False) as knit:
            with api(tmp_path, **environment_of(knit)) as running:
                await asyncio.to_thread(running.waits_for, "store", "engine")
                async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
                    client.timeout = httpx.Timeout(PATIENCE)
                    assert (await client.get("/api/data")).status_code == 200
                    server.stop()
                    answer = await client.get("/api/data")
                    assert answer.status_code == 503
                    assert answer.json()["message"]["advice"]
                    assert (await client.get("/readyz")).status_code == 503
                    assert (await client.get("/healthz")).status_code == 200
                    server.start()
                    await asyncio.to_thread(running.waits_for, "store", "engine")
                    assert (await client.get("/api/data")).status_code == 200
