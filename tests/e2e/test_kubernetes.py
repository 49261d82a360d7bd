"""The same Plans on a real Kubernetes node: `knit dev` with its worker pointed at the cluster."""

from __future__ import annotations

import asyncio
import json

import pytest

from knit_workflows.domain.runs.timing import TimedPhase
from tests.e2e.cluster_stack import WITHIN, Knit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def _gone(knit: Knit, run_id: str) -> None:
    async with asyncio.timeout(WITHIN):
        while any(run_id in name for name in await knit.adapter.backend.run_pods()):
            await asyncio.sleep(0.2)


async def test_push_run_log_pull(knit: Knit) -> None:
    """What is pushed is what the container sees; what it makes and says is what is pulled."""
    script = "echo to stdout; echo to stderr >&2; tr a-z A-Z < /in/word > /out/word"
    plan_id = await asyncio.to_thread(knit.apply, "word", ["sh", "-c", script])
    knit_id = await asyncio.to_thread(knit.push, "word", word="knit")
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "done", run
    log = await asyncio.to_thread(knit, "run", "show", "--log", run["runId"])
    assert log.splitlines() == ["to stdout", "to stderr"]
    made = run["outputs"][0]["knitId"]
    await asyncio.to_thread(knit, "data", "pull", "-x", made, str(knit.folder))
    assert (knit.folder / made / "word").read_text() == "KNIT"
    spent = json.loads(await asyncio.to_thread(knit, "run", "show", "--timing", run["runId"]))
    phases = [one["phase"] for one in spent["phases"]]
    # Some may be too short to be seen: the instants of Kubernetes are whole seconds.
    assert phases == [phase.value for phase in TimedPhase if phase in phases]
    assert {"queue", "engine", "container", "finalize"} <= {*phases}
    tree = await asyncio.to_thread(knit, "data", "lineage", "--format", "tree", made)
    assert knit_id in tree
    await _gone(knit, run["runId"])


@pytest.mark.parametrize(
    ("kind", "command", "more", "code", "reason"),
    [
        ("three", ["sh", "-c", "exit 3"], {}, 3, "(container main) Error"),
        ("signal", ["sh", "-c", "sh -c 'kill -KILL $$'; exit $?"], {}, 137, "main"),
        ("nothing", ["/no/such/command"], {}, 128, "no such file"),
        ("glutton", ["sh", "-c", "tail /dev/zero"], {}, 137, "OOMKilled"),
        ("imageless", ["true"], {"image": "MISSING"}, 255, "Image"),
    ],
)
async def test_what_fails_says_why(
    knit: Knit, kind: str, command: list[str], more: dict[str, object], code: int, reason: str
) -> None:
    """The Run is failed, with the code and a reason that a user understands."""
    if "image" in more:
        more = {"image": knit.adapter.missing_image}
    plan_id = await asyncio.to_thread(knit.apply, kind, command, **more)
    await asyncio.to_thread(knit.push, kind, word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "failed"
    assert run["exit"]["code"] == code, run["exit"]
    assert reason in run["exit"]["message"], run["exit"]
    await _gone(knit, run["runId"])


async def test_a_stopped_run_is_gone_before_it_is_final(knit: Knit) -> None:
    """Stops as good enough: what it had written is Data; nothing writes any more."""
    command = ["sh", "-c", "trap '' TERM; while :; do echo x >> /out/ticks; sleep 0.1; done"]
    plan_id = await asyncio.to_thread(knit.apply, "endless", command)
    await asyncio.to_thread(knit.push, "endless", word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "running")
    await asyncio.to_thread(knit, "run", "stop", run["runId"])
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "done"
    assert not any(run["runId"] in name for name in await knit.adapter.backend.run_pods())


async def test_an_evicted_run_is_launched_again(knit: Knit) -> None:
    """Its program obeys and exits with 0 the first time; only the second time is it done."""
    first = "case $(hostname) in *-2-*) ;; *) sleep 300 & wait;; esac"
    script = f"trap 'exit 0' TERM; echo once >> /out/ticks; {first}"
    plan_id = await asyncio.to_thread(knit.apply, "evicted", ["sh", "-c", script])
    await asyncio.to_thread(knit.push, "evicted", word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "running")
    await knit.adapter.cluster.evict(run["runId"])
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert (run["status"], run["generation"]) == ("done", 2), run
    history = await asyncio.to_thread(knit, "run", "show", "--events", run["runId"])
    assert "launched again, 1 of at most 3 times" in history
    made = run["outputs"][0]["knitId"]
    await asyncio.to_thread(knit, "data", "pull", "-x", made, str(knit.folder))
    assert (knit.folder / made / "ticks").read_text() == "once\n"
    await _gone(knit, run["runId"])
