"""Uploads and downloads: the pseudo Run, and one row per open door."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import PostgresStore
from tests.store.build import begin, fetch


def new_ids() -> tuple[RunId, KnitId]:
    return RunId(str(uuid4())), KnitId(str(uuid4()))


async def test_a_data_has_one_writer(store: PostgresStore, url: str) -> None:
    run_id, knit_id = new_ids()
    await store.transfers.begin_upload("t1", run_id, knit_id)
    with pytest.raises(psycopg.errors.UniqueViolation):
        fetch(
            url,
            "INSERT INTO transfer (transfer_id, knit_id, mode, token, created_at)"
            " VALUES ('t3', %s, 'write', '', now())",
            knit_id,
        )


async def test_a_stopped_upload_is_left_to_its_transfer(store: PostgresStore, url: str) -> None:
    key, _ = await begin(store)
    await store.runs.stop(key.run_id, fail=True)
    assert await store.admission.finish_unstarted() == 0
    assert fetch(url, "SELECT * FROM outbox") == []
    assert await store.execution.finalize(key, cause="lease over") is RunStatus.FAILED
