from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.model import (
    Annotation,
    Image,
    NodeMode,
    NodeRule,
    PlanInput,
    PlanOutput,
    PlanSpec,
    Requirement,
)
from knit_workflows.domain.plans.rules import MAX_MOUNTPOINTS, parse_plan
from knit_workflows.domain.tags import Tag, parse_tag

FULL: Mapping[str, object] = {
    "annotations": ["owner=alice", " descr = two=heads ", "owner=alice", "owner=bob"],
    "image": "localhost:30503/train:v2",
    "entrypoint": ["python", "-u", "train.py"],
    "args": ["--epochs", "3"],
    "inputs": [
        {"path": "/in/model/", "tags": [{"key": " type", "value": "model "}]},
        {"path": "/in/dataset", "tags": ["type:dataset", " project : demo ", "type:dataset"]},
    ],
    "outputs": [{"path": "/out/model", "tags": ["type:model", "project:demo"]}],
    "log": {"tags": ["type:log", "project:demo"]},
    "on_node": {"must": ["accelerator=gpu"], "may": ["vram=large"], "prefer": ["vram=xlarge"]},
    "resources": {"cpu": "2000m", "memory": "4096Mi", "nvidia.com/gpu": "1"},
    "service_account": "trainer",
    "active": True,
    "priority": -7,
}
KNIT_ID = "8fbc7cfa-3102-4793-9dfe-679d40957a21"
INPUT: Mapping[str, object] = {"path": "/in", "tags": ["a:1"]}
LEAST: Mapping[str, object] = {"image": "repo/x", "inputs": [INPUT]}


def of(*texts: str) -> frozenset[Tag]:
    return frozenset(map(parse_tag, texts))


def plan(**changes: object) -> PlanSpec:
    return parse_plan({**LEAST, **changes})


def refused(**changes: object) -> InvalidPlan:
    with pytest.raises(InvalidPlan) as caught:
        plan(**changes)
    error = caught.value
    assert type(error) is InvalidPlan
    assert error.advice
    assert error.reason.startswith(f"{error.see or 'the Plan'}: ")
    return error


