"""The wire types: exactly the JSON of the contract, in and out."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from knit_workflows.wire.base import to_wire
from knit_workflows.wire.data import Data, DataDownstream, DataUpstream, Nomination
from knit_workflows.wire.errors import ErrorBody, ErrorDetail
from knit_workflows.wire.plans import (
    AnnotationsChange,
    LogPoint,
    Mountpoint,
    OnNode,
    Plan,
    PlanDownstream,
    PlanInput,
    PlanLog,
    PlanOutput,
    PlanSpec,
    PlanSummary,
    PlanUpstream,
    ResourcesChange,
    ServiceAccountChange,
)
from knit_workflows.wire.runs import Assignment, Exit, LogAssignment, Run, RunSummary
from knit_workflows.wire.tags import Tag, TagChange
from knit_workflows.wire.times import WireTime, parse_duration

# A loaded machine is slow, which is not a property of the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

RESPONSES = [Data, Plan, Run, ErrorBody]
REQUESTS = [TagChange, PlanSpec, ResourcesChange, AnnotationsChange, ServiceAccountChange]

SUMMARY = PlanSummary(plan_id="p", image="repo:v1")
TAG = Tag(key="type", value="dataset")
WHEN = datetime(2025, 2, 1, 10, 0, 3, 120_000, tzinfo=UTC)


# ------------------------------------------------------------ responses


def test_a_run_in_full():
    run = Run(
        run_id="r",
        status="failed",
        updated_at=WHEN,
        exit=Exit(code=1, message="(container main) Error"),
        plan=PlanSummary(
            plan_id="p", image="train:v2", args=["--epochs", "3"], annotations=["owner=alice"]
        ),
        inputs=[Assignment(path="/in/data", tags=[TAG], knit_id="11aa")],
        outputs=[Assignment(path="/out/model", tags=[], knit_id="")],
        log=LogAssignment(tags=[Tag.parse("type:log")], knit_id="33cc"),
    )
    assert to_wire(run) == {
        "runId": "r",
        "status": "failed",
        "updatedAt": "2025-02-01T10:00:03.12+00:00",
        "exit": {"code": 1, "message": "(container main) Error"},
        "plan": {
            "planId": "p",
            "image": "train:v2",
            "args": ["--epochs", "3"],
            "annotations": ["owner=alice"],
        },
        "inputs": [{"path": "/in/data", "tags": ["type:dataset"], "knitId": "11aa"}],
        "outputs": [{"path": "/out/model", "tags": [], "knitId": ""}],
        "log": {"tags": ["type:log"], "knitId": "33cc"},
    }


def test_a_run_without_log_says_null_and_without_exit_says_nothing():
    run = Run(run_id="r", status="waiting", updated_at=WHEN, plan=SUMMARY, inputs=[], outputs=[])
    wire = to_wire(run)
    assert wire["log"] is None
    assert "exit" not in wire


def test_an_exit_of_zero_is_shown():
    summary = RunSummary(
        run_id="r", status="done", updated_at=WHEN, exit=Exit(code=0, message=""), plan=SUMMARY
    )
    assert to_wire(summary)["exit"] == {"code": 0, "message": ""}


def test_a_plan_in_full():
    plan = Plan(
        plan_id="p",
        image="repo:v1",
        entrypoint=["python"],
        inputs=[
            PlanInput(
                path="/in",
                tags=[TAG],
                upstreams=[
                    PlanUpstream(plan=SUMMARY, mountpoint=Mountpoint(path="/out", tags=[])),
                    PlanUpstream(plan=SUMMARY, log=LogPoint(tags=[])),
                ],
            )
        ],
        outputs=[
            PlanOutput(
                path="/out",
                tags=[],
                downstreams=[
                    PlanDownstream(plan=SUMMARY, mountpoint=Mountpoint(path="/in", tags=[]))
                ],
            )
        ],
        log=PlanLog(tags=[], downstreams=[]),
        active=False,
        on_node=OnNode(must=["accelerator=gpu"]),
        resources={"cpu": "1"},
        service_account="me",
    )
    summary = {"planId": "p", "image": "repo:v1"}
    assert to_wire(plan) == {
        **summary,
        "entrypoint": ["python"],
        "inputs": [
            {
                "path": "/in",
                "tags": ["type:dataset"],
                "upstreams": [
                    {"plan": summary, "mountpoint": {"path": "/out", "tags": []}},
                    {"plan": summary, "log": {"tags": []}},
                ],
            }
        ],
        "outputs": [
            {
                "path": "/out",
                "tags": [],
                "downstreams": [{"plan": summary, "mountpoint": {"path": "/in", "tags": []}}],
            }
        ],
        "log": {"tags": [], "downstreams": []},
        "active": False,
        "on_node": {"must": ["accelerator=gpu"]},
        "resources": {"cpu": "1"},
        "service_account": "me",
    }


@pytest.mark.parametrize("on_node", [None, OnNode()])
def test_optional_keys_of_a_plan_are_left_out(on_node):
    plan = Plan(
        plan_id="p",
        name="knit#uploaded",
        inputs=[],
        outputs=[],
        active=True,
        on_node=on_node,
        service_account="",
    )
    assert to_wire(plan) == {
        "planId": "p",
        "name": "knit#uploaded",
        "inputs": [],
        "outputs": [],
        "active": True,
    }


def test_a_data_in_full():
    run = RunSummary(run_id="r", status="done", updated_at=WHEN, plan=SUMMARY)
    data = Data(
        knit_id="d",
        tags=[Tag(key="knit#id", value="d"), TAG],
        upstream=DataUpstream(log=LogPoint(tags=[]), run=run),
        downstreams=[DataDownstream(mountpoint=Mountpoint(path="/in", tags=[]), run=run)],
        nomination=[Nomination(path="/in", tags=[TAG], plan=SUMMARY)],
    )
    summary = {"planId": "p", "image": "repo:v1"}
    run_wire = {
        "runId": "r",
        "status": "done",
        "updatedAt": "2025-02-01T10:00:03.12+00:00",
        "plan": summary,
    }
    assert to_wire(data) == {
        "knitId": "d",
        "tags": ["knit#id:d", "type:dataset"],
        "upstream": {"log": {"tags": []}, "run": run_wire},
        "downstreams": [{"mountpoint": {"path": "/in", "tags": []}, "run": run_wire}],
        "nomination": [{"path": "/in", "tags": ["type:dataset"], "plan": summary}],
    }
    assert Data.model_validate(to_wire(data)) == data


def test_an_error_leaves_out_what_it_does_not_say():
    assert to_wire(ErrorBody(message=ErrorDetail(reason="why", advice="", see=None))) == {
        "message": {"reason": "why"}
    }


@pytest.mark.parametrize("shape", RESPONSES)
def test_every_way_to_serialize_gives_the_wire_json(shape):
    """FastAPI, `model_dump` and `to_wire` may not differ: names and omissions are in the type."""
    body = {"message": {"reason": "x"}}
    examples = {
        Data: {
            "knitId": "d",
            "tags": [],
            "upstream": {"run": _run_wire()},
            "downstreams": [],
            "nomination": [],
        },
        Plan: {"planId": "p", "inputs": [], "outputs": [], "active": True},
        Run: {**_run_wire(), "inputs": [], "outputs": [], "log": None},
        ErrorBody: body,
    }
    value = shape.model_validate(examples[shape])
    assert to_wire(value) == examples[shape]
    assert to_wire([value, value]) == [examples[shape]] * 2
    assert to_wire({"one": value}) == {"one": examples[shape]}
    assert value.model_dump(mode="json") == examples[shape]
    assert json.loads(value.model_dump_json()) == examples[shape]
    assert TypeAdapter(shape).dump_python(value, mode="json") == examples[shape]


def _run_wire():
    return {
        "runId": "r",
        "status": "done",
        "updatedAt": "2025-02-01T10:00:03+00:00",
        "plan": {"planId": "p", "image": "a:b"},
    }


def test_keys_of_a_newer_server_are_kept():
    summary = PlanSummary.model_validate({"planId": "p", "image": "a:b", "newer": {"x": [1]}})
    assert to_wire(summary) == {"planId": "p", "image": "a:b", "newer": {"x": [1]}}


def test_values_are_frozen():
    with pytest.raises(ValidationError):
        SUMMARY.plan_id = "other"  # type: ignore[misc]


# ------------------------------------------------------------ requests


@pytest.mark.parametrize("shape", REQUESTS)
def test_an_unknown_key_in_a_request_is_refused(shape):
    with pytest.raises(ValidationError, match="extra_forbidden"):
        shape.model_validate({"unknown_key": 1})


@pytest.mark.parametrize(
    "place", ["inputs", "outputs", "log", "on_node"], ids=lambda place: f"in {place}"
)
def test_an_unknown_key_inside_a_plan_is_refused(place):
    inner = {"path": "/x", "tags": ["a:b"], "upstreams": []}
    value = {"inputs": [inner], "outputs": [inner], "log": {"tag": []}, "on_node": {"shall": []}}
    with pytest.raises(ValidationError, match="extra_forbidden"):
        PlanSpec.model_validate({"image": "a:b", place: value[place]})


def test_null_means_the_default_everywhere():
    """As clients written in Go send what they did not fill."""
    optional = [name for name in PlanSpec.model_fields if name != "image"]
    spec = PlanSpec.model_validate({"image": "a:b", **dict.fromkeys(optional)})
    assert spec == PlanSpec(image="a:b")
    assert spec.active is True
    change = TagChange.model_validate({"add": None, "remove": None, "remove_key": None})
    assert change == TagChange()
    assert ResourcesChange.model_validate({"set": None, "unset": None}) == ResourcesChange()
    assert AnnotationsChange.model_validate({"add": None}) == AnnotationsChange()
    assert PlanSpec.model_validate(
        {"image": "a:b", "log": {"tags": None}, "inputs": [{"path": "/x", "tags": None}]}
    )


def test_quantities_may_be_numbers_but_not_truths():
    change = ResourcesChange.model_validate({"set": {"cpu": 2, "gpu": 0.5, "memory": "1Gi"}})
    assert change.set == {"cpu": "2", "gpu": "0.5", "memory": "1Gi"}
    with pytest.raises(ValidationError):
        ResourcesChange.model_validate({"set": {"cpu": True}})


def test_a_request_can_be_read_back():
    spec = PlanSpec.model_validate(
        {
            "image": "a:b",
            "inputs": [{"path": "/in", "tags": ["a:b", {"key": "c", "value": " d"}]}],
            "on_node": {"may": ["x=y"]},
        }
    )
    assert PlanSpec.model_validate(to_wire(spec)).on_node == spec.on_node
    assert to_wire(spec)["inputs"][0]["tags"] == ["a:b", "c: d"]


# ------------------------------------------------------------ tags


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a:b", "a", "b"),
        ("a:b:c", "a", "b:c"),
        (" \u3000a : b c\u00a0", "a", "b c"),
        (":", "", ""),
        ('q:"\\\n', "q", '"\\'),
    ],
)
def test_a_tag_as_text(text, key, value):
    assert Tag.model_validate(text) == Tag(key=key, value=value) == Tag.parse(text)


def test_a_tag_as_an_object_is_taken_as_it_is():
    assert Tag.model_validate({"key": " a", "value": ""}) == Tag(key=" a", value="")


@pytest.mark.parametrize("value", ["no colon", 1, {}, {"key": "a"}, {"key": "a", "value": 1}, None])
def test_what_is_no_tag(value):
    with pytest.raises(ValidationError):
        Tag.model_validate(value)


@unhurried
@given(st.text(), st.text())
def test_tags_survive_json_whatever_is_in_them(key, value):
    tag = Tag(key=key.replace(":", ""), value=value)
    text = json.loads(json.dumps(to_wire([tag])))[0]
    assert text == f"{tag.key}:{tag.value}"
    assert Tag.model_validate(text) == Tag(key=tag.key.strip(), value=tag.value.strip())


# ------------------------------------------------------------ times


def test_an_instant_without_an_offset_is_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(WireTime).validate_python("2024-01-01T00:00:00")


# ------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", timedelta()),
        ("+0", timedelta()),
        ("300ms", timedelta(milliseconds=300)),
        ("1.5h", timedelta(minutes=90)),
        ("2h45m", timedelta(hours=2, minutes=45)),
        ("-1m.5s", timedelta(minutes=-1, milliseconds=-500)),
        ("1.s", timedelta(seconds=1)),
        ("1us1µs1μs", timedelta(microseconds=3)),
        ("1999ns", timedelta(microseconds=1)),
        ("2562047h", timedelta(hours=2562047)),
    ],
)
def test_go_durations(text, length):
    assert parse_duration(text) == length


@pytest.mark.parametrize(
    "text", ["", "1", "s", ".s", "1 h", "1d", "1h-1m", "--1s", "1e3s", "2562048h", "9" * 400 + "h"]
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


# ------------------------------------------------------------ the package


@pytest.mark.parametrize("shape", RESPONSES + REQUESTS)
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_json_schema_speaks_the_names_of_the_wire(shape: type[BaseModel], mode):
    schema = json.dumps(shape.model_json_schema(mode=mode))
    for name in ("plan_id", "run_id", "knit_id", "updated_at"):
        assert f'"{name}"' not in schema


def test_json_schema_tells_tags_in_both_forms_apart():
    assert "anyOf" in Tag.model_json_schema(mode="validation")
    assert Tag.model_json_schema(mode="serialization")["type"] == "string"


@pytest.mark.patient
def test_the_types_load_without_the_server():
    program = (
        "import sys, knit_workflows.wire.data, knit_workflows.wire.errors\n"
        "loaded = {'fastapi', 'sqlmodel', 'sqlalchemy', 'temporalio', 'httpx'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
