"""Retry and deletion: what they leave, what they refuse, and nobody uses what is discarded."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from knit_workflows.domain.data import Adoption, TagChange
from knit_workflows.domain.errors import IllegalMove, KnitError
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.store import PostgresStore
from tests.store.build import admit_all, begin, drain, end, fetch, only, register, spec, tags

S = RunStatus
AT_ONCE = timedelta(0)


async def pushed(store: PostgresStore, text: str) -> KnitId:
    """Uploads a Data whose transfer is closed."""
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags(text)))
    await end(store, key)
    await store.transfers.closed(f"transfer-{knit_id}")
    return knit_id


async def a_run(store: PostgresStore, *, fail: bool = False) -> RunKey:
    """One ended Run of a → b (and a log)."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}, log="type:log"))
    await pushed(store, "type:a")
    await drain(store)
    (key,) = await admit_all(store)
    await end(store, key, fail=fail)
    return key


async def with_downstream(store: PostgresStore) -> tuple[RunKey, RunKey]:
    """A done Run, and an ended one that uses its output."""
    first = await a_run(store)
    await register(store, spec({"/in": "type:b"}, {"/out": "type:c"}))
    await drain(store)
    (second,) = await admit_all(store)
    await end(store, second)
    return first, second


def outputs_of(url: str, run_id: str) -> set[str]:
    rows = fetch(url, "SELECT knit_id::text AS id FROM data WHERE run_id = %s", run_id)
    return {row["id"] for row in rows}


@pytest.mark.parametrize("status", [S.WAITING, S.READY, S.STARTING, S.RUNNING, S.COMPLETING])
async def test_a_run_that_has_not_finished_is_not_retried(
    store: PostgresStore, url: str, status: RunStatus
) -> None:
    await register(store, spec({"/in": "type:a"}))
    await pushed(store, "type:a")
    await drain(store)
    (key,) = await admit_all(store)
    fetch(url, "UPDATE run SET status = %s WHERE run_id = %s", status.value, key.run_id)
    with pytest.raises(IllegalMove, match="has not finished yet"):
        await store.runs.retry(key.run_id)
    if status is not S.WAITING:
        with pytest.raises(IllegalMove, match="has not finished yet"):
            await store.runs.delete(key.run_id)


@pytest.mark.parametrize("order", ["retry", "delete"])
async def test_the_volumes_of_former_outputs_are_discarded(
    store: PostgresStore, url: str, order: str
) -> None:
    key = await a_run(store)
    old = outputs_of(url, key.run_id)
    assert len(old) == 2
    await getattr(store.runs, order)(key.run_id)
    assert {
        one.knit_id for one in await store.housekeeping.discarded(older_than=AT_ONCE, limit=9)
    } == old


async def test_a_retried_run_is_admitted_as_its_next_generation(store: PostgresStore) -> None:
    key = await a_run(store)
    await store.runs.retry(key.run_id)
    [started] = await store.admission.admit(AdmissionLimits())
    assert started.key == RunKey(key.run_id, 2)


async def test_a_deleted_upload_vanishes_with_the_tombstones_of_its_users(
    store: PostgresStore, url: str
) -> None:
    key = await a_run(store)
    input_id = only((await store.runs.get(key.run_id)).inputs).knit_id
    upload_id = (await store.data.get(input_id)).upstream.run.run_id
    await store.runs.delete(key.run_id)
    await store.runs.delete(upload_id)
    assert not fetch(url, "SELECT 1 FROM run")
    assert not fetch(url, "SELECT 1 FROM run_event")
    assert not fetch(url, "SELECT 1 FROM data")
    assert len(await store.housekeeping.discarded(older_than=AT_ONCE, limit=9)) == 3


@pytest.mark.parametrize("admitted", [False, True])
async def test_a_waiting_run_is_deleted(store: PostgresStore, admitted: bool) -> None:
    """Also when it has a workflow already: that execution is told that it is superseded."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    await pushed(store, "type:a")
    await drain(store)
    if admitted:
        await admit_all(store)
    (run,) = await store.runs.find(RunQuery(statuses=frozenset({S.WAITING})))
    run_id = run.summary.run_id
    await store.runs.delete(run_id)
    assert (await store.runs.get(run_id)).summary.status is S.INVALIDATED
    assert not await store.admission.admit(AdmissionLimits())
    if admitted:
        with pytest.raises(KnitError, match="generation 2"):
            await store.execution.spec(RunKey(run_id, 1))


@pytest.mark.patient
async def test_deletion_and_use_at_once(store: PostgresStore, url: str) -> None:
    """Either the Data is used, and its Run stays, or it is gone, and nobody uses it."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    inputs = [await pushed(store, "type:a") for _ in range(12)]
    runs = [(await store.data.get(knit_id)).upstream.run.run_id for knit_id in inputs]

    async def delete(run_id: RunId) -> bool:
        try:
            await store.runs.delete(run_id)
        except IllegalMove:
            return False
        return True

    *deleted, _ = await asyncio.gather(*map(delete, runs), drain(store, page_size=3))
    await drain(store)
    used = {row["k"] for row in fetch(url, "SELECT knit_id::text AS k FROM run_input")}
    for knit_id, gone in zip(inputs, deleted, strict=True):
        assert (knit_id not in used) is gone


async def test_volumes_that_were_only_adopted_are_never_discarded(
    store: PostgresStore, url: str
) -> None:
    [adopted] = await store.adoptions.adopt([Adoption("/srv/big")])
    assert await store.runs.delete(adopted.data.upstream.run.run_id) == ["/srv/big"]
    assert await store.housekeeping.discarded(older_than=timedelta(), limit=9) == []
    assert fetch(url, "SELECT count(*) AS left FROM data") == [{"left": 0}]


@pytest.mark.parametrize("what", ["retry", "delete", "purge"])
async def test_a_reader_that_does_not_open_keeps_nothing(
    store: PostgresStore, url: str, what: str
) -> None:
    """One look at a log that cannot be read must not forbid all else; an open one does, for now."""
    key = await a_run(store)
    knit_id = KnitId(sorted(outputs_of(url, key.run_id))[0])

    async def discard() -> None:
        if what == "purge":
            await store.data.purge(knit_id)
        else:
            await getattr(store.runs, what)(key.run_id)

    await store.transfers.begin_download("young", knit_id)
    with pytest.raises(IllegalMove, match="being transferred"):
        await discard()
    await store.transfers.closed("young")
    for name, endpoint in (("open", "file:///x"), ("stuck", "")):
        await store.transfers.begin_download(name, knit_id)
        await store.transfers.opened(name, endpoint)
    fetch(url, "UPDATE transfer SET created_at = created_at - interval '11 s'")
    with pytest.raises(IllegalMove, match="being transferred"):
        await discard()
    assert fetch(url, "SELECT transfer_id FROM transfer ORDER BY transfer_id") == [
        {"transfer_id": "open"},
        {"transfer_id": "stuck"},
    ]
    fetch(url, "UPDATE transfer SET created_at = created_at - interval '1 h'")
    await store.transfers.present("open")
    with pytest.raises(IllegalMove, match="being transferred"):
        await discard()
    # Its API was killed.
    fetch(url, "UPDATE transfer SET created_at = created_at - interval '31 s'")
    await discard()
    assert fetch(url, "SELECT * FROM transfer") == []
