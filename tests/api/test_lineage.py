"""`GET /api/data/{knitId}/lineage`."""

from __future__ import annotations

import pytest

from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from tests.memory_store import MemoryStore
from tests.store.build import end, register, spec, upload

NOWHERE = "11111111-1111-4111-8111-111111111111"
WAITING = RunQuery(statuses=frozenset({RunStatus.WAITING}))


async def chain(store: MemoryStore, length: int) -> str:
    """An upload and so many Runs behind each other, each with a log; gives the first Data."""
    for turn in range(length):
        await register(
            store,
            spec({"/in": f"k:{turn}"}, {"/out": f"k:{turn + 1}"}, log="k:log", image=f"n:{turn}"),
        )
    first = await upload(store, "k:0")
    for _ in range(length):
        (run,) = await store.runs.find(WAITING)
        await end(store, RunKey(run.summary.run_id, 1))
    return first


async def test_a_lineage_is_given_in_full(client, store):
    """Data and Runs look as they do elsewhere; the Data asked for comes first."""
    first = await chain(store, 2)
    answer = await client.get(f"/data/{first}/lineage?downstream=all")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("\n")
    found = answer.json()
    assert set(found) == {"data", "runs"}
    assert [len(found["data"]), len(found["runs"])] == [5, 2]
    assert found["data"][0]["knitId"] == first
    (listed,) = (await client.get(f"/data?tag=knit%23id:{first}")).json()
    assert found["data"][0] == listed
    assert found["runs"] == [
        (await client.get(f"/runs/{run['runId']}")).json() for run in found["runs"]
    ]


async def test_a_lineage_is_given_as_ids(client, store):
    """With `fields=ids` the same things are there, and every tie between them as an edge."""
    first = await chain(store, 2)
    full = (await client.get(f"/data/{first}/lineage?downstream=all")).json()
    lean = (await client.get(f"/data/{first}/lineage?downstream=all&fields=ids")).json()
    assert lean["data"] == [one["knitId"] for one in full["data"]]
    assert lean["runs"] == [one["runId"] for one in full["runs"]]
    run = full["runs"][0]
    assert lean["edges"][:3] == [
        {"from": first, "to": run["runId"], "label": "/in"},
        {"from": run["runId"], "to": run["outputs"][0]["knitId"], "label": "/out"},
        {"from": run["runId"], "to": run["log"]["knitId"], "label": "(log)"},
    ]
    assert len(lean["edges"]) == 6


@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("", 4), ("upstream=1", 1), ("downstream=2", 2), ("upstream=0&downstream=0", 0),
        ("upstream=all&downstream=all", 6), ("downstream=all", 5), ("upstream=999999999", 1),
        ("upstream=&downstream=", 4), ("downstream=all&limit=11", 5),
    ],
)  # fmt: skip
async def test_how_far_a_lineage_goes(client, store, query, runs):
    """In Runs; without a word three both ways, and one way only where one way is named."""
    first = await chain(store, 5)
    answer = await client.get(f"/data/{first}/lineage?fields=ids&{query}")
    assert len(answer.json()["runs"]) == runs


@pytest.mark.parametrize(
    "query",
    [
        "upstream=-1", "upstream=x", "downstream=1.5", "downstream=%D9%A3", "upstream=9999999999",
        "limit=0", "limit=x", "limit=10001", "limit=100001&fields=ids", "fields=names", "limit=-1",
    ],
)  # fmt: skip
async def test_lineage_questions_that_are_none(client, query):
    answer = await client.get(f"/data/{NOWHERE}/lineage?{query}")
    assert answer.status_code == 400
    assert answer.json()["message"]["advice"]


@pytest.mark.parametrize("knit_id", [NOWHERE, "x", "%00"])
async def test_no_lineage_of_what_is_not_there(client, knit_id):
    answer = await client.get(f"/data/{knit_id}/lineage")
    assert answer.status_code == 404
    assert answer.json()["message"]["advice"]


async def test_a_lineage_that_is_too_large_is_a_conflict_with_advice(client, store):
    first = await chain(store, 2)
    for fields in ("", "&fields=ids"):
        answer = await client.get(f"/data/{first}/lineage?downstream=all&limit=4{fields}")
        assert answer.status_code == 409
        message = answer.json()["message"]
        assert "4 Data" in message["reason"]
        assert "limit" in message["advice"]
