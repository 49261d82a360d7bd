"""Random histories: writers, consumers that may be killed, and what must be there at the end."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import CyclicPlans, EquivalentPlan, StoreUnavailable
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plans.model import PlanSpec
from knit_workflows.domain.tags import Tag
from knit_workflows.store import PostgresStore
from tests.store.build import begin, drain, end, fetch, runs_in, spec
from tests.store.model import ModelData, ModelPlan, ModelRun, expected_runs
from tests.waiting import until

KINDS = ("a", "b", "c")
MOST_DATA, MOST_PLANS, MOST_PAIRS = 60, 40, 4
"""Runs grow with the square of the Data: bounds that keep a history to some 10,000."""
VERSIONS = ("1", "2")


@dataclass
class History:
    """What writers have done: Data with all tags they ever had, and Plans."""

    seed: int
    removals: bool = False
    data: dict[KnitId, set[Tag]] = field(default_factory=dict)
    ever: dict[KnitId, set[Tag]] = field(default_factory=dict)
    done: dict[KnitId, bool] = field(default_factory=dict)
    plans: list[tuple[str, PlanSpec]] = field(default_factory=list)
    locks: dict[KnitId, asyncio.Lock] = field(default_factory=dict)
    pace: float = 1.0
    """How much slower than usual the writers are, so that a long history grows all the time."""
    images: int = 0
    pairs: int = 0
    killed: int = 0


async def write(store: PostgresStore, history: History, number: int, ends: float) -> None:
    """Registers Data, tags and Plans at random until the time is over."""
    dice = random.Random(f"{history.seed}:{number}")
    while time.monotonic() < ends:
        turn = dice.random()
        if turn < 0.45 and len(history.data) < MOST_DATA:
            await _new_data(store, history, dice)
        elif turn < 0.93 or len(history.plans) >= MOST_PLANS:
            await _change(store, history, dice)
        else:
            await _new_plan(store, history, dice)
        # The more there is, the longer consumers need: they should be in the middle, not behind.
        await asyncio.sleep(history.pace * dice.random() * 0.04 * (1 + len(history.data) / 50))


def _some_tags(dice: random.Random) -> set[Tag]:
    tags = {Tag("kind", dice.choice(KINDS))}
    if dice.random() < 0.5:
        tags.add(Tag("v", dice.choice(VERSIONS)))
    if dice.random() < 0.5:
        tags.add(Tag("project", "race"))
    return tags


async def _new_data(store: PostgresStore, history: History, dice: random.Random) -> None:
    key, knit_id = await begin(store)
    tags = _some_tags(dice)
    history.locks[knit_id] = asyncio.Lock()
    history.data[knit_id], history.ever[knit_id] = set(tags), set(tags)
    fails = dice.random() < 0.1
    history.done[knit_id] = not fails
    early = dice.random() < 0.5
    adding = store.data.change_tags(knit_id, TagChange(add=frozenset(tags)))
    if early:
        await asyncio.gather(adding, end(store, key, fail=fails))
    else:
        await end(store, key, fail=fails)
        await adding


async def _change(store: PostgresStore, history: History, dice: random.Random) -> None:
    if not history.data:
        return
    knit_id = dice.choice(list(history.data))
    async with history.locks[knit_id]:  # so that the test knows which change came last
        add = _some_tags(dice)
        remove: set[Tag] = set()
        if history.removals and dice.random() < 0.7:
            present = sorted(history.data[knit_id] - add)
            remove = set(dice.sample(present, min(len(present), 1)))
        change = TagChange(add=frozenset(add), remove=frozenset(remove))
        history.ever[knit_id] |= add
        await store.data.change_tags(knit_id, change)
        history.data[knit_id] = (history.data[knit_id] - remove) | add


async def _new_plan(store: PostgresStore, history: History, dice: random.Random) -> None:
    history.images += 1
    requirements = {}
    width = dice.choice((1, 1, 2)) if history.pairs < MOST_PAIRS else 1
    history.pairs += width == 2
    for place in range(width):
        requirement = f"kind:{dice.choice(KINDS)}"
        if dice.random() < 0.6:
            requirement += f" v:{dice.choice(VERSIONS)}"
        if dice.random() < 0.3:
            requirement += " project:race"
        if history.data and dice.random() < 0.15:
            requirement = f"knit#id:{dice.choice(list(history.data))}"
        requirements[f"/in/{place}"] = requirement
    wanted = spec(requirements, {"/out": "made:here"}, image=f"race:{history.images}")
    with suppress(EquivalentPlan, CyclicPlans):
        plan = await store.plans.register(wanted, new_runs_limit=None)
        history.plans.append((plan.summary.plan_id, wanted))


async def consume(store: PostgresStore, ends: float, page_size: int) -> None:
    """Projects until the time is over."""
    while time.monotonic() < ends:
        if await store.projection.project(page_size=page_size) is None:
            await asyncio.sleep(0.005)


_VICTIMS_AT_WORK: Final = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'victim' AND state <> 'idle'"
)


async def kill_consumers(
    store: PostgresStore, history: History, ends: float, *, url: str, page_size: int
) -> None:
    """Runs a consumer that is torn down again and again: cancelled, or its backend killed."""
    dice = random.Random(f"{history.seed}:killer")
    while time.monotonic() < ends:
        task = asyncio.create_task(consume(store, ends, page_size))
        await asyncio.sleep(dice.random() * 0.08)
        if dice.random() < 0.5:
            task.cancel()
        else:
            await asyncio.to_thread(
                fetch,
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ("
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'victim' ORDER BY random() LIMIT 1)",
            )
            await asyncio.sleep(0.01)
            task.cancel()
        history.killed += 1
        with suppress(asyncio.CancelledError, StoreUnavailable):
            await task


async def run_history(
    store: PostgresStore, victim: PostgresStore, url: str, history: History, seconds: float
) -> None:
    """Lets 8 writers and 3 consumers (one of them a victim) work at once, then drains."""
    ends = time.monotonic() + seconds
    await asyncio.gather(
        *(write(store, history, number, ends) for number in range(8)),
        consume(store, ends, 1),
        consume(store, ends, 7),
        kill_consumers(victim, history, ends, url=url, page_size=3),
    )
    # A server's process whose client has gone away may still hold what it has locked.
    await until(lambda: not fetch(url, _VICTIMS_AT_WORK))
    await drain(store, page_size=500)


def model(url: str, history: History, *, ever: bool = False) -> set[ModelRun]:
    """Gives the Runs the plain model computes: from the tags at the end, or from all there were."""
    stamps = {
        row["knit_id"]: row["timestamp"]
        for row in fetch(url, "SELECT knit_id::text, timestamp FROM data")
    }
    data = [
        ModelData(knit_id, frozenset(tags), history.done[knit_id], stamps[knit_id])
        for knit_id, tags in (history.ever if ever else history.data).items()
    ]
    plans = [
        ModelPlan(plan_id, tuple(one.requirement for one in wanted.inputs))
        for plan_id, wanted in history.plans
    ]
    return expected_runs(data, plans)


def sound(url: str) -> None:
    """Checks what every history must leave: whole Runs, an empty outbox, nothing twice."""
    assert fetch(url, "SELECT * FROM outbox") == []
    assert (
        fetch(
            url,
            """SELECT r.run_id FROM run r
                WHERE r.assignment_hash IS NOT NULL
                  AND ((SELECT count(*) FROM run_input i WHERE i.run_id = r.run_id)
                       <> (SELECT count(*) FROM plan_input i WHERE i.plan_id = r.plan_id)
                   OR (SELECT count(*) FROM data d WHERE d.run_id = r.run_id)
                       <> (SELECT count(*) FROM plan_output o WHERE o.plan_id = r.plan_id)
                   OR NOT EXISTS (SELECT FROM run_event e WHERE e.run_id = r.run_id))""",
        )
        == []
    )


def projected(url: str) -> set[ModelRun]:
    return set(runs_in(url))
