"""kill -9 of the worker that calls hooks: before a call, during it, and before its record.

The worker has the role `hooks` alone, in a process of its own. `make test` has 20 kills, `make
soak` 200.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Role
from tests.chaos.gates import WORKER, Gate
from tests.chaos.hook_record import AFTER, BEFORE, assert_kept, in_force
from tests.chaos.installation import Installation, eventually, installation
from tests.chaos.moments import MOST
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.processes import WorkerProcess
from tests.receiver import AGREED, Answer, Call, Receiver, receiver
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.timeout(7200), pytest.mark.engine, pytest.mark.slow]

KILLS: Final = 20 if MOST <= 20 else 200
ALLOWED: Final = {"KNIT_HOOKS__ALLOW_LOOPBACK": "true"}
OTHERS: Final = sorted(ALL_ROLES - {Role.HOOKS})
TARGETS: Final = ("ready", "starting", "running", "completing", "done")


class When(StrEnum):
    """When the worker is killed, as seen from one call."""

    BEGIN_LOST = "the call is not on record yet"
    BEGIN_KEPT = "the call is on record, but not made"
    CALLED = "the receiver has the call and has not answered"
    END_LOST = "the receiver has answered, which is not on record"
    END_KEPT = "the answer is on record, but nobody has heard of it"


@dataclass(frozen=True)
class Place:
    """The call of one hook for one transition."""

    path: str
    target: str

    def gate(self, when: When) -> Gate:
        """Gives the commit before which the worker stands then."""
        begins = when in (When.BEGIN_LOST, When.BEGIN_KEPT)
        change, and_state = ("INSERT", "") if begins else ("UPDATE", "AND NEW.state = 'succeeded'")
        condition = f"NEW.url LIKE '%{self.path}' AND NEW.to_status = '{self.target}' {and_state}"
        return Gate(f"{self.path} {self.target} {change}", "hook_delivery", change, condition)


PLACES: Final = [Place(path, target) for target in TARGETS for path in (*BEFORE, *AFTER)]
GATES: Final = [place.gate(w) for place in PLACES for w in (When.BEGIN_KEPT, When.END_KEPT)]
Traps = Mapping[Place, When]


def traps(run: int) -> Traps:
    """Says when the worker is killed, in the course of this Run: at every call another time.

    Calls of After hooks are made side by side, so only one of two is looked at.
    """
    looked_at = (*BEFORE, AFTER[run % len(AFTER)])
    places = [place for place in PLACES if place.path in looked_at]
    whens = list(When)
    return {place: whens[(number + run) % len(whens)] for number, place in enumerate(places)}


@dataclass
class Held:
    """Calls that the receiver has and does not answer."""

    wanted: set[Place] = field(default_factory=set)
    there: dict[Place, threading.Event] = field(default_factory=dict)

    def answer(self, call: Call) -> Answer:
        """Agrees, at once or when it is let go."""
        place = Place(call.path, call.transition[1])
        if place in self.wanted:
            self.wanted.discard(place)
            self.there[place] = threading.Event()
            self.there[place].wait(PATIENCE)
        return AGREED


@dataclass
class Scene:
    """A Plan, hooks in force, and the worker that calls them."""

    site: Installation
    plan_id: PlanId
    hooks: Receiver
    worker: WorkerProcess
    held: Held

    async def run_of(self, knit_id: KnitId) -> RunId:
        """Waits for the Run that a Data means."""
        query = RunQuery(
            plan_ids=frozenset({self.plan_id}), input_knit_ids=frozenset({str(knit_id)})
        )
        await eventually(lambda: self.site.store.runs.find(query))
        return (await self.site.store.runs.find(query))[0].summary.run_id

    async def killed(self, traps: Traps) -> list[tuple[str, When]]:
        """Carries out one Run, whose hooks' worker is killed in each trap that it comes to.

        Gives the path and the time of each kill.
        """
        self.held.wanted = {place for place, when in traps.items() if when is When.CALLED}
        gates = {p.gate(when): (p, when) for p, when in traps.items() if when is not When.CALLED}
        for gate in gates:
            await self.site.gates.close(gate)
        _, knit_id = await self.site.made(Tag("type", "dataset"))
        run_id = await self.run_of(knit_id)
        ending = asyncio.create_task(self._ended(run_id))
        kills: list[tuple[str, When]] = []
        try:
            while not ending.done():
                sprung = await self._sprung(gates)
                if not sprung:
                    await asyncio.sleep(0.01)
                    continue
                self.worker.kill()
                kills += [(place.path, when) for place, when in sprung[:1]]
                # What has come to another trap meanwhile was killed there.
                for place, when in await self._sprung(gates):
                    await self._let_go(place, when)
                self.worker.start()
            await ending
        finally:
            ending.cancel()
            for gate in gates:
                await self.site.gates.open(gate)
        await assert_kept(self.site.store, run_id, self.hooks)
        return kills

    async def _ended(self, run_id: RunId) -> None:
        handle = self.site.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        while True:
            status = (await self.site.store.runs.get(run_id)).summary.status
            if status.is_final:
                assert status is RunStatus.DONE
                await handle.result()
                return
            await asyncio.sleep(0.05)

    async def _sprung(self, gates: Mapping[Gate, tuple[Place, When]]) -> list[tuple[Place, When]]:
        standing = [gates[gate] for gate in await self.site.gates.standing()]
        return standing + [(place, When.CALLED) for place in list(self.held.there)]

    async def _let_go(self, place: Place, when: When) -> None:
        if when is When.CALLED:
            self.held.there.pop(place).set()
            return
        if when in (When.BEGIN_LOST, When.END_LOST):
            await self.site.gates.turn_back(place.gate(when))
        await self.site.gates.open(place.gate(when))


@asynccontextmanager
async def scene(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path, *gates: Gate
) -> AsyncIterator[Scene]:
    """Starts all: one worker for everything else, and one for hooks."""
    need_bubblewrap()
    logs = folder / "hooks"
    logs.mkdir()
    with receiver() as hooks:
        async with installation(postgres, temporal, folder, *gates, roles=OTHERS) as site:
            url = f"{site.environment['KNIT_STORE__URL']}&application_name={WORKER}"
            environment = {**site.environment, **ALLOWED, "KNIT_STORE__URL": url}
            worker = WorkerProcess(environment, logs, roles=[Role.HOOKS])
            await site.store.hooks.configure(in_force(hooks))
            plan = await site.apply(PLAN)
            held = Held()
            hooks.answer = held.answer
            worker.start()
            try:
                await worker.ready()
                yield Scene(site, plan.summary.plan_id, hooks, worker, held)
            finally:
                for hold in held.there.values():
                    hold.set()
                await asyncio.to_thread(worker.end)


PLAN: Final = {
    "image": "host/sh:1",
    "entrypoint": ["sh", "-c", "echo x >> /out/counter"],
    "inputs": [{"path": "/in", "tags": ["type:dataset"]}],
    "outputs": [{"path": "/out", "tags": ["type:result"]}],
}


async def test_killed_around_every_call(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Before hooks are asked at least once, After hooks told at most once, and both on record."""
    async with scene(postgres, temporal_client, tmp_path, *GATES) as on_stage:
        kills: list[tuple[str, When]] = []
        run = 0
        while len(kills) < KILLS:
            kills += await on_stage.killed(traps(run))
            run += 1
        before = {when for path, when in kills if path in BEFORE}
        assert before == set(When)
