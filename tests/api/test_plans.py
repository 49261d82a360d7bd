"""Changes of Plans and dry runs over HTTP."""

from __future__ import annotations

import json

import httpx
import pytest

from knit_workflows.contracts.trials import TrialResult
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.plans.forms import MAX_PRIORITY
from tests.api.fake_transfers import UNKNOWN
from tests.store.build import upload

PLAN = {
    "image": "localhost:30503/train:v2",
    "inputs": [{"path": "/in/a", "tags": ["k:a"]}],
    "outputs": [{"path": "/out", "tags": ["k:model"]}],
    "annotations": ["owner=alice", "owner=bob"],
    "resources": {"cpu": 2, "nvidia.com/gpu": 1},
    "service_account": "trainer",
    "priority": 5,
}
CHANGES = {
    "resources": {"set": {"cpu": "1"}},
    "annotations": {"add": ["a=b"]},
    "serviceaccount": {"service_account": "me"},
    "priority": {"priority": 1},
}


@pytest.fixture
async def plan(client: httpx.AsyncClient) -> dict[str, object]:
    answer = await client.post("/plans", json=PLAN)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def changed(client: httpx.AsyncClient, plan: dict, what: str, body: object) -> dict:
    """Sends a change twice, since the second changes nothing more; gives the Plan."""
    path = f"/plans/{plan['planId']}/{what}"
    answers = [await client.put(path, json=body), await client.put(f"{path}/", json=body)]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json() == answers[0].json()
    shown = (await client.get(f"/plans/{plan['planId']}")).json()
    assert shown == answers[0].json()
    return shown


async def refused(answering, status: int) -> dict[str, str]:
    answer = await answering
    assert answer.status_code == status, answer.text
    message = answer.json()["message"]
    assert message["reason"]
    assert message["advice"]
    return message


DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize("image", [f"train@{DIGEST}", f"localhost:5000/train:v2@{DIGEST}"])
async def test_an_image_may_be_pinned_by_its_digest(client, plan, image):
    """It is shown as it is given, and makes another Plan of what is the same but for it."""
    pinned = PLAN | {"image": image}
    first = await client.post("/plans", json=pinned)
    assert (first.status_code, first.json()["image"]) == (200, image)
    assert first.json()["planId"] != plan["planId"]
    again = await refused(client.post("/plans", json=pinned), 409)
    assert again["see"] == first.json()["planId"]
    other = await client.post("/plans", json=pinned | {"image": image.replace("0a", "0b")})
    assert other.status_code == 200
    found = await client.get("/plans", params={"image": image})
    assert [one["image"] for one in found.json()] == [image]


async def test_labels_are_whatever_kubernetes_takes(client):
    rules = ["nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB", "node_type=gpu", "dedicated="]
    answer = await client.post("/plans", json=PLAN | {"on_node": {"must": rules, "may": rules}})
    assert answer.status_code == 200
    assert sorted(answer.json()["on_node"]["must"]) == sorted(rules)


@pytest.mark.parametrize("quantity", ["512m", 0.5, "1.5", "100m"])
async def test_a_fraction_of_a_byte_is_asked_about(client, plan, quantity):
    made = await refused(
        client.post("/plans", json=PLAN | {"resources": {"memory": quantity}}), 400
    )
    path = f"/plans/{plan['planId']}/resources"
    changed = await refused(client.put(path, json={"set": {"memory": quantity}}), 400)
    assert "did you mean" in made["advice"]
    assert "did you mean" in changed["advice"]


async def test_resources(client, plan):
    """Sets beats unset; cpu and memory fall back; null is as good as nothing."""
    change = {"set": {"memory": "2048Mi", "cpu": 0.5}, "unset": ["nvidia.com/gpu", "cpu", "x"]}
    now = await changed(client, plan, "resources", change)
    assert now == plan | {"resources": {"cpu": "500m", "memory": "2Gi"}}
    now = await changed(client, plan, "resources", {"unset": ["cpu", "memory"], "set": None})
    assert now["resources"] == {"cpu": "1", "memory": "1Gi"}
    assert await changed(client, plan, "resources", {}) == now


