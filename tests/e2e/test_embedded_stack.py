"""The user's journey on the embedded stack: init, push, Plans, Runs, lineage, pull."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import WITHIN, DevStack, shell_plan, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]


def tags_of(data: dict[str, Any]) -> set[str]:
    """The user's tags of a Data."""
    return {tag for tag in data["tags"] if not tag.startswith("knit#")}


def write(folder: Path, **files: str) -> Path:
    """Makes a folder with these files."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# --- a knit that just works ---------------------------------------------------------------------


def test_up_makes_knit_work_in_its_folder_and_below(stack: DevStack) -> None:
    """The profile is written for the folder and found from folders below it, not from beside it."""
    status = stack.status()
    name = (stack.folder / ".knitprofile").read_text()
    profiles = yaml.safe_load((stack.folder / ".knit" / "profile").read_text())
    assert profiles[name]["apiRoot"] == status["api"]
    assert set(status["processes"]) == {
        "postgres",
        "temporal",
        "worker",
        "worker-interactive",
        "api",
    }
    below = stack.folder / "below" / "it"
    below.mkdir(parents=True)
    assert stack.knit("plan", "find", cwd=below).json()


def test_another_folder_is_initialised_by_a_knitprofile(stack: DevStack, tmp_path: Path) -> None:
    """`knit init` makes an unknown folder use the same API; before it, knit says how."""
    said = stack.knit("plan", "find", cwd=tmp_path, code=1)
    assert "knit init" in said.err
    (tmp_path / "knitprofile").write_text(yaml.safe_dump({"apiRoot": stack.status()["api"]}))
    assert stack.knit("init", "knitprofile", cwd=tmp_path).out == ""
    assert stack.knit("plan", "find", cwd=tmp_path).json()


def test_up_again_shows_the_same_stack(stack: DevStack) -> None:
    """The second call changes nothing and says that it runs already, and where."""
    before = stack.status()
    said = stack.knit("dev", "up", "--detach")
    assert "already running" in said.err
    assert before["api"] in said.out
    after = stack.status()
    for status in (before, after):
        del status["disk"]["freeBytes"]  # Others write to this disk too.
    assert after == before


def test_a_service_is_served_below_the_apis_address(stack: DevStack) -> None:
    """`--extra-apis` reaches the API of a detached stack; a change of the file needs no restart."""
    origin = stack.status()["api"].removesuffix("/api")
    answer = stack.http.get(f"{origin}/registry/x/manifests/1")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
    file = stack.folder / "extra.yaml"
    before = file.read_text()
    file.write_text(before.replace("/registry", "/images"))
    until(lambda: stack.http.get(f"{origin}/images/").text == "{}")
    file.write_text("endpoints: nothing")
    until(lambda: "extra_apis" in stack.http.get(f"{origin}/readyz").json()["parts"])
    assert stack.http.get(f"{origin}/images/").text == "{}"
    file.write_text(before)
    until(lambda: stack.http.get(f"{origin}/registry/").text == "{}")


# --- push ---------------------------------------------------------------------------------------


def test_a_folder_is_pushed_with_tags_of_flag_name_and_knitenv(
    stack: DevStack, tmp_path: Path
) -> None:
    """All tags are there from the first moment; a name tag comes from the folder's name."""
    source = write(tmp_path / "set", a="1", deep__b="2")
    (tmp_path / "knitenv").write_text("tag: ['project:env']\n")
    arguments = ("data", "push", "--name", "--tag", "type:folder", "-t", "n:1", source)
    data = stack.knit("--env", tmp_path / "knitenv", *arguments).json()
    assert tags_of(data) == {"project:env", "type:folder", "n:1", "name:set"}
    assert stack.pulled(data["knitId"]) == {"a": "1", "deep/b": "2"}


def test_files_and_several_sources_become_one_data_each(stack: DevStack, tmp_path: Path) -> None:
    """A single file is a Data with that file; each source is shown as a JSON document."""
    source = write(tmp_path, **{"one.csv": "x,y\n"})
    file, folder = source / "one.csv", write(tmp_path / "many", c="3")
    said = stack.knit("data", "push", "--tag", "type:several", file, folder)
    first, second = (document["knitId"] for document in said.documents())
    assert stack.pulled(first) == {"one.csv": "x,y\n"}
    assert stack.pulled(second) == {"c": "3"}
    found = stack.knit("data", "find", "--tag", "type:several").json()
    assert [data["knitId"] for data in found] == [first, second]


