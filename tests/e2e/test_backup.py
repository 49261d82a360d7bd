"""A backup of a stack at work, into another one: killed on both ways, and nothing is missing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

LARGE = 96 << 20


def killed_once(stack: DevStack, condition: Callable[[], object], *arguments: str | Path) -> None:
    """Starts a command, and kills it with SIGKILL as soon as something is so, if it still runs."""
    process = stack.start(*arguments)
    try:
        until(lambda: process.poll() is not None or bool(condition()))
    finally:
        process.kill()
        process.communicate()


def known(stack: DevStack, path: str, key: str) -> dict[str, Any]:
    return {one[key]: one for one in stack.get(path, limit="1000")}


def test_a_stack_at_work_comes_back_elsewhere(tmp_path: Path) -> None:
    """Data, Runs and lineage are the same, and no combination is executed a second time."""
    kept = tmp_path / "kept"
    with dev_folder() as first, dev_folder() as second, dev_stack(first) as stack:
        stack.up()
        quick = stack.apply(shell_plan("cat /in/word > /out/word; echo said", "a:1"))
        slow = stack.apply(shell_plan("sleep 3000", "b:1"))
        ids = [stack.push(f"word {number}", "a:1") for number in range(3)]
        stack.push("slow", "b:1")
        large = tmp_path / "large"
        large.mkdir()
        (large / "file").write_bytes(os.urandom(LARGE))
        pushed = stack.knit("data", "push", "--tag", "c:1", large).json()["knitId"]
        under_way = stack.run_in(slow, "running")["runId"]
        until(lambda: [one["status"] for one in stack.runs(quick)] == ["done"] * 3)

        working = threading.Event()
        more: list[str] = []

        def push_on() -> None:
            while not working.is_set():
                more.append(stack.push(f"more {len(more)}", "a:1"))

        pushing = threading.Thread(target=push_on)
        pushing.start()
        try:
            blobs = kept / "blobs"
            drafts = kept / "drafts"
            killed_once(stack, lambda: len(list(drafts.glob("*"))) > 3, "admin", "backup", kept)
            stored = {one.name for one in blobs.rglob("*.zst")}
            made = stack.knit("admin", "backup", kept, "--json").json()
        finally:
            working.set()
            pushing.join()
        # A Run that is begun here after the backup that counts is begun there with other Data.
        until(lambda: settled(stack, quick, len(stack.get("/data", tag="a:1", limit="1000"))))
        assert made["unreadable"] == {}
        assert made["runsUnderWay"] >= 1
        assert stored <= {one.name for one in blobs.rglob("*.zst")}
        again = stack.knit("admin", "backup", kept, "--json", "--keep", "1").json()
        assert again["removedSets"]
        data, runs = (known(stack, *one) for one in (("/data", "knitId"), ("/runs", "runId")))
        stack.down()

        with dev_stack(second) as other:
            other.up()
            assert (
                other.knit("admin", "restore", kept, "--dry-run", "--json").json()["bytes"] > LARGE
            )
            volumes = other.state / "compute" / "volumes"
            killed_once(other, lambda: any(volumes.iterdir()), "admin", "restore", kept)
            if not other.get("/data"):
                restored = other.knit("admin", "restore", kept, "--json").json()
                assert restored["made"] + restored["equal"] == again["volumes"]
            assert other.knit("admin", "restore", kept, "--json").json()["already"] is True

            found = known(other, "/data", "knitId")
            assert found.keys() <= data.keys()
            assert {*ids, pushed} <= found.keys()
            for one in [*ids, pushed]:
                assert found[one] == data[one]
            cut = other.get(f"/runs/{under_way}")
            assert cut["status"] == "failed"
            assert "under way when the backup of" in cut["exit"]["message"]
            for run_id, run in known(other, "/runs", "runId").items():
                if runs[run_id]["status"] == "done" and run["status"] == "done":
                    assert run == runs[run_id]
            copy = next(one for one in other.runs(quick) if one["status"] == "done")
            out = next(one["knitId"] for one in copy["outputs"])
            assert other.pulled(out)["word"].startswith(("word", "more"))

            # What waited or comes now is executed, and nothing else: once per combination.
            other.push("new", "a:1")
            inputs = {one["knitId"] for one in other.get("/data", tag="a:1")}
            until(lambda: len([one for one in other.runs(quick) if one["status"] == "done"])
                  + failed(other, quick) == len(inputs))  # fmt: skip
            assert len(other.runs(quick)) == len(inputs)
            other.knit("run", "retry", under_way)
            assert other.run_in(slow, "running")["runId"] == under_way
            later = other.knit("admin", "backup", tmp_path / "later", "--json").json()
            refused = other.knit("admin", "restore", tmp_path / "later", code=1).err
            assert "is not empty" in refused
            assert later["volumes"] > 0


def settled(stack: DevStack, plan_id: str, count: int) -> bool:
    """Says whether so many Runs of a Plan are there, and all have ended."""
    statuses = [one["status"] for one in stack.get("/runs", plan=plan_id, limit="1000")]
    return len(statuses) == count and set(statuses) <= {"done", "failed"}


def failed(stack: DevStack, plan_id: str) -> int:
    return len([one for one in stack.runs(plan_id) if one["status"] == "failed"])