async def test_annotations(client, plan):
    """Removals come first, then additions; keys and values are trimmed."""
    change = {"add": [" x = 1=2 ", "owner=carol"], "remove": ["owner=alice"], "remove_key": None}
    now = await changed(client, plan, "annotations", change)
    assert now == plan | {"annotations": ["owner=bob", "owner=carol", "x=1=2"]}
    change = {"add": ["owner=dan"], "remove_key": [" owner ", "none"], "remove": ["x=3"]}
    now = await changed(client, plan, "annotations", change)
    assert now["annotations"] == ["owner=dan", "x=1=2"]
    now = await changed(client, plan, "annotations", {"remove_key": ["owner", "x"]})
    assert "annotations" not in now


async def test_service_account(client, plan):
    now = await changed(client, plan, "serviceaccount", {"service_account": "other"})
    assert now == plan | {"service_account": "other"}
    for _ in range(2):
        answer = await client.delete(f"/plans/{plan['planId']}/serviceaccount")
        assert "service_account" not in answer.json()


async def test_priority(client, plan):
    """Shown unless it is 0, which is what Plans begin with; it is no part of their identity."""
    assert plan["priority"] == 5
    for number in (-MAX_PRIORITY, MAX_PRIORITY):
        now = await changed(client, plan, "priority", {"priority": number})
        assert now == plan | {"priority": number}
    now = await changed(client, plan, "priority", {"priority": 0})
    assert "priority" not in now
    again = await refused(client.post("/plans", json=PLAN | {"priority": 9}), 409)
    assert again["see"] == plan["planId"]


@pytest.mark.parametrize("what", CHANGES)
async def test_changes_of_what_is_no_plan_of_a_user_are_404(client, what):
    plans = (await client.get("/plans")).json()
    built_in = [one["planId"] for one in plans if "name" in one]
    assert built_in
    for plan_id in (UNKNOWN, "no-id", "%00", *built_in):
        await refused(client.put(f"/plans/{plan_id}/{what}", json=CHANGES[what]), 404)
    await refused(client.delete(f"/plans/{built_in[0]}/serviceaccount"), 404)
    assert (await client.get("/plans")).json() == plans


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_is_json_and_nothing_else(client, plan, what):
    path, body = f"/plans/{plan['planId']}/{what}", json.dumps(CHANGES[what]).encode()
    for media_type in ("text/plain", "application/json; charset=utf-8", ""):
        headers = {"Content-Type": media_type} if media_type else {}
        await refused(client.put(path, content=body, headers=headers), 400)
    assert (await client.get(f"/plans/{plan['planId']}")).json() == plan
    upper = {"Content-Type": "Application/JSON"}
    assert (await client.put(path, content=body, headers=upper)).status_code == 200


