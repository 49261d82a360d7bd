"""`ImportStore`: the Run of an import from its beginning to its end, and the keys."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from knit_workflows import names
from knit_workflows.domain.errors import IllegalMove, ImportOver
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.imports import Import, ImportTimes
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import begin, drain, end, register, spec

S = RunStatus
WINDOW = timedelta(minutes=30)
NONE = timedelta()


async def test_an_import_is_a_running_run_of_its_plan(store: AnyStore) -> None:
    begun = await store.imports.begin(actor="alice")
    assert begun.volume == names.volume(begun.knit_id)
    run = await store.runs.get(begun.run_id)
    assert run.summary.status is S.RUNNING
    assert run.summary.plan.name == "knit#imported"
    assert [one.knit_id for one in run.outputs] == [begun.knit_id]
    data = await store.data.get(begun.knit_id)
    assert (data.upstream.path, data.adopted_volume) == ("/imported", None)
    assert Tag("knit#transient", "processing") in data.tags
    [event] = await store.runs.events(begun.run_id)
    assert (event.to_status, event.actor) == (S.RUNNING, "alice")


async def test_an_ended_import_is_data(store: AnyStore) -> None:
    """With a history, and Runs of it follow."""
    begun = await store.imports.begin()
    await register(store, spec({"/in": f"knit#id:{begun.knit_id}"}, {"/out": "k:z"}))
    await store.imports.require_open(begun, window=WINDOW)
    await store.imports.end(begun, window=WINDOW, actor="bob")
    assert (await store.runs.get(begun.run_id)).summary.status is S.COMPLETING
    await store.imports.finish(begun)
    await store.imports.finish(begun)
    data = await store.data.get(begun.knit_id)
    assert not [tag for tag in data.tags if tag.key == "knit#transient"]
    assert [tag for tag in data.tags if tag.key == "knit#timestamp"]
    events = await store.runs.events(begun.run_id)
    assert [one.to_status for one in events] == [S.RUNNING, S.COMPLETING, S.DONE]
    assert events[1].actor == "bob"
    await drain(store)
    assert [one for one in await store.runs.find(RunQuery()) if one.inputs]


async def test_an_import_is_ended_once(store: AnyStore) -> None:
    begun = await store.imports.begin()
    outcomes = await asyncio.gather(
        *(store.imports.end(begun, window=WINDOW) for _ in range(4)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert {type(one) for one in outcomes if one is not None} == {ImportOver}
    with pytest.raises(ImportOver):
        await store.imports.require_open(begun, window=WINDOW)


async def test_one_that_is_over_cannot_be_ended(store: AnyStore) -> None:
    """Late, stopped, deleted, or never begun."""
    late, stopped = [await store.imports.begin() for _ in range(2)]
    with pytest.raises(ImportOver):
        await store.imports.end(late, window=NONE)
    assert (await store.runs.get(late.run_id)).summary.status is S.RUNNING
    await store.runs.stop(stopped.run_id, fail=True)
    unknown = Import(late.run_id, KnitId(str(uuid4())), late.volume)
    for one in (stopped, unknown):
        with pytest.raises(ImportOver):
            await store.imports.end(one, window=WINDOW)
    with pytest.raises(IllegalMove):
        await store.imports.finish(late)


async def test_only_the_importer_says_that_it_is_complete(store: AnyStore) -> None:
    begun = await store.imports.begin()
    with pytest.raises(IllegalMove, match="is knit#imported"):
        await store.runs.stop(begun.run_id, fail=False)
    with pytest.raises(IllegalMove):
        await store.runs.delete(begun.run_id)
    with pytest.raises(IllegalMove):
        await store.data.purge(begun.knit_id)


async def test_only_the_client_says_that_a_push_is_complete(store: AnyStore) -> None:
    """Torn off, half of it would be a Data that Plans use."""
    key, knit_id = await begin(store)
    with pytest.raises(IllegalMove, match="is knit#uploaded"):
        await store.runs.stop(key.run_id, fail=False)
    assert (await store.runs.get(key.run_id)).summary.status is S.RUNNING
    await store.runs.stop(key.run_id, fail=True)
    assert await end(store, key, fail=True) is S.FAILED
    assert (await store.data.get(knit_id)).upstream.run.status is S.FAILED


async def test_those_who_ask_at_once_sign_with_one_key(store: AnyStore) -> None:
    times = ImportTimes()
    keys = await asyncio.gather(*(store.imports.signing_key(times) for _ in range(6)))
    assert len({key.kid for key in keys}) == 1
    assert len(keys[0].secret) == 256
    found = await store.imports.find_key(keys[0].kid)
    assert found is not None
    assert found.secret == keys[0].secret
    for unknown in (str(uuid4()), "", "\0", f"{keys[0].kid}\0", "\ud800", "x" * 5000):
        assert await store.imports.find_key(unknown) is None