def test_a_full_document() -> None:
    assert parse_plan(FULL) == PlanSpec(
        image=Image("localhost:30503/train", "v2"),
        inputs=(
            PlanInput("/in/dataset", Requirement(of("type:dataset", "project:demo"))),
            PlanInput("/in/model", Requirement(frozenset({Tag(" type", "model ")}))),
        ),
        outputs=(PlanOutput("/out/model", of("type:model", "project:demo")),),
        log=of("type:log", "project:demo"),
        entrypoint=("python", "-u", "train.py"),
        args=("--epochs", "3"),
        on_node=(
            NodeRule(NodeMode.MAY, "vram", "large"),
            NodeRule(NodeMode.MUST, "accelerator", "gpu"),
            NodeRule(NodeMode.PREFER, "vram", "xlarge"),
        ),
        resources={"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
        service_account="trainer",
        annotations=(
            Annotation("descr", "two=heads"),
            Annotation("owner", "alice"),
            Annotation("owner", "bob"),
        ),
        active=True,
        priority=-7,
    )


def test_the_defaults() -> None:
    assert plan() == PlanSpec(
        image=Image("repo/x", "latest"),
        inputs=(PlanInput("/in", Requirement(of("a:1"))),),
        resources={"cpu": "1", "memory": "1Gi"},
    )


def test_null_and_empty_mean_not_given() -> None:
    keys = set(FULL) - set(LEAST)
    assert plan(**dict.fromkeys(keys)) == plan()
    assert plan(entrypoint=[], args=[], outputs=[], annotations=[], service_account="") == plan()
    assert plan(on_node={}, resources={}) == plan()
    assert plan(on_node={"may": None, "must": []}) == plan()
    assert plan(outputs=[{"path": "/o"}]) == plan(outputs=[{"path": "/o", "tags": None}])
    assert plan(log={}).log == frozenset()
    assert plan(active=None).active
    assert not plan(active=False).active


# --- check 0: the document decodes ---


@pytest.mark.parametrize(
    ("changes", "place", "near"),
    [
        ({"logs": {}}, "logs", "log"),
        ({"annoation": []}, "annoation", "annotations"),
        ({"resource": {}}, "resource", "resources"),
        ({"input": []}, "input", "inputs"),
        ({"inputs": [{"path": "/in", "tag": ["a:1"]}]}, "inputs[0].tag", "tags"),
        ({"outputs": [{"pth": "/o"}]}, "outputs[0].pth", "path"),
        ({"log": {"tag": []}}, "log.tag", "tags"),
        ({"on_node": {"most": []}}, "on_node.most", "must"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(
    changes: dict[str, object], place: str, near: str
) -> None:
    error = refused(**changes)
    assert error.see == place
    assert error.advice == f"did you mean {near}?"


def test_an_unknown_key_near_to_none_lists_them_all() -> None:
    error = refused(planId="x")
    assert error.see == "planId"
    assert "service_account" in error.advice


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"image": 3}, "image"),
        ({"entrypoint": "python"}, "entrypoint"),
        ({"entrypoint": ["python", None]}, "entrypoint[1]"),
        ({"args": ["--epochs", 3]}, "args[1]"),
        ({"args": {"a": "b"}}, "args"),
        ({"args": ["a\0b"]}, "args[0]"),
        ({"args": ["a\ud800b"]}, "args[0]"),
        ({"inputs": {"path": "/in", "tags": ["a:1"]}}, "inputs"),
        ({"inputs": ["/in"]}, "inputs[0]"),
        ({"inputs": [{"path": 1, "tags": ["a:1"]}]}, "inputs[0].path"),
        ({"inputs": [INPUT, {"path": "/x", "tags": "a:1"}]}, "inputs[1].tags"),
        ({"inputs": [{"path": "/x", "tags": ["a:1", 1]}]}, "inputs[0].tags[1]"),
        ({"inputs": [{"path": "/x", "tags": ["a"]}]}, "inputs[0].tags[0]"),
        ({"inputs": [{"path": "/x", "tags": ["a:\t1\t2"]}]}, "inputs[0].tags[0]"),
        ({"inputs": [{"path": "/x", "tags": [{"type": "x"}]}]}, "inputs[0].tags[0].type"),
        ({"inputs": [{"path": "/x", "tags": [{"key": "x"}]}]}, "inputs[0].tags[0].value"),
        ({"outputs": [{"path": "/x", "tags": ["a"]}]}, "outputs[0].tags[0]"),
        ({"log": ["a:1"]}, "log"),
        ({"log": {"tags": {"a": "1"}}}, "log.tags"),
        ({"on_node": ["a=b"]}, "on_node"),
        ({"on_node": {"may": "a=b"}}, "on_node.may"),
        ({"on_node": {"may": ["a=b", 1]}}, "on_node.may[1]"),
        ({"on_node": {"may": ["a"]}}, "on_node.may[0]"),
        ({"on_node": {"may": ["a=b=c"]}}, "on_node.may[0]"),
        ({"entrypoint": ["sh", "ä" * 65_536]}, "entrypoint[1]"),
        ({"args": ["x" * 131_072]}, "args[0]"),
        ({"args": ["x" * 131_071] * 8}, "args"),
        ({"entrypoint": ["x" * 131_071] * 8}, "entrypoint"),
        ({"resources": ["cpu=1"]}, "resources"),
        ({"resources": {"cpu": "one"}}, "resources.cpu"),
        ({"resources": {"cpu": None}}, "resources.cpu"),
        ({"resources": {"cpu": True}}, "resources.cpu"),
        ({"service_account": 7}, "service_account"),
        ({"service_account": "a" * 254}, "service_account"),
        ({"service_account": "Trainer_1"}, "service_account"),
        ({"annotations": "a=b"}, "annotations"),
        ({"annotations": ["a=b", "owner"]}, "annotations[1]"),
        ({"annotations": ["a" * 254 + "=b"]}, "annotations[0]"),
        ({"annotations": ["a=" + "b" * 1_048_577]}, "annotations[0]"),
        ({"active": "yes"}, "active"),
        ({"priority": "1"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1001}, "priority"),
        ({"priority": -1001}, "priority"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_at_its_place(
    changes: dict[str, object], place: str
) -> None:
    assert refused(**changes).see == place


@pytest.mark.parametrize("document", [None, [], "image: x", 3])
def test_a_document_is_a_mapping(document: Mapping[str, object]) -> None:
    with pytest.raises(InvalidPlan, match="the Plan: a mapping is wanted"):
        parse_plan(document)


# --- check 1: on_node ---


def test_node_labels_are_checked_by_mode_key_and_value() -> None:
    bad = {"prefer": ["-a=b"], "must": ["z=-", "-y=b"], "may": ["ok=ok"]}
    assert refused(on_node=bad).see == "on_node.must[1]"


# --- checks 2 to 4 ---


@pytest.mark.parametrize("image", ["", None, ":v1", "train:"])
def test_an_image_has_a_name_and_a_tag(image: object) -> None:
    assert "no name or no tag" in refused(image=image).reason


def test_a_plan_has_an_input() -> None:
    assert "no input" in refused(inputs=None).reason
    assert "no input" in refused(inputs=[]).reason


def test_a_plan_has_a_bounded_number_of_mountpoints() -> None:
    many = [{"path": f"/out/{i}"} for i in range(MAX_MOUNTPOINTS)]
    assert len(plan(outputs=many[1:]).outputs) == MAX_MOUNTPOINTS - 1
    assert "too many" in refused(outputs=many).reason


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        # The API server stores dollars twice, and is sent six bytes for a control character.
        ({"args": ["$" * 100_000] * 6}, "args"),
        ({"entrypoint": ["\x01" * 100_000] * 4}, "entrypoint"),
        ({"args": ["x" * 100_000] * 7, "outputs": [{"path": f"/{i}"} for i in range(450)]}, "args"),
        ({"inputs": [INPUT | {"path": f"/{i}/{'x' * 250}"} for i in range(999)]}, None),
        ({"inputs": [INPUT | {"path": f"/{i}/{'x' * 250}/{'x' * 99}"} for i in range(999)]}, "inp"),
        ({"outputs": [{"path": f"/{i}/{'x' * 200}"} for i in range(290)]}, None),
        ({"outputs": [{"path": f"/{i}/{'x' * 40}"} for i in range(999)]}, "outputs"),
        ({"outputs": [{"path": f"/{i}/{'x' * 200}"} for i in range(310)]}, "outputs"),
    ],
)
@pytest.mark.patient
def test_a_cluster_can_store_a_job_of_it(changed: dict[str, object], place: str | None) -> None:
    if place is None:
        plan(**changed)
    else:
        assert refused(**changed).see.startswith(place)


def test_repositories_may_have_one_letter() -> None:
    assert plan(image="a").image == Image("a", "latest")
    assert plan(image="localhost:5000/a:1").image == Image("localhost:5000/a", "1")


@pytest.mark.parametrize("path", ["", "/", None])
def test_a_path_is_not_empty(path: object) -> None:
    error = refused(inputs=[INPUT, {"path": path, "tags": ["a:1"]}])
    assert (error.see, "empty" in error.reason) == ("inputs[1].path", True)
    assert refused(outputs=[{"path": path}]).see == "outputs[0].path"


# --- checks 5 to 7 ---


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/in", "/in"),
        ("/in/", "/in"),
        ("/a b/ä", "/a b/ä"),
        ("/..a/.b", "/..a/.b"),
        ("/log", "/log"),
        ("/dev/data", "/dev/data"),
        ("/process", "/process"),
        (f"/{'x' * 255}" * 15 + f"/{'y' * 254}", f"/{'x' * 255}" * 15 + f"/{'y' * 254}"),
    ],
)
def test_a_clean_path_loses_one_slash_at_its_end(path: str, kept: str) -> None:
    assert plan(inputs=[{"path": path, "tags": ["a:1"]}]).inputs[0].path == kept


