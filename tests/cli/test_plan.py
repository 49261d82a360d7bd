"""`knit plan apply`, `show`, `find` and `active`."""

import json

import httpx
import pytest

from tests.cli.fake_api import error

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
    assert ended.json["inputs"][0]["tags"] == ["type:dataset", "project:demo"]
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
    assert "an equivalent Plan is registered" in ended.err
    assert f"see: {plan_id}" in ended.err


@pytest.mark.parametrize(
    ("change", "words", "command"),
    [
        ("active: false", "active is true, the file says false", "knit plan active no {}"),
        ("service_account: me", "service_account is not set", "serviceaccount --set me {}"),
        ("resources: {cpu: 3}", "resources.cpu is 2, the file says 3", "resource --set cpu=3 {}"),
        ("resources: {cpu: 2, gpu: 1}", "resources.gpu is not set", "resource --set gpu=1 {}"),
        ("annotations: [a=b c]", "a=b c is only in the file", "annotate --add 'a=b c' {}"),
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
        ("image: a\nimage: b", "plan.yaml:2:1: the key 'image' is here twice"),
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
        (PLAN.replace('["type:model"]', '"type:model"'), "outputs[0].tags should be a list"),
        (PLAN + "active: maybe", "plan.yaml:13:1: active should be true or false"),
        (PLAN + "on_node: [a=b]", "on_node should be a mapping"),
        ("- a\n- b", "the document should be a mapping"),
        ("just words", "the document should be a mapping"),
        ("", "'image' is missing"),
        ("? [a]\n: b", "a key must be a word"),
        ("a: &a [*a]", "far too large or too deep"),
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
    assert "image should be a text" in knit("plan", "apply", "plan.yaml").err
    knit.write("plan.yaml", PLAN.replace("image: ", "image: !!python/name:os.system "))
    assert knit("plan", "apply", "plan.yaml").json["image"] == "localhost:5000/train:v1"


def test_anchors_that_explode_are_refused(knit):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    knit.write("plan.yaml", "\n".join(lines))
    ended = knit("plan", "apply", "plan.yaml")
    assert ended.code == 1
    assert "far too large" in ended.err


def test_anchors_and_merge_keys_work(knit, api):
    knit.write(
        "plan.yaml",
        "image: a:b\ninputs:\n  - &one {path: /in/1, tags: &tags ['a:b']}\n"
        "  - {<<: *one, path: /in/2}\n  - {<<: *one, path: /in/3}\n"
        "outputs: [{path: /out, tags: *tags}]\n",
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
        *("plan", "find", "--active", "true", "--image", "train:v1"),
        *("-i", "type:dataset", "-i", "a:b", "-o", "type:model"),
    )
    assert found.json == [plan]
    assert str(api.requests[-1].url.query, "ascii") == (
        "in_tag=type%3Adataset&in_tag=a%3Ab&out_tag=type%3Amodel&active=true&image=train%3Av1"
    )
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
    assert "not what knit's API says" in ended.err
    assert "apiRoot" in ended.err
