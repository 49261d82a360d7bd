"""`knit plan apply`, `validate`, `schema`, `show`, `find` and `active`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import httpx
import jsonschema_rs
import pytest
import yaml

from knit_workflows.contracts.trials import TrialResult
from tests.cli.real_api import error

IMAGE = "localhost:5000/train:v1"
PLAN = """\
image: localhost:5000/train:v1
args: [--epochs, 3, yes, 1.10]
inputs:
  - path: /in/data
    tags: ["type:dataset", "project: demo"]
outputs:
  - path: /out/model
    tags: ["type:model"]
log:
  tags: ["type:log"]
resources: {cpu: 2, memory: 1Gi}
annotations: ["owner=alice"]
"""


def test_apply_registers_the_file_and_shows_the_plan(knit, api):
    knit.write("plan.yaml", PLAN)
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.err == ""
    assert ended.json["image"] == "localhost:5000/train:v1"
    assert ended.json["inputs"][0]["tags"] == ["project:demo", "type:dataset"]
    sent = json.loads(api.requests[0].content)
    assert sent["args"] == ["--epochs", "3", "yes", "1.10"]  # as written, whatever YAML makes of it
    assert sent["resources"] == {"cpu": "2", "memory": "1Gi"}
    assert sent["active"] is True


def test_applying_the_same_file_again_shows_the_plan_that_is_there(knit, api):
    knit.write("plan.yaml", PLAN)
    first = knit("plan", "apply", "plan.yaml").json
    knit.write("plan.yaml", PLAN.replace("cpu: 2", "cpu: 2000m"))  # the same amount
    again = knit("plan", "apply", "plan.yaml")
    assert again.json == first
    assert "nothing differs" in again.err
    assert len(api.plans) == 1


def test_strict_restores_the_plain_error(knit):
    knit.write("plan.yaml", PLAN)
    plan_id = knit("plan", "apply", "plan.yaml").json["planId"]
    ended = knit("plan", "apply", "plan.yaml", "--strict")
    assert (ended.code, ended.out) == (1, b"")
    assert f"the Plan {plan_id} is equivalent" in ended.err
    assert f"see: {plan_id}" in ended.err


@pytest.mark.parametrize(
    ("change", "words", "command"),
    [
        ("active: false", "active is true, the file says false", "knit plan active no {}"),
        ("service_account: me", "service_account is not set", "serviceaccount --set me {}"),
        ("resources: {cpu: 3}", "resources.cpu is 2, the file says 3", "resource --set cpu=3 {}"),
        ("resources: {cpu: 2, a/gpu: 1}", "resources.a/gpu is not set", "--set a/gpu=1 {}"),
        ("annotations: [a=b c]", "a=b c is only in the file", "annotate --add 'a=b c' {}"),
        ("priority: 5", "priority is 0, the file says 5", "knit plan priority {} 5"),
        ("annotations: []", "owner=alice is not in the file", "annotate --remove owner=alice {}"),
    ],
)
def test_applying_a_changed_file_says_what_differs_and_how_to_change_it(
    knit, change, words, command
):
    knit.write("plan.yaml", PLAN)
    plan_id = knit("plan", "apply", "plan.yaml").json["planId"]
    key = change.partition(":")[0]
    kept = "".join(line for line in PLAN.splitlines(True) if not line.startswith(f"{key}:"))
    knit.write("plan.yaml", f"{kept}{change}\n")
    ended = knit("plan", "apply", "plan.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert words in ended.err
    assert command.format(plan_id) in ended.err


def test_another_conflict_is_not_taken_for_the_same_plan(knit, api):
    """A Plan that would close a cycle is refused with 409, too, and may point at a Plan."""
    knit.write("plan.yaml", PLAN)
    other = knit("plan", "apply", "plan.yaml").json["planId"]
    knit.write("plan.yaml", PLAN.replace("/out/model", "/out/other"))
    api.interrupt[("POST", "/plans")] = [error(409, "it would close a cycle", see=other)]
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 1
    assert "reason: it would close a cycle" in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image: [", "plan.yaml:1:9: expected the node content"),
        ("image: a\n\tx: 1", "plan.yaml:2:1: "),
        ("image: a\nimage: b", "plan.yaml:2:1: duplicate key 'image'"),
        (PLAN.replace("log:", "logs:"), "plan.yaml:9:1: unknown key 'logs'; did you mean 'log'?"),
        (
            PLAN.replace('    tags: ["type:model"]', '    tag: ["type:model"]'),
            "plan.yaml:8:5: unknown key 'outputs[0].tag'; did you mean 'tags'?",
        ),
        (PLAN.replace("annotations", "annoation"), "did you mean 'annotations'?"),
        (PLAN.replace("resources:", "resource:"), "did you mean 'resources'?"),
        ("zzz: 1\n" + PLAN, "plan.yaml:1:1: unknown key 'zzz'; known here: image, "),
        (PLAN.partition("\n")[2], "'image' is missing"),
        (PLAN.replace("  - path: /in/data\n  ", "  - "), "plan.yaml:4:7: 'inputs[0].path' is miss"),
        (PLAN.replace('"type:dataset"', "type: dataset"), "inputs[0].tags[0] is not a tag"),
        (PLAN.replace('"type:dataset"', "dataset"), "plan.yaml:5:12: inputs[0].tags[0] is not a"),
        (PLAN.replace('["type:model"]', '"type:model"'), "outputs[0].tags must be a list"),
        (PLAN + "active: maybe", "plan.yaml:13:1: active must be true or false"),
        (PLAN + "on_node: [a=b]", "on_node must be a mapping"),
        (PLAN + "priority: high", "plan.yaml:13:1: priority must be a whole number"),
        ("- a\n- b", "the document must be a mapping"),
        ("just words", "the document must be a mapping"),
        ("", "'image' is missing"),
        ("? [a]\n: b", "a key must be a word"),
        ("image: a\n<<: {[b]: c}", "plan.yaml:2:6: a key must be a word"),
        ("image: a\n<<: b", "plan.yaml:2:5: expected a mapping or list of mappings for merging"),
        ("a: &a [*a]", "too large or too deep"),
        ("image: a\n---\nimage: b", "plan.yaml:2:1: "),
        ("image: \0", "special characters are not allowed"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_place_and_nothing_is_sent(knit, api, content, said):
    knit.write("plan.yaml", content)
    ended = knit("plan", "apply", "plan.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert said in ended.err
    assert "nothing was sent" in ended.err
    assert api.requests == []


def test_all_faults_are_told_at_once_in_the_order_of_the_file(knit):
    knit.write("plan.yaml", "immage: a\ninputs: x\nlogs: {}\n")
    ended = knit("plan", "apply", "plan.yaml")
    lines = [line for line in ended.err.splitlines() if "plan.yaml:" in line]
    assert [line.partition("plan.yaml:")[2][:3] for line in lines] == ["1:1", "1:1", "2:1", "3:1"]


def test_a_yaml_tag_constructs_nothing(knit, api):
    knit.write("plan.yaml", "image: !!python/object/apply:os.abort []\n")
    assert "image must be text" in knit("plan", "apply", "plan.yaml").err
    knit.write("plan.yaml", PLAN.replace("image: ", "image: !!python/name:os.system "))
    assert knit("plan", "apply", "plan.yaml").json["image"] == "localhost:5000/train:v1"


@pytest.mark.patient
def test_anchors_that_explode_are_refused(knit):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    knit.write("plan.yaml", "\n".join(lines))
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 1
    assert "too large" in ended.err


def test_anchors_and_merge_keys_work(knit, api):
    knit.write(
        "plan.yaml",
        "image: a:b\ninputs:\n  - &one {path: /in/1, tags: ['a:b']}\n"
        "  - {<<: *one, path: /in/2}\n  - {<<: *one, path: /in/3}\n"
        "outputs: [{path: /out, tags: &made ['b:a']}, {path: /more, tags: *made}]\n",
    )
    plan = knit("plan", "apply", "plan.yaml").json
    assert [one["path"] for one in plan["inputs"]] == ["/in/1", "/in/2", "/in/3"]
    assert plan["inputs"][1]["tags"] == ["a:b"]


def test_a_file_that_is_not_there(knit):
    ended = knit("plan", "apply", "nowhere.yaml")
    assert ended.code == 1
    assert "nowhere.yaml" in ended.err


def test_the_engines_rules_are_told_by_the_api(knit, api):
    api.interrupt[("POST", "/plans")] = [error(400, "bad request: overlapped", "move one path")]
    knit.write("plan.yaml", PLAN)
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 1
    assert "reason: bad request: overlapped\nhint: move one path\n" in ended.err


def test_show_find_and_active(knit, api):
    knit.write("plan.yaml", PLAN)
    plan = knit("plan", "apply", "plan.yaml").json
    assert knit("plan", "show", plan["planId"]).json == plan
    found = knit(
        *("plan", "find", "--active", "true", "--image", IMAGE),
        *("-i", "type:dataset", "-i", "project:demo", "-o", "type:model"),
    )
    assert found.json == [plan]
    assert api.requests[-1].url.params.multi_items() == [
        ("in_tag", "type:dataset"),
        ("in_tag", "project:demo"),
        ("out_tag", "type:model"),
        ("active", "true"),
        ("image", IMAGE),
        ("limit", "1000"),
    ]
    assert knit("plan", "active", "no", plan["planId"]).json["active"] is False
    assert knit("plan", "active", "yes", plan["planId"]).json["active"] is True


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["find", "--active", "perhaps"], 2),
        (["find", "--in-tag", "none"], 1),
        (["active", "perhaps", "id"], 2),
        (["active", "yes"], 2),
        (["show"], 2),
        (["apply"], 2),
        (["show", "nothing"], 1),
    ],
)
def test_bad_input(knit, arguments, code):
    ended = knit("plan", *arguments)
    assert (ended.code, ended.out) == (code, b"")
    assert ended.err


def test_an_id_cannot_become_another_address(knit, api):
    assert knit("plan", "show", "../data").code == 1
    assert api.requests[-1].url.raw_path == b"/api/plans/%2E%2E%2Fdata"


def test_a_login_page_is_not_taken_for_an_answer(knit, api):
    page = httpx.Response(200, text="<html>Welcome</html>")
    api.interrupt[("GET", "/plans/p")] = [page]
    ended = knit("plan", "show", "p")
    assert ended.code == 1
    assert "not from knit's API" in ended.err
    assert "apiRoot" in ended.err


# ------------------------------------------------------------ dry runs, and very many Runs

PREVIEW = {
    "runs": 3,
    "inputs": [{"path": "/in/data", "data": 3}],
    "assignments": [{"/in/data": "one"}],
}
MANY = ("the Plan would at once create 20000 Runs", "confirm it", "confirm=true")


def test_a_dry_run_shows_the_runs_there_would_be(knit, api):
    knit.write("plan.yaml", PLAN)
    api.interrupt[("POST", "/plans")] = [httpx.Response(200, json=PREVIEW)]
    ended = knit("plan", "apply", "--dry-run", "plan.yaml")
    assert ended.json == PREVIEW
    assert "would create at once: 3, of which the first 1 are shown" in ended.err
    assert api.requests[-1].url.query == b"dry_run=true"


def test_a_dry_run_of_a_plan_that_is_there_says_so(knit, api):
    knit.write("plan.yaml", PLAN)
    plan = knit("plan", "apply", "plan.yaml").json
    ended = knit("plan", "apply", "plan.yaml", "--dry-run")
    assert ended.json == plan
    assert "nothing differs" in ended.err


def test_very_many_runs_must_be_confirmed(knit, api):
    """Where nobody can be asked, it is refused, with what to type."""
    knit.write("plan.yaml", PLAN)
    api.interrupt[("POST", "/plans")] = [error(409, *MANY)]
    ended = knit("plan", "apply", "plan.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert "20000 Runs" in ended.err
    assert "--yes" in ended.err
    assert api.asked() == ["POST /plans"]
    assert knit("plan", "apply", "plan.yaml", "--yes").code == 0
    assert api.requests[-1].url.query == b"confirm=true"


class Terminal(io.StringIO):
    """Somebody who has typed an answer."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_on_a_terminal_very_many_runs_are_asked_for(knit, api, monkeypatch, answer, code):
    """Any answer but yes registers nothing."""
    knit.write("plan.yaml", PLAN)
    api.interrupt[("POST", "/plans")] = [error(409, *MANY)]
    said = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", said)
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == code
    assert "20000 Runs" in said.getvalue()
    assert "Register it anyway?" in said.getvalue()
    assert len(api.plans) == (1 if code == 0 else 0)


