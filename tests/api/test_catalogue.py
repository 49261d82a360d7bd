"""Data, Plans and Runs: filters, wire shapes, and the statuses of every refusal."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from unittest.mock import ANY

import pytest

from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.plans.model import UPLOADED, Annotation
from knit_workflows.domain.plans.options import PlanOptions, PodOptions
from knit_workflows.domain.runs.run import Exit, RunStatus, Used, Waiting, WaitKind
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import VolumeOptions
from tests.memory_store import new_id

S = RunStatus
MORE = {"generation", "priority", "used", "waiting", "notes"}
"""What a Run of ours says beyond the contract."""
JSON = {"Content-Type": "application/json"}
PLAN = {
    "image": "localhost:30503/train:v2",
    "annotations": ["owner=alice"],
    "args": ["--epochs", "3"],
    "inputs": [{"path": "/in/b", "tags": ["type:b"]}, {"path": "/in/a", "tags": ["type:a"]}],
    "outputs": [{"path": "/out", "tags": ["type:model"]}],
    "log": {"tags": ["type:log"]},
    "on_node": {"must": ["accelerator=gpu"], "may": ["vram=large"]},
    "resources": {"cpu": 2},
}


async def refused(answering, status: int) -> dict[str, str]:
    answer = await answering
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.endswith("\n")
    message = answer.json()["message"]
    assert message["reason"]
    assert message["advice"]
    return message


# --- filters ---


async def test_the_filters_of_data(client, store):
    query = "tag=type:a&tag=%20k%20:%20v%20&tag=type:a&tag=knit%23timestamp:2026-01-02T03:04:05Z"
    query += "&since=2026-01-02T12:00:00.5%2B09:00&duration=1h30m"
    assert (await client.get(f"/data?{query}")).json() == []
    (asked,) = store.memory.asked
    assert asked.tags == (
        Tag("type", "a"),
        Tag("k", "v"),
        Tag("knit#timestamp", "2026-01-02T03:04:05Z"),
    )
    assert asked.since == datetime(2026, 1, 2, 3, 0, 0, 500_000, UTC)
    assert asked.until == datetime(2026, 1, 2, 4, 30, 0, 500_000, UTC)


@pytest.mark.parametrize("path", ["/data", "/runs"])
@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday", "since=2026-01-02", "since=2026-01-02T03:04:05",
        "since=2026-01-02T03:04:05+00:00", "since=2026-02-30T00:00:00Z",
        "since=0001-01-01T00:00:00%2B09:00", "duration=1h",
        "since=2026-01-02T03:04:05Z&duration=1", "since=2026-01-02T03:04:05Z&duration=1d",
        "since=9999-12-31T23:59:59Z&duration=1h",
    ],
)  # fmt: skip
async def test_windows_that_are_none(client, store, path, query):
    await refused(client.get(f"{path}?{query}"), 400)
    assert not store.memory.asked


@pytest.mark.parametrize("tag", ["x", "", "a%0Ab:c", "knit%23timestamp:now"])
async def test_data_tags_that_are_none(client, tag):
    await refused(client.get(f"/data?tag={tag}"), 400)


async def test_the_filters_of_plans(client, store):
    query = "active=false&image=localhost:30503/a/b:v1&in_tag=a:1&in_tag=knit%23id:x&out_tag=b:2"
    assert (await client.get(f"/plans/?{query}")).json() == []
    (asked,) = store.memory.asked
    assert (asked.active, asked.repository, asked.image_tag) == (False, "localhost:30503/a/b", "v1")
    assert asked.input_tags == (Tag("a", "1"), Tag("knit#id", "x"))
    assert asked.output_tags == (Tag("b", "2"),)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("localhost:30503/train", ("localhost:30503/train", None, None)),
        ("train:v2", ("train", "v2", None)),
        ("train", ("train", None, None)),
        ("train:", ("train", None, None)),
        ("train@sha256:ab", ("train", None, "sha256:ab")),
        ("a:1/train:v2@sha256:ab", ("a:1/train", "v2", "sha256:ab")),
        ("", (None, None, None)),
    ],
)
async def test_the_port_of_a_registry_is_no_image_tag(client, store, image, wanted):
    assert (await client.get("/plans", params={"image": image})).status_code == 200
    asked = store.memory.asked[0]
    assert (asked.repository, asked.image_tag, asked.image_digest) == wanted


@pytest.mark.parametrize(
    "query", ["active=yes", "active=True", "image=:v1", "image=host/:v1", "in_tag=x", "out_tag=x"]
)
async def test_plan_filters_that_are_none(client, store, query):
    await refused(client.get(f"/plans?{query}"), 400)
    assert not store.memory.asked


async def test_the_filters_of_runs(client, store):
    ids = [new_id() for _ in range(4)]
    query = f"plan={ids[0]},{ids[1].upper()}&knitIdInput={ids[2]}&knitIdOutput={ids[3]},&status="
    query += "done,%20failed,&since=2026-01-02T03:04:05Z"
    assert (await client.get(f"/runs?{query}")).json() == []
    (asked,) = store.memory.asked
    assert asked.plan_ids == {ids[0], ids[1]}
    assert asked.input_knit_ids == {ids[2]}
    assert asked.output_knit_ids == {ids[3]}
    assert asked.statuses == {S.DONE, S.FAILED}
    assert (asked.since, asked.until) == (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None)


@pytest.mark.parametrize("status", ["invalidated", "Done", "done,ended", "%00"])
async def test_statuses_that_cannot_be_looked_for(client, store, status):
    await refused(client.get(f"/runs?status={status}"), 400)
    assert not store.memory.asked


async def test_what_can_be_no_id_matches_nothing(client, store):
    store.add_run()
    assert (await client.get("/runs?plan=%00,x")).json() == []
    assert len((await client.get("/runs?plan=,")).json()) == 1


# --- wire shapes ---


async def test_the_wire_shape_of_a_data(client, store):
    run = store.add_run(S.DONE, log=True)
    found = {one["knitId"]: one for one in (await client.get("/data")).json()}
    output = found[run.outputs[0].knit_id]
    at = format_instant(run.summary.updated_at)
    summary = {
        "runId": run.summary.run_id,
        "status": "done",
        "updatedAt": at,
        "exit": {"code": 0, "message": ""},
        "plan": {"planId": run.summary.plan.plan_id, "image": "example/work:v1"},
    }
    assert output == {
        "knitId": run.outputs[0].knit_id,
        "tags": [f"knit#id:{run.outputs[0].knit_id}", f"knit#timestamp:{at}"],
        "upstream": {"mountpoint": {"path": "/out", "tags": []}, "run": summary},
        "downstreams": [],
        "nomination": [],
    }
    log = {"log": {"tags": ["type:log"]}, "run": summary}
    assert found[run.log.knit_id]["upstream"] == log


async def test_an_upload_is_of_a_plan_with_a_name(client, transfers):
    knit_id = (await transfers.open_upload()).knit_id
    upstream = (await client.get(f"/data/{knit_id}/metadata")).json()["upstream"]
    assert upstream["run"]["plan"] == {"planId": ANY, "name": UPLOADED}
    assert upstream["mountpoint"] == {"path": "/upload", "tags": []}


async def test_the_wire_shape_of_a_run(client, store):
    given = {"image": "r/x:v1", "entrypoint": ("sh",), "annotations": (Annotation("k", "v"),)}
    run = store.add_run(S.RUNNING, log=True, **given)
    plan = run.summary.plan
    run_id = run.summary.run_id
    wanted = {
        "runId": run_id,
        "status": "running",
        "updatedAt": format_instant(run.summary.updated_at),
        "plan": {
            "planId": plan.plan_id, "image": "r/x:v1", "entrypoint": ["sh"], "annotations": ["k=v"],
        },
        "inputs": [],
        "outputs": [{"path": "/out", "tags": [], "knitId": run.outputs[0].knit_id}],
        "log": {"tags": ["type:log"], "knitId": run.log.knit_id},
        "generation": 1,
    }  # fmt: skip
    assert (await client.get(f"/runs/{run_id}")).json() == wanted
    assert (await client.get(f"/runs/{run_id}/")).json() == wanted
    assert (await client.get("/runs")).json() == [wanted]
    bare = store.add_run(S.DONE)
    assert (await client.get(f"/runs/{bare.summary.run_id}")).json()["log"] is None


async def test_what_a_run_used_and_why_it_waits(client, store):
    """Additions to the contract: absent unless there is something to say."""
    run_id = store.add_run(S.RUNNING).summary.run_id
    row = store.memory.runs[run_id]

    async def shown(**more) -> dict:
        store.memory.runs[run_id] = dataclasses.replace(row, **more)
        answer = (await client.get(f"/runs/{run_id}")).json()
        return {key: answer[key] for key in answer if key in MORE}

    assert await shown() == {"generation": 1}
    assert await shown(generation=3, priority=-2) == {"generation": 3, "priority": -2}
    next_one = Waiting(1, "1st in queue, limit of 2 Runs under way reached")
    assert (await shown(waiting=next_one))["waiting"] == {
        "place": 1, "reason": next_one.reason, "kind": "queue",
    }  # fmt: skip
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    stuck = Waiting(
        None, "no such image", WaitKind.IMAGE, "ErrImagePull", at, at + timedelta(1), "tried again"
    )
    assert (await shown(waiting=stuck))["waiting"] == {
        "reason": "no such image", "kind": "image", "code": "ErrImagePull",
        "since": "2026-01-02T03:04:05+00:00", "until": "2026-01-03T03:04:05+00:00",
        "outlook": "tried again",
    }  # fmt: skip
    bare = Used({"cpu": "1"}, None, None)
    assert (await shown(used=bare))["used"] == {"resources": {"cpu": "1"}}
    full = Used({"cpu": "500m"}, "trainer", "sha256:abc")
    assert (await shown(used=full))["used"] == {
        "resources": {"cpu": "500m"}, "serviceAccount": "trainer", "imageDigest": "sha256:abc",
    }  # fmt: skip
    (listed,) = (await client.get("/runs")).json()
    assert listed["used"]["imageDigest"] == "sha256:abc"
    options = PlanOptions(PodOptions(queue="q"), {"/out": VolumeOptions("fast", size="5Gi")})
    assert (await shown(used=dataclasses.replace(bare, options=options)))["used"] == {
        "resources": {"cpu": "1"}, "pod": {"queue": "q"},
        "volumes": {"/out": {"storage_class": "fast", "size": "5Gi"}},
    }  # fmt: skip
    told = ("output /out: 1 socket is not kept: worker.sock",)
    assert (await shown(notes=told))["notes"] == list(told)


async def test_the_history_of_a_run(client, store):
    run_id = store.add_run(S.ABORTING).summary.run_id
    store.set_status(run_id, S.FAILED, Exit(253, "aborted by user"))
    first, *_, last = [format_instant(one.at) for one in store.memory.runs[run_id].events]
    events = (await client.get(f"/runs/{run_id}/events")).json()
    assert events[0] == {
        "at": first, "generation": 1, "to": "waiting", "cause": "projected", "actor": "knit",
    }  # fmt: skip
    assert events[-1] == {
        "at": last, "generation": 1, "from": "aborting", "to": "failed", "cause": "a test",
        "actor": "knit", "exit": {"code": 253, "message": "aborted by user"},
    }  # fmt: skip
    assert len(events) == 3


async def test_where_the_time_of_a_run_went(client, store):
    run_id = store.add_run(S.COMPLETING).summary.run_id
    running = (await client.get(f"/runs/{run_id}/timing")).json()
    assert running["status"] == "completing"
    store.set_status(run_id, S.DONE)
    events = store.memory.runs[run_id].events
    found = (await client.get(f"/runs/{run_id}/timing")).json()
    assert (found["generation"], found["status"]) == (1, "done")
    assert found["milliseconds"] == sum(one["milliseconds"] for one in found["phases"])
    taken = (events[-1].at - events[0].at).total_seconds() * 1000
    assert abs(found["milliseconds"] - taken) <= len(found["phases"])


async def test_registering_a_plan(client, store):
    answer = await client.post("/plans", json=PLAN)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan == {
        "planId": plan["planId"],
        "image": "localhost:30503/train:v2",
        "args": ["--epochs", "3"],
        "annotations": ["owner=alice"],
        "inputs": [
            {"path": "/in/a", "tags": ["type:a"], "upstreams": []},
            {"path": "/in/b", "tags": ["type:b"], "upstreams": []},
        ],
        "outputs": [{"path": "/out", "tags": ["type:model"], "downstreams": []}],
        "log": {"tags": ["type:log"], "downstreams": []},
        "active": True,
        "on_node": {"may": ["vram=large"], "must": ["accelerator=gpu"]},
        "resources": {"cpu": "2", "memory": "1Gi"},
    }
    assert (await client.get(f"/plans/{plan['planId']}")).json() == plan
    message = await refused(client.post("/plans", json=PLAN), 409)
    assert message["see"] == plan["planId"]
    for method, active in (("DELETE", False), ("DELETE", False), ("PUT", True)):
        answer = await client.request(method, f"/plans/{plan['planId']}/active/")
        assert answer.json() == plan | {"active": active}


async def test_a_plan_that_creates_too_many_runs_must_be_confirmed(client, deps, store):
    object.__setattr__(deps, "new_runs", 0)
    for tag in ("type:a", "type:b"):
        store.add_run(outputs={"/out": tag})
    await refused(client.post("/plans", json=PLAN), 409)
    assert (await client.post("/plans?confirm=true", json=PLAN)).status_code == 200
    await refused(client.post("/plans?confirm=maybe", json=PLAN), 400)


# --- refusals ---


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/json; charset=utf-8", "application/yaml"]
)
async def test_a_plan_is_json_and_nothing_else(client, store, media_type):
    headers = {"Content-Type": media_type} if media_type else {}
    body = json.dumps(PLAN).encode()
    await refused(client.post("/plans", content=body, headers=headers), 400)
    assert not store.memory.identities
    upper = {"Content-Type": "Application/JSON"}
    assert (await client.post("/plans", content=body, headers=upper)).status_code == 200


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"image": "x",\n  "inputs": oops}', "line 2 column 13"),
        (b"", "line 1"),
        (b'{"a": NaN}', "line 1"),
        (b'{"a": "\xff"}', "line 1"),
        (b'{"a": "\\ud800"}', "line 1"),
        (b"[" * 100_000, "line 1"),
        (b"9" * 10_000, ""),
        (b"[]", ""),
        (b'{"image": "x\\u0000"}', "image"),
        (b'{"imge": "x"}', "imge"),
    ],
)
async def test_what_is_no_plan_is_refused_with_its_place(client, store, body, place):
    message = await refused(client.post("/plans", content=body, headers=JSON), 400)
    assert place in message["reason"]
    assert not store.memory.identities


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_json_is_bounded(client, announced):
    async def pieces():
        for _ in range(100):
            yield bytes(100_000)

    content = bytes(10_000_000) if announced else pieces()
    await refused(client.post("/plans", content=content, headers=JSON), 413)


async def test_changing_tags(client, store):
    knit_id = store.add_run().outputs[0].knit_id
    body = {"add": ["a:1", {"key": "b", "value": "2:3"}], "remove": None}
    answer = await client.put(f"/data/{knit_id}", json=body)
    assert answer.status_code == 200
    assert answer.json()["tags"][:3] == ["a:1", "b:2:3", f"knit#id:{knit_id}"]
    body = {"remove": ["a:1", "a:9"], "remove_key": ["b", "c"]}
    for _ in range(2):
        answer = await client.put(f"/data/{knit_id}/", json=body)
        assert answer.json()["tags"][0] == f"knit#id:{knit_id}"


@pytest.mark.parametrize(
    "body",
    [
        {"add": ["knit#id:1"]}, {"remove": ["knit#timestamp:x"]}, {"remove_key": ["knit#any"]},
        {"add": ["x"]}, {"add": "a:b"}, {"remove": [1]}, {"added": ["a:b"]}, [], None,
        {"add": ["a:b\u0007"]}, {"add": ["a" * 2000 + ":b"]}, {"remove_key": ["a\u0000"]},
        {"add": [{"key": " knit#transient", "value": "failed"}]},
        {"add": [{"key": "\u3000knit#x\xa0", "value": ""}]},
    ],
)  # fmt: skip
async def test_tag_changes_that_are_none(client, store, body):
    knit_id = store.add_run().outputs[0].knit_id
    await refused(client.put(f"/data/{knit_id}", json=body), 400)
    assert not store.memory.data[knit_id].tags


@pytest.mark.parametrize("how", ["remove", "remove_key"])
async def test_a_tag_that_passes_for_knits_own_can_be_removed(client, store, how):
    """One that was given before they were refused, or is from a backup of Knitfab."""
    knit_id = store.add_run().outputs[0].knit_id
    false = Tag(" knit#transient", "failed")
    store.memory.data[knit_id].tags |= {false, Tag("a", "b")}
    object_form = {"key": false.key, "value": false.value}
    body = {how: [object_form if how == "remove" else false.key]}
    answer = await client.put(f"/data/{knit_id}", json=body)
    assert answer.status_code == 200
    assert store.memory.data[knit_id].tags == {Tag("a", "b")}


@pytest.mark.parametrize("body", [{"add": ["a:b"]}, {"remove": ["a:b"]}, {}])
async def test_changing_tags_of_unknown_data_is_404(client, body):
    await refused(client.put(f"/data/{new_id()}", json=body), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/plans/{}"), ("PUT", "/plans/{}/active"), ("DELETE", "/plans/{}/active"),
        ("GET", "/runs/{}"), ("GET", "/runs/{}/events"), ("GET", "/runs/{}/timing"),
        ("GET", "/runs/{}/log"),
        ("PUT", "/runs/{}/abort"), ("PUT", "/runs/{}/tearoff"), ("GET", "/data/{}"),
    ],
)  # fmt: skip
async def test_unknown_ids_are_404(client, method, path):
    for one in (new_id(), "no-id", "%00", "%F0%9F"):
        await refused(client.request(method, path.format(one)), 404)


# --- stopping ---

ABORT = {
    S.DEACTIVATED: 200, S.WAITING: 200, S.READY: 200, S.STARTING: 200, S.RUNNING: 200,
    S.ABORTING: 200, S.COMPLETING: 409, S.DONE: 409, S.FAILED: 409, S.INVALIDATED: 409,
}  # fmt: skip
TEAROFF = {
    S.DEACTIVATED: 409, S.WAITING: 409, S.READY: 200, S.STARTING: 200, S.RUNNING: 200,
    S.ABORTING: 409, S.COMPLETING: 200, S.DONE: 409, S.FAILED: 409, S.INVALIDATED: 409,
}  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "status", "wanted"),
    [("abort", *row) for row in ABORT.items()] + [("tearoff", *row) for row in TEAROFF.items()],
)
async def test_the_stop_matrix(client, store, verb, status, wanted):
    run_id = store.add_run(status).summary.run_id
    answer = await client.put(f"/runs/{run_id}/{verb}")
    assert answer.status_code == wanted
    if wanted == 409:
        assert answer.json()["message"]["see"] == run_id
    else:
        target = "aborting" if verb == "abort" else "completing"
        assert answer.json()["status"] == target