@pytest.mark.parametrize(
    "path",
    [
        "in",
        "./in",
        "../in",
        "/in/..",
        "/in/./x",
        "/in//x",
        "//in",
        "/in//",
        "//",
        "/.",
        "/in/ok/..",
        "/in\n",
        "/i\0n",
        "/in:x",
        f"/{'x' * 255}" * 16,
        "/in/" + "x" * 256,
        "/in/" + "ä" * 128,
        "/proc",
        "/proc/self/x",
        "/sys/",
        "in/",
        " /in",
    ],
)
def test_a_path_is_absolute_clean_and_can_be_mounted(path: str) -> None:
    assert refused(inputs=[{"path": path, "tags": ["a:1"]}]).see == "inputs[0].path"
    aside = {"path": "/aside", "tags": ["a:1"]}
    error = refused(inputs=[aside], outputs=[{"path": "/ok"}, {"path": path}])
    assert error.see == "outputs[1].path"


@pytest.mark.parametrize("tags", [None, []])
def test_an_input_has_tags_but_outputs_and_log_need_none(tags: object) -> None:
    assert refused(inputs=[{"path": "/in", "tags": tags}]).see == "inputs[0].tags"
    spec = plan(outputs=[{"path": "/out", "tags": tags}], log={"tags": tags})
    assert (spec.outputs[0].tags, spec.log) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("tag", "reason", "advice"),
    [
        ("knit#id:nonsense", "'nonsense' is not the id of a Data", "knit data find"),
        ("knit#timestamp:nonsense", "'nonsense' is not an RFC 3339 time", "2024-11-18T04:25:32"),
        ("knit#timestamp:2024-11-18T04:25:32", "is not an RFC 3339 time", "Z or an offset"),
        ("knit#transient:nonsense", "not allowed here", "knit#id:ID of a Data"),
        ("knit#other:1", "not allowed here", "knit#timestamp:TIME"),
    ],
)
def test_a_pin_that_nothing_can_fit_is_refused_with_what_may_be_written(
    tag: str, reason: str, advice: str
) -> None:
    error = refused(inputs=[{"path": "/in", "tags": [tag]}])
    assert reason in error.reason
    assert advice in error.advice


