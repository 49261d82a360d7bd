"""`POST /adoptions`: all or nothing, in words, and again without harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_workflows.domain.data import MAX_ADOPTIONS
from knit_workflows.domain.errors import EngineUnavailable
from tests.api.test_catalogue import refused


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = tmp_path / "theirs" / "ünder a b"
    made.mkdir(parents=True)
    return str(made.resolve())


async def adopt(client, *volumes: dict, **more: object):
    return await client.post("/adoptions", json={"volumes": list(volumes), **more})


async def test_a_volume_becomes_data(client, store, folder):
    answer = await adopt(client, {"volume": folder, "tags": ["k:a", {"key": "x", "value": "1"}]})
    assert answer.status_code == 200
    [one] = answer.json()
    assert (one["volume"], one["outcome"]) == (folder, "new")
    data = (await client.get(f"/data/{one['data']['knitId']}/metadata")).json()
    assert data == one["data"]
    assert data["adopted_volume"] == folder
    assert {"k:a", "x:1"} < set(data["tags"])
    [again] = (await adopt(client, {"volume": folder})).json()
    assert again == {"volume": folder, "outcome": "known", "data": data}


async def test_data_of_knits_own_volumes_have_no_such_key(client, store):
    store.add_run()
    [data] = (await client.get("/data")).json()
    assert "adopted_volume" not in data


async def test_one_refused_volume_refuses_all(client, store, folder):
    message = await refused(adopt(client, {"volume": folder}, {"volume": "/no/such"}), 400)
    assert "/no/such" in message["reason"]
    assert store.memory.data == {}


async def test_a_long_list_of_refusals_is_cut(client):
    message = await refused(adopt(client, *({"volume": f"/no/{n}"} for n in range(30))), 400)
    assert "and 20 more" in message["reason"]


async def test_a_dry_run_answers_for_each(client, store, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    asked = [{"volume": name} for name in ("/no/such", folder, str(tmp_path / "link"))]
    answer = await adopt(client, *asked, dry_run=True)
    assert answer.status_code == 200
    missing, new, double = answer.json()
    assert (missing["outcome"], missing["volume"]) == ("refused", "/no/such")
    assert missing["reason"]
    assert missing["advice"]
    assert new == {"volume": folder, "outcome": "new"}
    assert double["outcome"] == "refused"
    assert "is the same volume as" in double["reason"]
    assert store.memory.data == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"volumes": []},
        {"volumes": [{"volume": "/a"}] * 2},
        {"volumes": [{"volume": "/a", "tags": ["x"]}]},
        {"volumes": [{"volume": "/a", "tags": ["knit#id:x"]}]},
        {"volumes": [{"path": "/a"}]},
        {"volumes": [{"volume": 1}]},
        {"volumes": [{"volume": f"/{n}"} for n in range(MAX_ADOPTIONS + 1)]},
        {"volumes": [{"volume": "/a\0b"}]},
    ],
)
async def test_what_is_wrong_is_refused(client, store, body):
    await refused(client.post("/adoptions", json=body), 400)
    assert store.memory.data == {}


async def test_no_tag_passes_for_knits_own(client, store, folder):
    false = {"key": " knit#transient", "value": "failed"}
    message = await refused(adopt(client, {"volume": folder, "tags": [false]}), 400)
    assert "knit's own" in message["reason"]
    assert store.memory.data == {}


async def test_without_workers_nothing_is_adopted(client, transfers, store, folder):
    transfers.broken = EngineUnavailable()
    await refused(adopt(client, {"volume": folder}), 503)
    assert store.memory.data == {}


async def test_deletion_names_what_stays(client, folder):
    [one] = (await adopt(client, {"volume": folder})).json()
    answer = await client.delete(f"/runs/{one['data']['upstream']['run']['runId']}")
    assert answer.status_code == 204
    assert answer.headers["kept-volume"].isascii()
    assert Path(folder).is_dir()


async def test_deletion_of_knits_own_names_nothing(client, store):
    run = store.add_run()
    answer = await client.delete(f"/runs/{run.summary.run_id}")
    assert "kept-volume" not in answer.headers
