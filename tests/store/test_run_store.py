"""What the API asks of Runs: filters, details, asking for one; and what lists cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import (
    DataNotFound,
    InvalidRequest,
    RunNotFound,
)
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import PostgresStore
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.plans.details import plan_details
from knit_workflows.store.runs.details import data_details, run_details
from knit_workflows.store.runs.run_store import _SQL
from tests.store.build import (
    admit_all,
    begin,
    drain,
    end,
    fetch,
    only,
    register,
    runs_in,
    spec,
    tags,
    upload,
)

NOWHERE = "11111111-1111-4111-8111-111111111111"
S = RunStatus


@pytest.mark.parametrize("run_id", [NOWHERE, "x"])
async def test_a_run_that_is_not_there(store: PostgresStore, run_id: str) -> None:
    for call in (
        store.runs.get(RunId(run_id)),
        store.runs.events(RunId(run_id)),
        store.runs.stop(RunId(run_id), fail=True),
        store.runs.wait_final(RunId(run_id), fallback=timedelta(seconds=1)),
    ):
        with pytest.raises(RunNotFound):
            await call


async def test_discarded_data_of_a_run_is_shown_as_none(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}, {"/o": ""}, log="k:log"))
    await upload(store, "k:a")
    await drain(store)
    key = only(await admit_all(store))
    fetch(
        url,
        "DELETE FROM data_tag WHERE knit_id IN (SELECT knit_id FROM data WHERE run_id = %s)",
        key.run_id,
    )
    fetch(url, "DELETE FROM data WHERE run_id = %s", key.run_id)
    detail = await store.runs.get(key.run_id)
    assert detail.log is not None
    assert (detail.outputs[0].knit_id, detail.log.knit_id) == (None, None)


@pytest.mark.patient
async def test_a_run_can_be_asked_for(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}, active=False))
    left, right = await upload(store, "k:a"), await upload(store, "k:b")
    inputs = {"/b": right, "/a": left}
    keys = await asyncio.gather(*(store.runs.ensure(plan, inputs) for _ in range(5)))
    assert len(set(keys)) == 1
    await drain(store)
    assert runs_in(url) == {(plan, (left, right)): "deactivated"}
    run = await store.runs.get(keys[0].run_id)
    assert [(one.path, one.knit_id) for one in run.inputs] == [("/a", left), ("/b", right)]
    for wrong in ({"/a": left}, {**inputs, "/c": left}, {"/a": right, "/b": left}, {}):
        with pytest.raises(InvalidRequest):
            await store.runs.ensure(plan, wrong)
    with pytest.raises(DataNotFound):
        await store.runs.ensure(plan, {"/a": left, "/b": KnitId(NOWHERE)})
    _, growing = await begin(store)
    await store.data.change_tags(growing, TagChange(add=tags("k:a")))
    with pytest.raises(InvalidRequest):
        await store.runs.ensure(plan, {"/a": growing, "/b": right})


async def test_an_asked_for_run_is_admitted(store: PostgresStore) -> None:
    plan = await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    key = await store.runs.ensure(plan, {"/a": data})
    assert await admit_all(store) == [key]
    await end(store, RunKey(key.run_id, 1))
    assert await store.runs.ensure(plan, {"/a": data}) == key


class CountingSession:
    """A session that counts its statements."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.memory = session.memory
        self.statements = 0

    async def rows(self, query: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        self.statements += 1
        return await self._session.rows(query, params)


@pytest.mark.patient
async def test_lists_take_a_constant_number_of_statements(store: PostgresStore, url: str) -> None:
    db = Database(url, 1)

    async def cost(details: Callable[[Any, list[str]], Awaitable[object]], ids: str) -> int:
        async def read(session: Session) -> int:
            counting = CountingSession(session)
            await details(counting, [row.id for row in await session.rows(ids)])
            return counting.statements

        await db.reading(read)  # Plans that are met first take one more
        return await db.reading(read)

    async def costs() -> list[int]:
        return [
            await cost(data_details, "SELECT knit_id AS id FROM data"),
            await cost(plan_details, "SELECT plan_id AS id FROM plan"),
            await cost(run_details, "SELECT run_id AS id FROM run"),
        ]

    async def more(turn: int) -> None:
        await register(store, spec({"/a": "k:a"}, {"/b": "k:b"}, image=f"x:{turn}"))
        await register(store, spec({"/a": "k:b"}, image=f"y:{turn}"))
        await upload(store, "k:a")
        await drain(store)

    await more(0)
    few = await costs()
    for turn in range(1, 5):
        await more(turn)
    assert await costs() == few
    await db.aclose()


async def test_ping(store: PostgresStore) -> None:
    await store.ping()


def runs_of(url: str, plan_id: str, status: str, admitted: bool, count: int) -> None:
    """Puts Runs there behind the store's back."""
    fetch(
        url,
        """INSERT INTO run (run_id, plan_id, assignment_hash, status, admitted_at, exit_code,
                            exit_message, created_at, updated_at)
           SELECT gen_random_uuid(), %s, sha256(gen_random_uuid()::text::bytea), %s,
                  CASE WHEN %s THEN now() END, 0, '', now(), now()
             FROM generate_series(1, %s)""",
        plan_id, status, admitted, count,
    )  # fmt: skip


async def test_the_census_counts_every_run_once(store: PostgresStore, url: str) -> None:
    """Of each status, admitted or not: it looks for them in four places."""
    plan_id = await register(store, spec({"/in": "k:a"}))
    for count, status in enumerate(S, start=1):
        runs_of(url, plan_id, status, True, count)
        runs_of(url, plan_id, status, False, 100)
    census = await store.runs.census(plans=1)
    wanted = {one: 100 + n for n, one in enumerate(S, start=1) if not one.is_final}
    assert dict(census.runs) == wanted
    assert [(one.plan_id, one.runs) for one in census.plans] == [(plan_id, wanted)]


@pytest.mark.patient
async def test_runs_that_have_ended_cost_the_census_nothing(store: PostgresStore, url: str) -> None:
    """It reads indexes of those that have not, never the table or an index of all."""
    plan_ids = [await register(store, spec({"/in": "k:a"}, image=f"i:{n}")) for n in range(10)]
    for plan_id in plan_ids:
        runs_of(url, plan_id, "done", True, 3000)
        runs_of(url, plan_id, "waiting", False, 200)
        runs_of(url, plan_id, "running", True, 2)
    fetch(url, "VACUUM ANALYZE run")
    found = fetch(url, "EXPLAIN (FORMAT JSON) " + _SQL["census"].replace("%(most)s", "20"))
    nodes = [*nodes_of(found[0]["QUERY PLAN"][0]["Plan"])]
    of_runs = {node["Index Name"] for node in nodes if "Index Name" in node} - {"plan_pkey"}
    assert "ix_run_queue_of_plan" in of_runs
    assert of_runs <= {
        "ix_run_queue_of_plan", "ix_run_deactivated", "ix_run_admitted", "ix_run_status",
    }  # fmt: skip
    assert not [one for one in nodes if "Seq" in one["Node Type"] and one["Relation Name"] == "run"]


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a statement's plan."""
    yield node
    for one in node.get("Plans", ()):
        yield from nodes_of(one)