def requirement(*tags: str) -> Requirement:
    return plan(inputs=[{"path": "/in", "tags": list(tags)}]).inputs[0].requirement


def test_an_input_may_pin_an_id_and_an_instant() -> None:
    instant = datetime(2024, 11, 18, 4, 25, 32, 70_000, UTC)
    pinned = requirement(
        "a:1",
        f"knit#id:{KNIT_ID}",
        f"knit#id: {KNIT_ID.upper()} ",
        "knit#timestamp:2024-11-18T04:25:32.0709Z",
        "knit#timestamp:2024-11-18T13:25:32.07+09:00",
    )
    assert pinned == Requirement(of("a:1"), KNIT_ID, instant)
    assert requirement(f"knit#id:{KNIT_ID}") == Requirement(frozenset(), KNIT_ID)
    assert requirement("knit#timestamp:2024-11-18T04:25:32.07Z").timestamp == instant


@pytest.mark.parametrize(
    "tags",
    [
        ["knit#transient:processing"],
        ["knit#transient:failed"],
        ["knit#transient:purged"],
        ["knit#other:1"],
        ["knit#:1"],
        ["knit#id:"],
        ["knit#id:nonsense"],
        [f"knit#id:{KNIT_ID}0"],
        [f"knit#id:{KNIT_ID}", f"knit#id:{KNIT_ID[:-1]}0"],
        ["knit#timestamp:2024-11-18T04:25:32Z", "knit#timestamp:2024-11-18T04:25:33Z"],
        ["knit#timestamp:nonsense"],
        ["knit#timestamp:2024-11-18T04:25:32"],
        [{"key": "knit#x", "value": ""}],
    ],
)
def test_other_system_tags_are_refused_on_inputs(tags: list[object]) -> None:
    """Also those that no Data can ever have, and always with what may stand there."""
    assert refused(inputs=[{"path": "/in", "tags": ["a:1", *tags]}]).see == "inputs[0].tags"


