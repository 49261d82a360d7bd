"""The schedule of backups, in a real Temporal: what it keeps, and who measures it."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleHandle,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowHandle,
)

from knit_workflows import names
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.metrics.instruments import BACKUP_PERIOD, BACKUP_SUCCESS
from knit_workflows.plugin import Deps, Role
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.temporal.backup_schedule import (
    BackupSchedule,
    find_schedule,
    put_schedule,
    remember,
)
from knit_workflows.testing import MemoryBackend
from knit_workflows.upkeep import backups
from knit_workflows.worker import workers
from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient

NIGHTLY = BackupSchedule("/kept", keep=3, every=timedelta(hours=6))


async def arguments(client: Client, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Gives what the schedule hands over, after some of it was changed by hand."""
    handle = client.get_schedule_handle(names.BACKUP_SCHEDULE)

    async def changed(found: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = found.description.schedule
        [given] = await client.data_converter.decode(schedule.action.args)  # type: ignore[union-attr]
        action = dataclasses.replace(schedule.action, args=[given | changes])  # type: ignore[type-var]
        return ScheduleUpdate(dataclasses.replace(schedule, action=action))

    if changes is not None:
        await handle.update(changed)
    action = (await handle.describe()).schedule.action
    [given] = await client.data_converter.decode(action.args)  # type: ignore[union-attr]
    return dict(given)


async def made_at(client: Client) -> datetime:
    found = await find_schedule(client)
    assert found is not None
    return found.made_at


async def measured(destination: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            labels = [one.labels for one in BACKUP_SUCCESS.collect()[0].samples]  # type: ignore[index]
            if labels == [{"destination": destination}]:
                return
            await asyncio.sleep(0.02)


async def test_a_worker_that_takes_none_measures_them_too(
    postgres: EmbeddedPostgres,
    temporal_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those that do may be gone, and somebody has to say so; also after a mistake by hand."""
    monkeypatch.setattr(backups, "_LOOKS_EVERY", 0.05)
    url = postgres.url("measured")
    await migrate(url)
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    deps = Deps(store, MemoryBackend(), queues=QueueSettings())
    [worker] = workers(temporal_client, deps, frozenset({Role.ENGINE}))
    async with worker:
        await put_schedule(temporal_client, NIGHTLY, names.BACKUP_QUEUE)
        await measured("/kept")
        assert [one.value for one in BACKUP_PERIOD.collect()[0].samples] == [6 * 3600]  # type: ignore[index]
        await arguments(temporal_client, {"last_set": 7})
        async with asyncio.timeout(PATIENCE):
            while "the schedule of backups cannot be read: set it again" not in caplog.messages:
                await asyncio.sleep(0.02)
        await arguments(temporal_client, {"last_set": None, "destination": "/mended"})
        await measured("/mended")
    backups.measure(None)


async def test_the_last_set_is_noted_beside_what_is_there(temporal_client: Client) -> None:
    """What a newer build hands over stays, and so does a schedule for another destination."""
    await remember(
        temporal_client, "/kept", "one", unreadable=2, unpruned="no"
    )  # there is none: nothing to note
    await put_schedule(temporal_client, NIGHTLY, names.BACKUP_QUEUE)
    before = await arguments(temporal_client, {"of a newer build": [1]})
    since = await made_at(temporal_client)
    await remember(temporal_client, "/kept", "one", unreadable=2, unpruned="no")
    assert await made_at(temporal_client) > since, "what is_overdue goes by if a clock was ahead"
    noted = before | {"last_set": "one", "unreadable": 2, "unpruned": "no"}
    assert await arguments(temporal_client) == noted
    await remember(temporal_client, "/other", "two", unreadable=0, unpruned="")
    assert await arguments(temporal_client) == noted


async def test_a_schedule_that_is_replaced_meanwhile_stays(
    temporal_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody names another destination while a set that was taken is noted."""
    await put_schedule(temporal_client, NIGHTLY, names.BACKUP_QUEUE)
    elsewhere = dataclasses.replace(NIGHTLY, destination="/elsewhere", keep=9)
    really = ScheduleHandle.update

    async def late(self: ScheduleHandle, *given: Any, **more: Any) -> None:
        monkeypatch.setattr(ScheduleHandle, "update", really)
        await put_schedule(temporal_client, elsewhere, names.BACKUP_QUEUE)
        await really(self, *given, **more)

    monkeypatch.setattr(ScheduleHandle, "update", late)
    await remember(temporal_client, "/kept", "one", unreadable=0, unpruned="")
    found = await arguments(temporal_client)
    assert (found["destination"], found["keep"]) == ("/elsewhere", 9)
    assert "last_set" not in found


async def test_a_new_schedule_takes_its_first_one_after_the_one_that_is_being_taken(
    temporal_client: Client,
) -> None:
    async def started(count: int) -> WorkflowHandle[Any, Any]:
        handle = temporal_client.get_schedule_handle(names.BACKUP_SCHEDULE)
        async with asyncio.timeout(PATIENCE):
            while True:
                info = (await handle.describe()).info
                if info.num_actions == count and info.running_actions:
                    break
                await asyncio.sleep(0.1)
        assert info.num_actions_skipped_overlap == 0
        [running] = info.running_actions
        assert isinstance(running, ScheduleActionExecutionStartWorkflow)
        return temporal_client.get_workflow_handle(running.workflow_id)

    await put_schedule(temporal_client, NIGHTLY, names.BACKUP_QUEUE)
    first = await started(1)
    elsewhere = dataclasses.replace(NIGHTLY, destination="/elsewhere")
    await put_schedule(temporal_client, elsewhere, names.BACKUP_QUEUE)
    await first.terminate()
    second = await started(2)
    begun = (await second.fetch_history()).events[0].workflow_execution_started_event_attributes
    [given] = await temporal_client.data_converter.decode(begun.input.payloads)
    assert given["destination"] == "/elsewhere"