@pytest.mark.parametrize(
    ("what", "body", "place"),
    [
        ("resources", {"set": {"cpu": "many"}}, "set.cpu"),
        ("resources", {"set": {"cpu": True}}, "set.cpu"),
        ("resources", {"set": {"cpu": None}}, "set.cpu"),
        ("resources", {"set": {"cpu": "-1"}}, "set.cpu"),
        ("resources", {"set": {"gpu": "1"}}, "set.gpu"),
        ("resources", {"set": {"nvidia.com/gpu": "0.5"}}, "set.nvidia.com/gpu"),
        ("resources", {"set": ["cpu=1"]}, "set"),
        ("resources", {"unset": "cpu"}, "unset"),
        ("resources", {"unset": ["cpu", 1]}, "unset[1]"),
        ("resources", {"unset": ["a\0"]}, "unset[0]"),
        ("resources", {"sett": {}}, "sett"),
        ("annotations", {"add": ["none"]}, "add[0]"),
        ("annotations", {"remove": ["a=b", "none"]}, "remove[1]"),
        ("annotations", {"add": ["a" * 300 + "=b"]}, "add[0]"),
        ("annotations", {"add": {"a": "b"}}, "add"),
        ("annotations", {"remove_key": [None]}, "remove_key[0]"),
        ("annotations", {"removekey": ["a"]}, "removekey"),
        ("serviceaccount", {}, "service_account"),
        ("serviceaccount", {"service_account": ""}, "service_account"),
        ("serviceaccount", {"service_account": None}, "service_account"),
        ("serviceaccount", {"service_account": "No Name"}, "service_account"),
        ("serviceaccount", {"service_account": "a" * 254}, "service_account"),
        ("serviceaccount", {"serviceAccount": "a"}, "serviceAccount"),
        ("priority", {}, "priority"),
        ("priority", {"priority": None}, "priority"),
        ("priority", {"priority": "1"}, "priority"),
        ("priority", {"priority": 1.5}, "priority"),
        ("priority", {"priority": True}, "priority"),
        ("priority", {"priority": MAX_PRIORITY + 1}, "priority"),
        ("priority", {"priority": -(10**30)}, "priority"),
        ("priority", [1], ""),
        ("resources", None, ""),
        ("annotations", "a=b", ""),
    ],
)
async def test_what_is_no_change_is_refused_at_its_place(client, plan, what, body, place):
    """Nothing is changed then, not even the part that was right."""
    message = await refused(client.put(f"/plans/{plan['planId']}/{what}", json=body), 400)
    assert message.get("see", "") == place
    assert (await client.get(f"/plans/{plan['planId']}")).json() == plan


async def test_a_dry_run_says_which_runs_would_appear(client, store):
    ids = sorted([await upload(store, "k:a") for _ in range(3)])
    answer = await client.post("/plans?dry_run=true", json=PLAN)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "runs": 3,
        "inputs": [{"path": "/in/a", "data": 3}],
        "assignments": [{"/in/a": one} for one in ids],
    }
    assert not [one for one in (await client.get("/plans")).json() if "image" in one]


async def test_a_dry_run_gives_the_first_hundred(client, store):
    """However many there would be: it is not refused for their number, either."""
    for _ in range(11):
        await upload(store, "k:a")
    two = PLAN | {"inputs": [{"path": f"/{name}", "tags": ["k:a"]} for name in "ab"]}
    answer = (await client.post("/plans?dry_run=true", json=two)).json()
    assert answer["runs"] == 121
    assert len(answer["assignments"]) == 100
    assert len({tuple(one.items()) for one in answer["assignments"]}) == 100


async def test_a_dry_run_refuses_what_registering_would_refuse(client, plan):
    path = "/plans?dry_run=true"
    assert (await refused(client.post(path, json=PLAN), 409))["see"] == plan["planId"]
    looping = PLAN | {"outputs": [{"path": "/out", "tags": ["k:a"]}]}
    assert "feed itself" in (await refused(client.post(path, json=looping), 409))["reason"]
    await refused(client.post(path, json=PLAN | {"inputs": []}), 400)
    await refused(client.post("/plans?dry_run=maybe", json=PLAN), 400)
    await refused(client.post(path, content=b"{}"), 400)


async def test_too_many_runs_point_at_the_confirmation(client, deps, store):
    """So that a client can tell this conflict from others without reading the sentence."""
    await upload(store, "k:a")
    object.__setattr__(deps, "new_runs", 0)
    message = await refused(client.post("/plans", json=PLAN), 409)
    assert message["see"] == "confirm=true"
    assert (await client.post(f"/plans?{message['see']}", json=PLAN)).status_code == 200


