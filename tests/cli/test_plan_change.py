"""`knit plan resource`, `annotate`, `serviceaccount` and `priority`."""

from __future__ import annotations

import json

import pytest

PLAN = """\
image: train:v1
inputs: [{path: /in, tags: ["type:a"]}]
resources: {cpu: 2}
annotations: [owner=alice, owner=bob]
"""


@pytest.fixture
def plan_id(knit, api) -> str:
    knit.write("plan.yaml", PLAN)
    found = knit("plan", "apply", "plan.yaml").json["planId"]
    api.requests.clear()
    return found


def sent(api) -> object:
    """What the only request carried."""
    (request,) = api.requests
    return json.loads(request.content) if request.content else None


def test_resource_sets_and_unsets_in_one_request(knit, api, plan_id):
    """The contract has two spaces and no line end here."""
    ended = knit("plan", "resource", "-s", "cpu=500m", plan_id, "--set", "a.b/gpu=1", "-u=memory")
    assert sent(api) == {"set": {"cpu": "500m", "a.b/gpu": "1"}, "unset": ["memory"]}
    assert ended.json["resources"] == {"cpu": "500m", "memory": "1Gi", "a.b/gpu": "1"}
    assert ended.out.decode() == json.dumps(ended.json, indent=2)
    assert api.asked() == [f"PUT /plans/{plan_id}/resources"]


def test_resource_without_a_flag_does_nothing(knit, api, plan_id):
    ended = knit("plan", "resource", plan_id)
    assert (ended.code, ended.out, api.requests) == (0, b"", [])
    assert "nothing to do" in ended.err


@pytest.mark.parametrize("text", ["cpu", "cpu=1=2", "=1", "cpu=", "cpu=many", "cpu=1 Gi"])
def test_what_is_no_quantity_of_a_type_is_refused(knit, api, plan_id, text):
    ended = knit("plan", "resource", plan_id, "--set", text)
    assert (ended.code, ended.out, api.requests) == (1, b"", [])
    assert "TYPE=QUANTITY" in ended.err


def test_annotate_removes_and_adds_in_one_request(knit, api, plan_id):
    ended = knit(
        *("plan", "annotate", plan_id, "--add", " x = 1=2 ", "--add", "owner=carol"),
        *("--remove", "owner=alice", "--remove-key", " none "),
    )
    assert sent(api) == {
        "add": ["x=1=2", "owner=carol"],
        "remove": ["owner=alice"],
        "remove_key": ["none"],
    }
    assert ended.json["annotations"] == ["owner=bob", "owner=carol", "x=1=2"]


@pytest.mark.parametrize("flag", ["--add", "--remove"])
def test_an_annotation_without_a_value_is_wrong_usage(knit, api, plan_id, flag):
    ended = knit("plan", "annotate", plan_id, flag, "none")
    assert (ended.code, ended.out, api.requests) == (2, b"", [])
    assert "KEY=VALUE" in ended.err


def test_service_account_is_set_and_unset(knit, api, plan_id):
    assert knit("plan", "serviceaccount", plan_id, "--set", "me").json["service_account"] == "me"
    assert "service_account" not in knit("plan", "serviceaccount", "--unset", plan_id).json
    path = f"/plans/{plan_id}/serviceaccount"
    assert api.asked() == [f"PUT {path}", f"DELETE {path}"]


@pytest.mark.parametrize("flags", [[], ["--set", "me", "--unset"]])
def test_service_account_takes_exactly_one_flag(knit, api, plan_id, flags):
    ended = knit("plan", "serviceaccount", plan_id, *flags)
    assert (ended.code, ended.out, api.requests) == (2, b"", [])


@pytest.mark.parametrize("number", [-1000, -5, 0, 1000])
def test_a_priority_may_be_negative(knit, api, plan_id, number):
    ended = knit("plan", "priority", plan_id, str(number))
    assert sent(api) == {"priority": number}
    assert ended.json.get("priority", 0) == number


@pytest.mark.parametrize("number", ["1001", "-1001", "high", "1.5", "--high"])
def test_what_is_no_priority_is_wrong_usage(knit, api, plan_id, number):
    ended = knit("plan", "priority", plan_id, number)
    assert (ended.code, ended.out, api.requests) == (2, b"", [])


@pytest.mark.parametrize(
    "words",
    [
        ["resource", "nothing", "--set", "cpu=1"],
        ["annotate", "nothing"],
        ["serviceaccount", "nothing", "--unset"],
        ["priority", "nothing", "1"],
    ],
)
def test_a_plan_that_is_not_there(knit, words):
    ended = knit("plan", *words)
    assert (ended.code, ended.out) == (1, b"")
    assert "Plan nothing" in ended.err
