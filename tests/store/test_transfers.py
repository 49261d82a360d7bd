"""Uploads and downloads: the pseudo Run, and one row per transfer."""

from __future__ import annotations

from datetime import timedelta
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


async def test_programs_of_before_tell_the_state_in_the_endpoint(
    store: PostgresStore, url: str
) -> None:
    """While they still run beside this one: until revision 0013 there was no other place."""
    _, knit_id = await begin(store)
    await store.transfers.begin_download("r1", knit_id)
    seen = []
    with psycopg.connect(url) as connection:
        for endpoint in ("http://pod:18082", "idle", "closing"):
            connection.execute("UPDATE transfer SET endpoint = %s WHERE mode = 'read'", [endpoint])
            seen += connection.execute("SELECT state FROM transfer WHERE mode = 'read'")
    assert seen == [("open",), ("idle",), ("closing",)]


async def test_an_endpoint_stays_a_url_until_the_row_is_gone(
    store: PostgresStore, url: str
) -> None:
    _, knit_id = await begin(store)
    state = "SELECT state, endpoint FROM transfer WHERE transfer_id = 'r1'"
    first = await store.transfers.begin_download("r1", knit_id)
    assert fetch(url, state) == [{"state": "opening", "endpoint": ""}]
    await store.transfers.opened("r1", "http://pod:18082")
    assert fetch(url, state) == [{"state": "open", "endpoint": "http://pod:18082"}]
    leave = first.transfer_id, knit_id, first.endpoint_id
    await store.transfers.leave(*leave, linger=timedelta(hours=1))
    assert fetch(url, state) == [{"state": "idle", "endpoint": "http://pod:18082"}]
    await store.transfers.leave(*leave, linger=timedelta(0))
    await store.transfers.opened("r1", "http://pod:18083")  # a late attempt
    assert fetch(url, state) == [{"state": "closing", "endpoint": "http://pod:18082"}]
