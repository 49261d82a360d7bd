"""kill -9 of any process of `knit dev` while its hooks are called; started again, nothing is amiss.

What the receiver got and what knit has on record agree afterwards.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import psutil
import pytest
import yaml
from pydantic import SecretStr

from knit_cli.dev.dev_folder import DevFolder
from knit_workflows.domain.ids import RunId
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from tests.chaos.hook_record import AFTER, BEFORE, assert_kept
from tests.chaos.test_dev_stack import kill, words_of
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import WITHIN, DevStack, dev_stack, shell_plan, until
from tests.receiver import AGREED, Answer, Call, Receiver, receiver

pytestmark = [pytest.mark.timeout(1800), pytest.mark.engine, pytest.mark.slow]

FILE: Final = "hooks.yaml"
MOMENTS: Final = (("/b", "starting"), ("/c", "running"))
"""The calls in the middle of which something is killed: a Before hook's and an After hook's."""
QUICK: Final = {"KNIT_ENGINE__HEARTBEAT": "PT2S", "KNIT_ENGINE__PROJECTOR_HEARTBEAT": "PT2S"}


@dataclass
class Held:
    """Holds back the answer to the next call of chosen hooks for chosen targets."""

    wanted: set[tuple[str, str]] = field(default_factory=set)
    there: dict[tuple[str, str], threading.Event] = field(default_factory=dict)

    def answer(self, call: Call) -> Answer:
        place = (call.path, call.transition[1])
        if place in self.wanted:
            self.wanted.discard(place)
            self.there[place] = threading.Event()
            self.there[place].wait(WITHIN)
        return AGREED


@dataclass
class World:
    """A stack with hooks in force, and their receiver."""

    stack: DevStack
    hooks: Receiver
    held: Held

    def kill(self, name: str) -> None:
        """Kills one process, or all at once; waits until it is there again."""
        before = self.stack.ready()
        numbers = {**before["processes"], "supervisor": before["supervisor"]}
        if name == "all":
            for pid in (numbers.pop("supervisor"), *numbers.values()):
                os.kill(pid, signal.SIGKILL)
            until(lambda: not any("postgres" in words_of(one) for one in self.stack.processes()))
        else:
            kill(numbers[name])
        if name in ("all", "supervisor"):
            self.stack.up("--hooks", FILE)
            return

        def another() -> bool:
            record = DevFolder(self.stack.state).running()
            return (
                record is not None and record.ready and record.processes[name].pid != numbers[name]
            )

        until(another)

    def all_told(self, run_id: str) -> bool:
        """Says whether the last After hooks have been called."""
        found = self.stack.get("/hooks/deliveries", run=run_id)
        last = [one for one in found if (one["phase"], one["to"]) == ("after", "done")]
        return len(last) == len(AFTER) and all(one["state"] != "calling" for one in last)

    async def assert_kept(self, run_id: str) -> None:
        """Looks into the stack's database."""
        api = psutil.Process(self.stack.ready()["processes"]["api"])
        url = api.environ()["KNIT_STORE__URL"]
        store = PostgresStore(StoreSettings(url=SecretStr(url)))
        await store.open()
        try:
            await assert_kept(store, RunId(run_id), self.hooks)
        finally:
            await store.aclose()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need_bubblewrap()
    held = Held()
    with receiver() as hooks, dev_stack(**QUICK) as stack:
        hooks.answer = held.answer
        before, after = (list(map(hooks.url, paths)) for paths in (BEFORE, AFTER))
        lists = {"lifecycle-hooks": {"before": before, "after": after}}
        (stack.folder / FILE).write_text(yaml.safe_dump(lists))
        stack.up("--hooks", FILE)
        try:
            yield World(stack, hooks, held)
        finally:
            for hold in held.there.values():
                hold.set()


@pytest.mark.parametrize(
    "name",
    ["worker-interactive", "worker", "postgres", "temporal", "api", "supervisor", "all"],
)
def test_killed_while_hooks_are_called(world: World, name: str) -> None:
    tag = f"hooks:{name}"
    plan = world.stack.apply(shell_plan("echo x >> /out/counter", tag))
    world.held.wanted = set(MOMENTS)
    world.stack.push("x", tag)
    for moment in MOMENTS:
        until(lambda moment=moment: moment in world.held.there)
        world.kill(name)
        world.held.there.pop(moment).set()
    run = world.stack.run_in(plan, "done", "failed")
    assert run["status"] == "done"
    assert world.stack.pulled(run["outputs"][0]["knitId"]) == {"counter": "x\n"}
    until(lambda: world.all_told(run["runId"]))
    asyncio.run(world.assert_kept(run["runId"]))
