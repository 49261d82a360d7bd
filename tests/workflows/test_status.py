"""The status of an installation, with a real store and a real Temporal."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.inspection.status import take
from knit_workflows.plugin import Role
from knit_workflows.settings import QueueSettings, Settings, StoreSettings
from knit_workflows.testing import knit_environment
from knit_workflows.wire.situation import InstallationStatus
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN


async def test_every_role_has_its_workers_and_ended_runs_are_counted(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the API asks, and as a process of its own does that has only the settings."""
    async with knit_environment(postgres=postgres) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        await knit.runs_of(plan.summary.plan_id, 1)
        async with asyncio.timeout(PATIENCE):
            state = await knit.knit.state()
            while not all(one.workers for one in state.roles if one.role != Role.BACKUP):
                await asyncio.sleep(0.1)
                state = await knit.knit.state()
        assert [one.role for one in state.roles] == list(QueueSettings.model_fields)
        assert state.version
        monkeypatch.setenv("TEMPORAL_ADDRESS", knit.temporal.service_client.config.target_host)
        monkeypatch.setenv("TEMPORAL_NAMESPACE", knit.temporal.namespace)
        store = StoreSettings(url=SecretStr(knit.url))
        taken = await take(Settings(store=store, queues=knit.deps.queues))
        status = InstallationStatus.model_validate(taken)
        assert status.problems == []
        assert status.ended.done == 2  # the upload's, too
        assert status.versions.temporal == state.version
        assert status.disk.database > 0


async def test_without_temporal_there_is_a_status_all_the_same(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with knit_environment(postgres=postgres, work=False) as knit:
        monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
        taken = await take(Settings(store=StoreSettings(url=SecretStr(knit.url))))
        [problem] = taken["problems"]
        assert "127.0.0.1:1" in problem
        nowhere = StoreSettings(url=SecretStr("postgresql://127.0.0.1:1/knit"))
        assert "problem" in await take(Settings(store=nowhere))