# --- from Plans to lineage ----------------------------------------------------------------------


def test_runs_appear_by_themselves_and_are_remembered(stack: DevStack, tmp_path: Path) -> None:
    """Two chained Plans: push, and the second's result is there, with its log and its lineage."""
    first = shell_plan("tr a-z A-Z < /in/word > /out/word; echo shouted", "chain:raw")
    second = shell_plan("cat /in/word /in/word > /out/twice", "of:chain-raw")
    plans = [stack.apply(document) for document in (first, second)]
    raw = stack.push("hello", "chain:raw")
    run, last = (stack.run_in(plan, "done", "failed") for plan in plans)
    assert (run["status"], last["status"]) == ("done", "done")
    assert run["exit"] == {"code": 0, "message": run["exit"]["message"]}
    assert run["inputs"][0]["knitId"] == raw
    result = last["outputs"][0]["knitId"]
    assert stack.pulled(result) == {"twice": "HELLOHELLO"}

    shown = stack.knit("run", "show", run["runId"]).json()
    assert shown["status"] == "done"
    assert stack.knit("run", "show", "--log", run["runId"]).out == "shouted\n"
    assert stack.knit("run", "show", "--log", "--follow", run["runId"]).out == "shouted\n"
    found = stack.knit("run", "find", "--in-knitid", raw, "--status", "done").json()
    assert [one["runId"] for one in found] == [run["runId"]]

    lineage = ("data", "lineage", "--upstream", "-n", "all", result)
    graph = stack.knit(*lineage, "--format", "json").json()
    assert {one["knitId"] for one in graph["data"]} >= {raw, result}
    assert {one["runId"] for one in graph["runs"]} >= {run["runId"], last["runId"]}
    assert raw in stack.knit(*lineage, "--format", "tree").out
    assert "digraph" in stack.knit(*lineage).out

    stack.knit("data", "pull", result, tmp_path)
    with tarfile.open(tmp_path / f"{result}.tar.gz", "r:gz") as archive:
        assert archive.getnames() == ["twice"]


def test_a_plan_is_applied_once_shown_found_and_switched(stack: DevStack) -> None:
    """The same file again gives the same Plan; while it is not active nothing of it starts."""
    document = shell_plan("true", "switch:on", annotations=["owner=e2e"])
    file = stack.plan_file(document)
    plan = stack.knit("plan", "apply", file).json()
    plan_id = plan["planId"]
    again = stack.knit("plan", "apply", file)
    assert again.json()["planId"] == plan_id
    assert plan_id in stack.knit("plan", "apply", "--strict", file, code=1).err
    assert stack.knit("plan", "show", plan_id).json()["annotations"] == ["owner=e2e"]
    found = stack.knit("plan", "find", "--in-tag", "switch:on", "--active", "yes").json()
    assert [one["planId"] for one in found] == [plan_id]

    assert stack.knit("plan", "active", "no", plan_id).json()["active"] is False
    stack.push("x", "switch:on")
    stack.run_in(plan_id, "deactivated")
    stack.knit("plan", "active", "yes", plan_id)
    assert stack.run_in(plan_id, "done", "failed")["status"] == "done"


def test_a_tag_given_later_starts_a_run_and_tags_are_found(stack: DevStack) -> None:
    """Tags are changed in one step; a Data that comes to match is used like a new one."""
    plan = stack.apply(shell_plan("cat /in/word > /out/word", "later:yes"))
    knit_id = stack.push("late", "later:no", "drop:me")
    change = ("--add", "later:yes", "--remove", "later:no", "--remove-key", "drop")
    stack.knit("data", "tag", knit_id, *change)
    assert stack.run_in(plan, "done", "failed")["status"] == "done"
    (data,) = stack.knit("data", "find", "--tag", f"knit#id:{knit_id}").json()
    assert tags_of(data) == {"later:yes"}
    assert stack.knit("data", "find", "--tag", "drop:me").json() == []


