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


# ------------------------------------------------------------ options of run pods and volumes

WITH_OPTIONS = """\
image: localhost:5000/train:v1
inputs:
  - path: /in/data
    tags: ["type:dataset"]
outputs:
  - path: /out/model/
    volume: {size: 10Gi, storage_class: fast}
log: {volume: {size: 1Gi}}
pod:
  labels: {team: vision, generation: 3}
  tolerations:
    - {key: spot, effect: NoExecute, seconds: 30}
  topology_spread:
    - {topology_key: zone, max_skew: 2}
  shm_size: 1Gi
"""


def test_options_survive_the_way_there_and_back(knit):
    """Applied, shown, applied again as they are shown: nothing differs."""
    knit.write("plan.yaml", WITH_OPTIONS)
    plan = knit("plan", "apply", "plan.yaml").json
    assert plan["pod"]["labels"] == {"team": "vision", "generation": "3"}
    assert plan["pod"]["tolerations"][0]["seconds"] == 30
    assert plan["outputs"][0]["volume"] == {"storage_class": "fast", "size": "10Gi"}
    assert plan["log"]["volume"] == {"size": "1Gi"}
    assert knit("plan", "show", plan["planId"]).json["pod"] == plan["pod"]
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 0
    assert "nothing differs" in ended.err


def test_other_options_are_told_with_the_command_that_sets_them(knit):
    knit.write("plan.yaml", WITH_OPTIONS)
    plan = knit("plan", "apply", "plan.yaml").json
    changed = WITH_OPTIONS.replace("shm_size: 1Gi", "queue: q").replace("10Gi", "20Gi")
    knit.write("plan.yaml", changed)
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 1
    command = f"knit plan options --file plan.yaml {plan['planId']}"
    for line in (
        '/out/model: volume.size is "10Gi", the file says "20Gi"',
        'pod.queue is not set, the file says "q"',
        'pod.shm_size is "1Gi", the file says nothing',
        command,
    ):
        assert line in ended.err
    assert ended.err.count("knit plan options") == 1
    shown = knit(*command.split()[1:]).json
    assert shown["pod"]["queue"] == "q"
    assert knit("plan", "apply", "plan.yaml").code == 0
    shown = knit("plan", "options", "--unset", plan["planId"]).json
    assert "pod" not in shown
    assert "volume" not in shown["outputs"][0]


def test_options_come_from_one_place(knit):
    for flags in ((), ("--unset", "--file", "x")):
        assert knit("plan", "options", *flags, "11aa22bb-0000-4000-8000-333333333333").code == 2


def test_a_typing_error_deep_inside_is_told_with_what_is_near(bare_knit):
    bare_knit.write("plan.yaml", WITH_OPTIONS.replace("size: 10Gi", "sise: 10Gi"))
    ended = bare_knit("plan", "validate", "plan.yaml")
    assert "plan.yaml:7:14: unknown key 'outputs[0].volume.sise'; did you mean 'size'" in ended.err
    bare_knit.write("plan.yaml", WITH_OPTIONS.replace("effect:", "efect:"))
    assert "did you mean 'effect'" in bare_knit("plan", "validate", "plan.yaml").err