@pytest.mark.parametrize("tag", ["knit#id:d1", "knit#timestamp:2024-11-18T04:25:32Z", "knit#x:1"])
def test_system_tags_are_refused_on_outputs_and_log(tag: str) -> None:
    assert refused(outputs=[{"path": "/o", "tags": ["a:1", tag]}]).see == "outputs[0].tags"
    assert refused(log={"tags": [tag]}).see == "log.tags"


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("/in", "/in", True),
        ("/in", "/in/", True),
        ("/in", "/in/x", True),
        ("/in/x/y", "/in", True),
        ("/in/1", "/in/10", False),
        ("/in/data", "/in/dataset", False),
        ("/in", "/in-2", False),
        ("/in", "/in.d/x", False),
        ("/in/a", "/in/b", False),
        ("/a/in", "/in", False),
    ],
)
def test_paths_overlap_by_component(one: str, other: str, overlap: bool) -> None:
    first, second = ({"path": path, "tags": ["a:1"]} for path in (one, other))
    pairs: list[dict[str, object]] = [
        {"inputs": [first, second]},
        {"inputs": [first], "outputs": [second]},
        {"inputs": [{**first, "path": "/elsewhere"}], "outputs": [first, second]},
    ]
    for changes in pairs:
        if overlap:
            assert "overlap" in refused(**changes).reason
        else:
            plan(**changes)


def test_an_overlap_names_both_places() -> None:
    error = refused(outputs=[{"path": "/out"}, {"path": "/in/x"}])
    assert error.see == "inputs[0].path"
    assert "outputs[1]" in error.reason


def test_an_output_cannot_stand_where_the_log_is_kept() -> None:
    assert refused(outputs=[{"path": "/x"}, {"path": "/log/"}], log={}).see == "outputs[1].path"
    assert plan(outputs=[{"path": "/log"}]).outputs[0].path == "/log"
    plan(outputs=[{"path": "/log/more"}, {"path": "/logs"}], log={})
    plan(inputs=[{"path": "/log", "tags": ["a:1"]}], log={})


# --- the order of the checks ---


def test_the_first_violation_wins() -> None:
    """All violations at once; mending the reported one brings up the next."""
    wrong: dict[str, object] = {
        "image": "",
        "inputs": [],
        "outputs": [{"path": "bad/path", "tags": ["knit#x:1"]}, {"path": ""}],
        "log": {"tags": ["knit#x:1"]},
        "on_node": {"may": ["-=x"]},
        "active": "no",
        "typo": 1,
    }
    bad = {"path": "in", "tags": []}
    late = {"path": "z", "tags": []}
    mends: list[tuple[str, dict[str, object]]] = [
        ("typo", {"typo": ...}),
        ("active", {"active": False}),
        ("on_node.may[0]", {"on_node": None}),
        ("image", {"image": "x1"}),
        ("inputs", {"inputs": [late, bad]}),
        ("outputs[1].path", {"outputs": [{"path": "bad/path", "tags": ["knit#x:1"]}]}),
        ("inputs[1].path", {"inputs": [late, {**bad, "path": "/in"}]}),
        ("inputs[1].tags", {"inputs": [late, {"path": "/in", "tags": ["knit#x:1"]}]}),
        ("inputs[1].tags", {"inputs": [late, {"path": "/in", "tags": ["a:1"]}]}),
        ("inputs[0].path", {"inputs": [INPUT]}),
        ("outputs[0].path", {"outputs": [{"path": "/in/x", "tags": ["knit#x:1"]}]}),
        ("inputs[0].path", {"outputs": [{"path": "/log", "tags": ["knit#x:1"]}]}),
        ("outputs[0].tags", {"outputs": [{"path": "/log"}]}),
        ("log.tags", {"log": {"tags": []}}),
        ("outputs[0].path", {"outputs": []}),
    ]
    for place, mend in mends:
        with pytest.raises(InvalidPlan) as caught:
            parse_plan(wrong)
        assert caught.value.see == place
        wrong = {key: value for key, value in (wrong | mend).items() if value is not ...}
    parse_plan(wrong)