TICKING = "n=0; while :; do n=$((n+1)); echo tick $n; echo $n > /out/n; sleep 0.1; done"


@contextmanager
def following(stack: DevStack, run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """`knit run show --log --follow` of a Run; ended in any case."""
    process = stack.start("run", "show", "--log", "--follow", run_id)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(("flags", "status"), [((), "done"), (("--fail",), "failed")])
def test_a_log_is_followed_until_the_run_is_stopped(
    stack: DevStack, flags: tuple[str, ...], status: str
) -> None:
    """The log comes while it is written; a stop ends the Run, as wanted, and the following."""
    tag = f"ticking:{status}"
    plan = stack.apply(shell_plan(TICKING, tag))
    stack.push("go", tag)
    run_id = stack.run_in(plan, "running")["runId"]
    with following(stack, run_id) as follow:
        assert follow.stdout is not None
        assert [follow.stdout.readline() for _ in range(3)] == [
            b"tick 1\n", b"tick 2\n", b"tick 3\n",
        ]  # fmt: skip
        stack.knit("run", "stop", *flags, run_id)
        rest = follow.stdout.read()
        assert rest.startswith(b"tick 4\n")
        assert follow.wait(WITHIN) == 0
    run = stack.run_in(plan, "done", "failed")
    assert run["status"] == status
    transient = stack.knit("data", "find", "-t", f"of:ticking-{status}", "--transient", "no")
    assert bool(transient.json()) is (status == "done")


def test_what_is_not_there_is_said(stack: DevStack) -> None:
    """Ids that nothing has: exit 1 and a sentence that says how to find the right one."""
    nothing = "00000000-0000-4000-8000-000000000000"
    for arguments in (
        ("plan", "show", nothing), ("run", "show", nothing), ("run", "show", "--log", nothing),
        ("run", "stop", nothing), ("data", "pull", nothing), ("data", "lineage", nothing),
        ("data", "tag", nothing, "--add", "a:b"),
    ):  # fmt: skip
        said = stack.knit(*arguments, code=1)
        assert "error: " in said.err, arguments
        assert "hint: " in said.err, arguments
        assert said.out == ""


def test_a_plan_template_is_nearly_a_plan(stack: DevStack) -> None:
    """What `plan template --scratch` writes lacks only tags of one's own, and knit says which."""
    document = yaml.safe_load(stack.knit("plan", "template", "--scratch").out)
    said = stack.knit("plan", "apply", stack.plan_file(document), code=1)
    assert "feed itself" in said.err
    assert "hint: " in said.err
    document["outputs"][0]["tags"] = ["template:result"]
    assert stack.apply(document)


def test_hosts_see_only_what_they_mount(stack: DevStack) -> None:
    """A Run sees its mounts, may not write to its input, and not see its neighbours."""
    script = (
        f"ls {os.fspath(stack.state)} 2>/dev/null && echo seen; "
        "(echo x > /in/word) 2>/dev/null && echo written; ls / > /out/root; echo end"
    )
    plan = stack.apply(shell_plan(script, "isolated:1"))
    stack.push("x", "isolated:1")
    run = stack.run_in(plan, "done", "failed")
    assert stack.knit("run", "show", "--log", run["runId"]).out == "end\n"
    assert {"in", "out"} <= set(stack.pulled(run["outputs"][0]["knitId"])["root"].split())


def test_the_story_is_in_the_logs(stack: DevStack) -> None:
    """Every process logs JSON, one line per change of state of a Run."""
    plan = stack.apply(shell_plan("true", "logged:1"))
    stack.push("x", "logged:1")
    run_id = stack.run_in(plan, "done")["runId"]
    log = stack.state / "logs" / "worker.log"

    def statuses() -> list[str] | None:
        whole, _, _ = log.read_text().rpartition("\n")  # the last line may be half written
        lines = [json.loads(line) for line in whole.splitlines()]
        found = [
            line["status"]
            for line in lines
            if line.get("action") == "run_status" and line.get("run_id") == run_id
        ]
        return found if found[-1:] == ["done"] else None

    assert until(statuses)