async def test_keys_that_are_not_left_to_plans_are_refused(client, deps, plan):
    """When it is registered, tried or changed; what an installation leaves to them is fine."""
    object.__setattr__(deps, "plan_pod_keys", ("labels",))
    queued = PLAN | {"outputs": [{"path": "/other", "tags": []}], "pod": {"queue": "q"}}
    for path in ("/plans", "/plans?dry_run=true", "/trials"):
        message = await refused(client.post(path, json=queued), 400)
        assert (message["reason"], message["see"]) == (
            "Plans may not have pod.queue here", "pod.queue",
        )  # fmt: skip
        assert "leaves only labels to Plans" in message["advice"]
    options = f"/plans/{plan['planId']}/options"
    await refused(client.put(options, json={"pod": {"queue": "q"}}), 400)
    fine = await client.put(options, json={"pod": {"labels": {"a": "b"}}})
    assert fine.json()["pod"] == {"labels": {"a": "b"}}
    object.__setattr__(deps, "plan_pod_keys", ())
    message = await refused(client.put(options, json={"pod": {"labels": {"a": "b"}}}), 400)
    assert "leaves none to Plans" in message["advice"]


# ---------------------------------------------------------------- trials


async def test_a_trial_says_what_the_back_end_would_and_registers_nothing(client, transfers):
    answer = await client.post("/trials", json=PLAN)
    assert answer.status_code == 200, answer.text
    assert answer.json()["refusals"] == []
    assert answer.json()["unchecked"] != []
    transfers.trial = TrialResult(refusals=["no such account"], warnings=["old"])
    answer = await client.post("/trials", json=PLAN)
    assert answer.json() == {"refusals": ["no such account"], "warnings": ["old"], "unchecked": []}
    assert [one["planId"] for one in (await client.get("/plans")).json() if "image" in one] == []


async def test_a_trial_refuses_a_plan_that_is_none_by_its_place(client):
    message = await refused(client.post("/trials", json=PLAN | {"image": ""}), 400)
    assert message["see"] == "image"


async def test_a_trial_needs_a_worker(client, transfers):
    transfers.broken = EngineUnavailable("no worker is up", advice="start one")
    await refused(client.post("/trials", json=PLAN), 503)


# ---------------------------------------------------------------- options

POD = {"labels": {"team": "x"}, "tolerations": [{"key": "spot"}], "shm_size": "1Gi"}
VOLUME = {"storage_class": "fast", "size": "10Gi"}


async def test_options_are_shown_as_they_were_given_and_can_be_given_again(client):
    """Whatever a server shows of a Plan is, as a document, the same Plan."""
    document = PLAN | {"pod": POD, "outputs": [PLAN["outputs"][0] | {"volume": VOLUME}]}
    answer = await client.post("/plans", json=document)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert shown["pod"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert shown["pod"]["shm_size"] == "1Gi"
    assert shown["outputs"][0]["volume"] == VOLUME
    again = document | {"pod": shown["pod"]}
    assert (await refused(client.post("/plans", json=again), 409))["see"] == shown["planId"]


async def test_options_are_replaced_as_a_whole(client, plan):
    assert "pod" not in plan
    assert "volume" not in plan["outputs"][0]
    shown = await changed(client, plan, "options", {"pod": POD, "volumes": {"/out": VOLUME}})
    assert shown["pod"]["labels"] == {"team": "x"}
    assert shown["outputs"][0]["volume"] == VOLUME
    shown = await changed(client, plan, "options", {"pod": {"queue": "q"}})
    assert shown["pod"] == {"queue": "q"}
    assert await changed(client, plan, "options", {}) == plan


@pytest.mark.parametrize(
    ("body", "see"),
    [
        ({"pod": {"labels": {"knit/x": "y"}}}, "pod.labels.knit/x"),
        ({"volumes": {"/other": {"size": "1Gi"}}}, "volumes./other"),
        ({"volumes": {"/in/a": {"size": "1Gi"}}}, "volumes./in/a"),
        ({"volumes": {"/log": {"size": "1Gi"}}}, "volumes./log"),
        ({"volumes": []}, "volumes"),
        ({"pods": {}}, "pods"),
    ],
)
async def test_options_of_nothing_are_refused(client, plan, body, see):
    path = f"/plans/{plan['planId']}/options"
    assert (await refused(client.put(path, json=body), 400))["see"] == see
    await refused(client.put(f"/plans/{UNKNOWN}/options", json={}), 404)
