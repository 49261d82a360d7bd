"""`POST /data/{knitId}/purge`: the statuses of every refusal, and what is left."""

from __future__ import annotations

import pytest

from knit_workflows.domain.data import Adoption
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.runs.run import RunStatus
from tests.api.test_catalogue import refused

UNKNOWN = "11111111-1111-4111-8111-111111111111"


def output(run) -> str:
    return run.outputs[0].knit_id


async def test_a_purge_is_repeatable(client, store):
    knit_id = output(store.add_run())
    first = await client.post(f"/data/{knit_id}/purge")
    assert first.status_code == 200
    assert first.json()["outcome"] == "purged"
    assert first.json()["volume"] == f"data-knitid-{knit_id}"
    again = await client.post(f"/data/{knit_id}/purge")
    assert (again.status_code, again.json()["outcome"]) == (200, "known")
    data = (await client.get(f"/data/{knit_id}/metadata")).json()
    assert data == first.json()["data"] == again.json()["data"]
    assert "knit#transient:purged" in data["tags"]


async def test_its_content_is_not_found(client, store):
    knit_id = output(store.add_run())
    await client.post(f"/data/{knit_id}/purge")
    message = await refused(client.get(f"/data/{knit_id}"), 404)
    assert "was purged" in message["reason"]
    assert message["see"] == knit_id


async def test_a_purged_log_is_not_found(client, store):
    run = store.add_run(log=True)
    await client.post(f"/data/{run.log.knit_id}/purge")
    message = await refused(client.get(f"/runs/{run.summary.run_id}/log"), 404)
    assert "was purged" in message["reason"]


async def test_in_use_is_a_conflict(client, store):
    knit_id = output(store.add_run())
    reader = store.add_run(RunStatus.RUNNING, inputs={"/in": knit_id})
    message = await refused(client.post(f"/data/{knit_id}/purge"), 409)
    assert message["see"] == reader.summary.run_id
    await refused(client.post(f"/data/{output(reader)}/purge"), 409)
    await refused(client.post(f"/data/{knit_id}/purge", params={"dry_run": "true"}), 409)


async def test_a_retry_of_its_user_is_a_conflict(client, store):
    knit_id = output(store.add_run())
    reader = store.add_run(inputs={"/in": knit_id})
    await client.post(f"/data/{knit_id}/purge")
    message = await refused(client.put(f"/runs/{reader.summary.run_id}/retry"), 409)
    assert knit_id in message["reason"]


@pytest.mark.parametrize("knit_id", [UNKNOWN, "no-id"])
async def test_what_is_not_there_is_not_found(client, knit_id):
    await refused(client.post(f"/data/{knit_id}/purge"), 404)


async def test_a_dry_run_measures_and_changes_nothing(client, store, transfers):
    knit_id = output(store.add_run())
    transfers.sizes[f"data-knitid-{knit_id}"] = 12345
    answer = await client.post(f"/data/{knit_id}/purge", params={"dry_run": "true"})
    assert answer.json()["bytes"] == 12345
    assert "knit#transient:purged" not in answer.json()["data"]["tags"]
    transfers.broken = EngineUnavailable()
    answer = await client.post(f"/data/{knit_id}/purge", params={"dry_run": "true"})
    assert (answer.status_code, "bytes" in answer.json()) == (200, False)


async def test_what_was_adopted_is_named(client, store):
    [adopted] = await store.adoptions.adopt([Adoption("/srv/big")])
    answer = (await client.post(f"/data/{adopted.data.knit_id}/purge")).json()
    assert answer["kept_volume"] == "/srv/big"
    assert "volume" not in answer
    again = (await client.post(f"/data/{adopted.data.knit_id}/purge")).json()
    assert again["outcome"] == "known"
    assert "kept_volume" not in again


async def test_a_bad_parameter_is_refused(client, store):
    knit_id = output(store.add_run())
    await refused(client.post(f"/data/{knit_id}/purge", params={"dry_run": "maybe"}), 400)
