"""What is around the worker that calls hooks goes away, or changes, while calls are under way."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.domain.hooks import DeliveryQuery, DeliveryState, HookPhase
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import Store
from knit_workflows.domain.runs.run import RunQuery, RunStatus, WaitKind
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Role
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from tests.chaos.hook_record import AFTER, assert_kept, in_force
from tests.chaos.installation import Installation, eventually, installation
from tests.chaos.sweep import RECOVERY_SETTINGS
from tests.chaos.test_hooks_killed import ALLOWED, OTHERS, PLAN
from tests.chaos.test_outages import QUICK, Knit, open_folder
from tests.chaos.test_outages import installation as servers
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.processes import WorkerProcess
from tests.receiver import AGREED, Answer, Call, Receiver, receiver
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

__all__ = ["open_folder"]
AWAY: Final = 5.0
"""Seconds."""


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as serving:
        yield serving


class Held:
    """Holds back the answer to one call: the first of a path for a target."""

    def __init__(self, hooks: Receiver, path: str, target: str) -> None:
        self.there = threading.Event()
        self._go_on = threading.Event()
        self._wanted = (path, target)
        hooks.answer = self._answer

    def let_go(self) -> None:
        """Has it answered."""
        self._go_on.set()

    def _answer(self, call: Call) -> Answer:
        if (call.path, call.transition[1]) == self._wanted and not self.there.is_set():
            self.there.set()
            self._go_on.wait(PATIENCE)
        return AGREED


# ---------------------------------------------------------------- servers are away


@asynccontextmanager
async def called_meanwhile(
    folder: Path, hooks: Receiver, held: Held
) -> AsyncIterator[tuple[Knit, PostgresStore, RunId]]:
    """A Run, one of whose hooks has been called and has not answered; it must end well."""
    # No worker is killed here: one that is just slow must not be taken for dead, and call again.
    settings = {**RECOVERY_SETTINGS, "KNIT_ENGINE__HEARTBEAT": "PT60S", **ALLOWED}
    async with servers(folder, **settings) as knit:
        store = PostgresStore(StoreSettings(url=SecretStr(knit.database)))
        await store.open()
        try:
            await store.hooks.configure(in_force(hooks))
            plan = await knit.plan(QUICK, "outage:hooks")
            answer = await knit.push("outage:hooks")
            assert answer.status_code == 200, answer.text
            await until(held.there.is_set)
            run_id = RunId((await knit.runs(plan))[0]["runId"])
            yield knit, store, run_id
            await knit.until(plan, 1, "done")
            await eventually(lambda: all_told(store, run_id))
            await assert_kept(store, run_id, hooks)
            assert knit.counters() == ["x\n"]
        finally:
            held.let_go()
            await store.aclose()


async def all_told(store: Store, run_id: RunId) -> bool:
    """Says whether the last After hooks have been called, too."""
    found = await store.hooks.find(DeliveryQuery(run_id=run_id))
    last = [one for one in found if one.transition.target is RunStatus.DONE]
    told = [one for one in last if one.phase is HookPhase.AFTER]
    return len(told) == len(AFTER) and all(one.state is not DeliveryState.CALLING for one in told)


@pytest.mark.parametrize("path", ["/b", "/c"], ids=["before", "after"])
async def test_postgres_is_away_when_a_hook_answers(
    open_folder: Path, hooks: Receiver, path: str
) -> None:
    """The answer is on record afterwards: nobody else knows it, and the call is not repeated."""
    held = Held(hooks, path, "starting")
    async with called_meanwhile(open_folder, hooks, held) as (knit, store, run_id):

        async def is_on_record() -> bool:
            return any(
                (one.url, one.transition.target) == (hooks.url(path), RunStatus.STARTING)
                and one.state is DeliveryState.SUCCEEDED
                for one in await store.hooks.find(DeliveryQuery(run_id=run_id))
            )

        await asyncio.to_thread(knit.postgres.stop)
        held.let_go()
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(knit.postgres.start)
        await eventually(is_on_record)
    calls = Counter(call.headers["webhook-id"] for call in hooks.calls)
    [one] = [
        call
        for call in hooks.calls
        if (call.path, call.transition[1], call.body["runId"]) == (path, "starting", run_id)
    ]
    assert calls[one.headers["webhook-id"]] == 1


@pytest.mark.parametrize("path", ["/b", "/c"], ids=["before", "after"])
async def test_temporal_is_away_when_a_hook_answers(
    open_folder: Path, hooks: Receiver, path: str
) -> None:
    """A Before hook may be asked again, an After hook is not told twice."""
    held = Held(hooks, path, "starting")
    async with called_meanwhile(open_folder, hooks, held) as (knit, _, _):
        knit.temporal.kill()
        held.let_go()
        await asyncio.sleep(AWAY)
        await knit.temporal.start()


# ---------------------------------------------------------------- workers of the role hooks


@asynccontextmanager
async def hooks_worker(
    site: Installation, name: str, **settings: str
) -> AsyncIterator[WorkerProcess]:
    """A process with the role `hooks` alone."""
    logs = site.folder / name
    logs.mkdir()
    environment = {**site.environment, **ALLOWED, **settings}
    worker = WorkerProcess(environment, logs, roles=[Role.HOOKS])
    worker.start()
    try:
        await worker.ready()
        yield worker
    finally:
        await asyncio.to_thread(worker.end)


async def some_runs(site: Installation, count: int) -> list[RunId]:
    """Has so many Runs of one Plan; gives their ids."""
    plan = await site.apply(PLAN)
    for _ in range(count):
        await site.made(Tag("type", "dataset"))
    query = RunQuery(plan_ids=frozenset({plan.summary.plan_id}))

    async def are_there() -> bool:
        return len(await site.store.runs.find(query)) == count

    await eventually(are_there)
    return [run.summary.run_id for run in await site.store.runs.find(query)]


async def all_done(site: Installation, runs: list[RunId]) -> None:
    """Waits until the Runs have ended well, and their hooks have been told."""
    query = RunQuery(statuses=frozenset({RunStatus.DONE}))

    async def are_done() -> bool:
        return set(runs) <= {run.summary.run_id for run in await site.store.runs.find(query)}

    await eventually(are_done)
    for run_id in runs:
        await site.temporal.get_workflow_handle(names.run_workflow(run_id, 1)).result()


async def test_two_workers_one_of_which_dies(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path, hooks: Receiver
) -> None:
    """They share the work, call nobody twice after a transition, and one of them is enough."""
    need_bubblewrap()
    held = Held(hooks, "/b", "ready")
    async with (
        installation(postgres, temporal_client, tmp_path, roles=OTHERS) as site,
        hooks_worker(site, "one") as one,
        hooks_worker(site, "two") as two,
    ):
        await site.store.hooks.configure(in_force(hooks))
        runs = await some_runs(site, 10)
        await until(held.there.is_set)
        await until(lambda: all("hook_called" in worker.log.read_text() for worker in (one, two)))
        one.kill()
        held.let_go()
        await all_done(site, runs)
        for run_id in runs:
            await assert_kept(site.store, run_id, hooks)


async def test_the_hooks_file_changes_while_a_run_waits(
    postgres: EmbeddedPostgres, temporal_client: Client, hooks: Receiver, tmp_path: Path
) -> None:
    """The Run asks those that are in force by then; one that is gone keeps it no longer."""
    need_bubblewrap()
    refuse: Answer = (503, {}, b"not now")
    hooks.answer = lambda call: refuse if call.path == "/a" else AGREED
    file = tmp_path / "hooks.yaml"
    file.write_text(f"lifecycle-hooks:\n  before: [{hooks.url('/a')}]\n")
    async with (
        installation(postgres, temporal_client, tmp_path, roles=OTHERS) as site,
        hooks_worker(site, "hooks", KNIT_HOOKS__FILE=str(file)),
    ):
        [run_id] = await some_runs(site, 1)

        async def waits() -> bool:
            waiting = (await site.store.runs.get(run_id)).waiting
            return waiting is not None and waiting.kind is WaitKind.HOOK

        await eventually(waits)
        file.write_text(f"lifecycle-hooks:\n  before: [{hooks.url('/b')}]\n")
        await all_done(site, [run_id])
        assert set(hooks.transitions("/a")) == {("waiting", "ready")}
        assert len(set(hooks.transitions("/b"))) == 5
