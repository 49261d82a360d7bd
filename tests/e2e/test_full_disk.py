"""Everything of `knit dev` on one small disk that runs full: it is told, and there is a way out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, small_disk, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

FILL = "cat /dev/zero > /out/all; exit 3"
PERSIST = "until head -c 4194304 /dev/zero > /out/all; do sleep 0.1; done; echo written > /out/word"
GREEDY = "while :; do cat /dev/zero >> /out/all; sleep 0.02; done 2>/dev/null"
SMALL = 1 << 20


@pytest.fixture(scope="module")
def stack() -> Iterator[DevStack]:
    """A stack whose whole state folder has 300 MiB; deleted volumes go as they do by default."""
    with (
        dev_folder() as folder,
        small_disk(folder / ".knit" / "dev", "300m"),
        dev_stack(
            folder, KNIT_ENGINE__GC_INTERVAL="PT2S", KNIT_ENGINE__POLL_INTERVAL="PT2S"
        ) as stack,
    ):
        stack.state.chmod(0o755)
        stack.up()
        yield stack


def free(stack: DevStack) -> int:
    return shutil.disk_usage(stack.state).free


def disk(stack: DevStack) -> dict[str, Any]:
    """What `knit dev status` says of it."""
    said: dict[str, Any] = stack.status()["disk"]
    return said


def relieved(stack: DevStack) -> bool:
    """There is room, and the reserve is whole."""
    said = disk(stack)
    return said["state"] == "ok" and said["reserveBytes"] == said["floorBytes"]


def test_a_run_that_filled_the_disk_is_deleted_and_all_goes_on(stack: DevStack) -> None:
    """Fills, sees words, deletes, sees bytes freed; what waited goes on by itself."""
    until(lambda: relieved(stack))
    before = free(stack)
    stack.push("later", "full:later")
    plan = stack.apply(shell_plan(FILL, "full:now"))
    stack.push("x", "full:now")
    run = stack.run_in(plan, "failed")
    assert run["exit"]["code"] == 3 or "No space left" in run["exit"]["message"], run
    assert disk(stack)["state"] != "ok"
    (stack.folder / "refused").write_text("x")
    said = stack.knit("data", "push", stack.folder / "refused", code=1).err
    assert f"the disk of {stack.state}" in said
    assert "hint: make room there" in said

    waits = stack.apply(shell_plan("cp /in/word /out/word", "full:later"))

    def reason() -> str:
        """Why the Run waits; nothing in the moment in which it comes."""
        return "".join(one.get("waiting", {}).get("reason", "") for one in stack.runs(waits))

    until(lambda: f"the disk of {stack.state}" in reason())

    stack.knit("run", "rm", run["runId"])
    until(lambda: free(stack) > before - 20 * SMALL)
    done = stack.run_in(waits, "done", "failed")
    assert stack.pulled(done["outputs"][0]["knitId"]) == {"word": "later"}
    until(lambda: relieved(stack))


def test_a_run_under_way_goes_on_when_there_is_room_again(stack: DevStack) -> None:
    """It had to wait; nothing of it is lost, its lineage included."""
    until(lambda: relieved(stack))
    ballast = stack.state / "ballast"
    plan = stack.apply(shell_plan(f"echo up; sleep 3; {PERSIST}", "full:under-way"))
    stack.push("x", "full:under-way")
    stack.run_in(plan, "running", "starting")
    fill(ballast)
    until(lambda: disk(stack)["state"] != "ok")
    ballast.unlink()
    run = stack.run_in(plan, "done", "failed")
    assert run["status"] == "done", run
    assert stack.pulled(run["outputs"][0]["knitId"])["word"] == "written\n"


def test_a_run_that_takes_all_it_gets_can_be_stopped_and_deleted(stack: DevStack) -> None:
    """It pauses, so that there is something left of the reserve for those who make room."""
    until(lambda: relieved(stack))
    before = free(stack)
    plan = stack.apply(shell_plan(GREEDY, "full:greedy"))
    stack.push("x", "full:greedy")
    until(lambda: disk(stack)["state"] == "full")
    stack.knit("run", "stop", "--fail", stack.runs(plan)[0]["runId"])
    run = stack.run_in(plan, "failed")
    stack.knit("run", "rm", run["runId"])
    until(lambda: free(stack) > before - 20 * SMALL)


def fill(file: Any) -> None:
    """Writes until there is no room."""
    with file.open("wb", buffering=0) as writing:
        try:
            while True:
                writing.write(bytes(SMALL))
        except OSError:
            return