def test_a_refusal_of_the_server_is_shown_at_its_place_in_the_file(knit, api):
    knit.write("plan.yaml", PLAN)
    refusal = error(400, "outputs[0].path: overlaps", "move it", "outputs[0].path")
    api.interrupt[("POST", "/plans")] = [refusal]
    ended = knit("plan", "apply", "plan.yaml")
    assert "reason: plan.yaml:7:5: outputs[0].path: overlaps" in ended.err


# ------------------------------------------------------------ without a server


def test_a_valid_file_needs_no_server_and_no_profile(bare_knit, api):
    bare_knit.write("plan.yaml", PLAN)
    ended = bare_knit("plan", "validate", "plan.yaml")
    assert (ended.code, ended.out) == (0, b"")
    assert "plan.yaml is a valid Plan" in ended.err
    assert api.requests == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAN.replace("log:", "logs:"), "plan.yaml:9:1: unknown key 'logs'; did you mean 'log'?"),
        (PLAN.replace("train:v1", "Train:v1"), "plan.yaml:1:1: image: "),
        (PLAN.replace("train:v1", "train@sha256:0"), "plan.yaml:1:1: image: "),
        (PLAN.replace("/in/data", "in/data"), "plan.yaml:4:5: inputs[0].path: 'in/data' is not "),
        (PLAN.replace("/in/data", "/out/model/x"), "plan.yaml:4:5: inputs[0].path: "),
        (PLAN.replace("type:model", "knit#id:x"), "plan.yaml:8:5: outputs[0].tags: the system"),
        (PLAN.replace("type:log", "knit#id:x"), "plan.yaml:10:3: log.tags: the system tag"),
        (PLAN.replace("type:dataset", "knit#transient:failed"), "plan.yaml:5:5: inputs[0].tags: "),
        (PLAN.replace("cpu: 2", "cpu: 2x"), "plan.yaml:11:13: resources.cpu: '2x' is not a Kub"),
        (PLAN.replace("cpu: 2", "gpu: 1"), "plan.yaml:11:13: resources.gpu: 'gpu' is not a res"),
        (PLAN.replace("cpu: 2", "a.com/gpu: 0.5"), "plan.yaml:11:13: resources.a.com/gpu: "),
        (PLAN.replace("owner=alice", "owner"), "plan.yaml:12:15: annotations[0]: 'owner' has no"),
        (PLAN + "on_node: {must: [_b=c]}", "plan.yaml:13:18: on_node.must[0]: '_b' is not "),
        (PLAN + "on_node: {must: [ab]}", "plan.yaml:13:18: on_node.must[0]: 'ab' has no '='; "),
        (PLAN.replace("1Gi", "512m"), "did you mean 512Mi? Mi and Gi count bytes, m is a "),
        (PLAN.replace("type:dataset", "knit#id:nonsense"), "'nonsense' is not the id of a Data"),
        (PLAN + "priority: 1001", "plan.yaml:13:1: priority: the priority is out of range; write"),
        (PLAN + "service_account: No", "plan.yaml:13:1: service_account: 'No' is not the name"),
        (PLAN.replace("outputs:\n  - path: /out/model", "outputs:\n  - path: /log"), ":7:5: "),
        ("image: a/b\ninputs: []", "plan.yaml:2:1: inputs: the Plan has no input; give it"),
        ("image: a/b", "plan.yaml:1:1: inputs: the Plan has no input"),
        ("image: [", "plan.yaml:1:9: expected the node content"),
    ],
)
def test_a_broken_rule_is_told_by_its_place(bare_knit, content, said):
    bare_knit.write("plan.yaml", content)
    ended = bare_knit("plan", "validate", "plan.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert said in ended.err


def test_all_files_are_checked(bare_knit):
    """One that is broken, or not there, does not hide what is wrong with the next."""
    bare_knit.write("good.yaml", PLAN)
    bare_knit.write("bad.yaml", "immage: x")
    bare_knit.write("worse.yaml", PLAN.replace("/in/data", "/"))
    ended = bare_knit("plan", "validate", "bad.yaml", "no.yaml", "good.yaml", "worse.yaml")
    assert ended.code == 1
    for words in (
        "3 of 4 files are not valid Plans",
        "bad.yaml:1:1: unknown key 'immage'",
        "cannot read no.yaml",
        "good.yaml is a valid Plan",
        "worse.yaml:4:5: inputs[0].path: the path is empty",
    ):
        assert words in ended.err
    assert bare_knit("plan", "validate").code == 2


# ------------------------------------------------------------ with a server's cluster


def test_a_file_is_tried_on_the_cluster(knit, api):
    """What it warns of and what it could not look at is talk; nothing is registered."""
    knit.write("plan.yaml", PLAN)
    api.transfers.trial = TrialResult(warnings=["memory: odd"], unchecked=["whether a node fits"])
    ended = knit("plan", "validate", "--cluster", "plan.yaml")
    assert (ended.code, ended.out) == (0, b"")
    for line in (
        "plan.yaml: warning: memory: odd",
        "plan.yaml is a valid Plan, and its Runs would be accepted",
        "plan.yaml: not checked: whether a node fits",
    ):
        assert line in ended.err
    assert not api.plans


def test_what_the_cluster_refuses_fails_with_all_reasons(knit, api):
    knit.write("plan.yaml", PLAN)
    knit.write("bad.yaml", "immage: x")
    api.transfers.trial = TrialResult(refusals=["no account me", "no class x"])
    ended = knit("plan", "validate", "--cluster", "plan.yaml")
    assert ended.code == 1
    for line in ("could not start", "plan.yaml: no account me", "plan.yaml: no class x"):
        assert line in ended.err
    ended = knit("plan", "validate", "--cluster", "bad.yaml", "plan.yaml")
    assert "2 of 2 files" in ended.err
    assert "plan.yaml: no class x" in ended.err


def test_the_schema_accepts_what_is_valid_and_refuses_typing_errors(bare_knit):
    """As far as a schema can: it is JSON Schema, and about the file as YAML reads it."""
    schema = bare_knit("plan", "schema").json
    check = jsonschema_rs.Draft202012Validator(schema)
    plans = sorted((Path(__file__).parents[2] / "examples").rglob("plans/*.yaml"))
    assert plans
    for text in (PLAN, *(path.read_text() for path in plans)):
        assert check.is_valid(yaml.safe_load(text))
    everything = yaml.safe_load(PLAN) | {
        "active": None, "priority": -5, "log": None, "on_node": {"may": ["a=b"]},
        "service_account": "me", "entrypoint": None,
        "outputs": [
            {"path": "/out", "tags": [{"key": "a:b", "value": "c"}], "volume": {"size": 1024}}
        ],
        "pod": {"labels": {"a": "b"}, "shm_size": "1Gi", "tolerations": [{"key": "a"}]},
    }  # fmt: skip
    assert check.is_valid(everything)
    for change in (
        {"logs": {}}, {"inputs": []}, {"inputs": [{"path": "/in"}]}, {"outputs": [{"path": "x"}]},
        {"priority": 1001}, {"image": None}, {"args": "x"}, {"on_node": {"maybe": []}},
        {"inputs": [{"path": "/a", "tags": []}]}, {"log": {"tags": ["none"]}},
        {"args": ["x" * 131_072]}, {"outputs": [{"path": f"/{i}"} for i in range(1001)]},
        {"pod": {"label": {}}}, {"pod": {"labels": {"a": 1}}}, {"log": {"volume": {"sise": "1"}}},
        {"outputs": [{"path": "/o", "volume": {"access_mode": "RWX"}}]},
    ):  # fmt: skip
        assert not check.is_valid(everything | change), change


def test_a_template_names_the_schema_and_is_valid(bare_knit):
    bare_knit.use_profile()
    ended = bare_knit("plan", "template", "--scratch")
    first = ended.out.decode().splitlines()[0]
    assert first == "# yaml-language-server: $schema=plan.schema.json"
    bare_knit.write("plan.yaml", ended.out)
    assert bare_knit("plan", "validate", "plan.yaml").code == 0
