"""A database that is stopped, not gone, holds no request for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from knit_api.watchdog import wait_or_abandon, watched
from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import embedded_postgres, knit_environment
from tests.api.test_catalogue import refused
from tests.api.test_processes import api
from tests.api.test_real_parts import PLAN, environment_of
from tests.api.test_uploads import TAR
from tests.waiting import PATIENCE


class Stuck:
    """A store that answers when told, and a driver that does not heed its first cancellation."""

    def __init__(self) -> None:
        self.alive = True
        self.go_on = asyncio.Event()
        self.cancelled = 0
        self.plans = SimpleNamespace(get=self.plan)

    async def plan(self, plan_id: str) -> str:
        while not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        return plan_id

    async def ping(self) -> None:
        if not self.alive:
            await self.go_on.wait()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    store = Stuck()
    yield store
    store.go_on.set()


async def test_a_call_is_given_up_when_the_database_does_not_answer(stuck: Stuck):
    stuck.alive = False
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreUnavailable) as caught:
            await watched(stuck, check_interval=0.05, ping_timeout=0.05).plans.get("x")
    assert caught.value.advice
    await asyncio.sleep(0)
    assert stuck.cancelled == 1


@pytest.mark.patient
async def test_a_slow_call_is_waited_for_while_the_database_answers(stuck: Stuck):
    asking = asyncio.create_task(watched(stuck, check_interval=0.05).plans.get("x"))
    await asyncio.sleep(0.5)
    assert not asking.done()
    stuck.go_on.set()
    assert await asking == "x"
    assert stuck.cancelled == 0


@pytest.mark.patient
async def test_no_call_is_waited_for_without_end(stuck: Stuck):
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreUnavailable, match="too long"):
            await watched(stuck, check_interval=0.05, limit=0.2).plans.get("x")


async def test_who_leaves_is_not_held_by_work_that_ignores_it(stuck: Stuck):
    with pytest.raises(TimeoutError):
        await wait_or_abandon(stuck.plan("x"), 0.05)
    asking = asyncio.create_task(watched(stuck).plans.get("x"))
    await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await asking


@contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """SIGSTOP for the server and all its processes; they go on afterwards."""
    main = psutil.Process(server.pid())
    main.suspend()  # first: it starts no further ones then
    processes = [main, *main.children(recursive=True)]
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    try:
        yield
    finally:
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.resume()


@pytest.mark.patient
async def test_every_plain_request_ends_while_postgres_is_stopped(tmp_path: Path):
    """With 503 and advice, whether its connection was there before or has to be made."""
    with embedded_postgres() as server:
        async with knit_environment(postgres=server, work=False) as knit:
            environment = environment_of(knit)
            with api(tmp_path, **environment) as running:
                await asyncio.to_thread(running.waits_for, "store", "engine")
                async with httpx.AsyncClient(
                    base_url=running.url, trust_env=False, timeout=PATIENCE
                ) as client:
                    plan = (await client.post("/api/plans", json=PLAN)).json()
                    one = f"/api/plans/{plan['planId']}"
                    unknown = "00000000-0000-4000-8000-000000000000"
                    with frozen(server):
                        requests = [
                            client.get("/api/data"),
                            client.get("/api/runs?limit=1"),
                            client.get(one),
                            client.put(f"{one}/active"),
                            client.post("/api/plans", json={**PLAN, "image": "memory/other:v1"}),
                            client.put(f"/api/data/{unknown}", json={"add": ["a:b"]}),
                            client.get(f"/api/data/{unknown}/metadata"),
                            client.get(f"/api/data/{unknown}"),
                            client.get(f"/api/runs/{unknown}/log?follow"),
                            client.post("/api/data", content=b"x", headers=TAR),
                            *(client.get("/api/data") for _ in range(30)),
                            client.get("/readyz"),
                        ]
                        await asyncio.gather(*(refused(one, 503) for one in requests))
                        assert (await client.get("/healthz")).status_code == 200
                    async with asyncio.timeout(PATIENCE):
                        while (await client.get(one)).status_code != 200:
                            await asyncio.sleep(0.1)


@pytest.mark.patient
async def test_the_api_ends_when_told_while_postgres_is_stopped(tmp_path: Path):
    with embedded_postgres() as server:
        async with knit_environment(postgres=server, work=False) as knit:
            with api(tmp_path, **environment_of(knit)) as running:
                await asyncio.to_thread(running.waits_for, "store", "engine")
                async with httpx.AsyncClient(
                    base_url=running.url, trust_env=False, timeout=PATIENCE
                ) as client:
                    assert (await client.get("/api/data")).status_code == 200
                    with frozen(server):
                        await refused(client.get("/api/data"), 503)
                        await asyncio.to_thread(running.end)
