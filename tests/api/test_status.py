"""`GET /api/status`."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import httpx

from knit_api.accounts.projects import seen_by
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.ports.situation import Backlog, Situation
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.inspection.status import problems_of
from knit_workflows.store.migrations import REVISION
from knit_workflows.temporal.backup_schedule import FoundSchedule
from knit_workflows.temporal.queue_state import EngineState, RoleState
from knit_workflows.temporal.worker_versions import VersionAtWork
from tests.api.fake_transfers import FakeTransfers
from tests.memory_store import MemoryStore

IDLE = EngineState("1.2", [RoleState("engine", "knit", 1, 0), RoleState("hooks", "knit", 0, 0)])


def situation(**backlog) -> Situation:
    at = MemoryStore().memory.now()
    return Situation(at, [], [], 0, 0, [], Backlog(**backlog), REVISION)


async def test_it_tells_runs_failures_workers_and_versions(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    waiting = store.add_run(RunStatus.WAITING)
    failed = store.add_run(RunStatus.FAILED)
    found = (await client.get("/status")).json()
    assert found["problems"] == []
    assert [(one["status"], one["runs"], one["runId"]) for one in found["runs"]] == [
        ("waiting", 1, waiting.summary.run_id)
    ]
    assert found["ended"]["failed"] == 1
    assert [one["runId"] for one in found["ended"]["failures"]] == [failed.summary.run_id]
    assert {one["role"]: one["workers"] for one in found["workers"]}["engine"] == 1
    assert set(found["versions"]) == {"knit", "database", "temporal"}


async def test_without_temporal_it_still_answers_and_says_so(
    client: httpx.AsyncClient, transfers: FakeTransfers
) -> None:
    transfers.broken = EngineUnavailable("nobody listens")
    answer = await client.get("/status")
    assert answer.status_code == 200
    found = answer.json()
    assert found["problems"] == ["Temporal does not answer: nobody listens"]
    assert (found["workers"], "temporal" in found["versions"]) == ([], False)


def test_backups_that_do_not_come_about_are_said() -> None:
    now = situation()
    late = FoundSchedule(
        destination="/kept",
        when="every 1 h",
        keep=None,
        is_paused=False,
        made_at=now.at - timedelta(hours=3),
        running=False,
        period=timedelta(hours=1),
        unreadable=2,
        unpruned="the set one is damaged",
    )
    role = RoleState("backup", "knit-backup", 0, 0)
    engine = EngineState("1.2", [*IDLE.roles, role], backups=late)
    found = problems_of(now, engine, has_hooks=False)
    assert found[0].startswith("no worker has the role backup:")
    assert "no scheduled backup has succeeded since" in found[1]
    assert "without 2 Data" in found[2]
    assert found[3].endswith("cannot be removed: the set one is damaged")
    without = dataclasses.replace(engine, backups=None)
    assert problems_of(now, without, has_hooks=False) == []


async def test_a_caller_bound_to_a_project_sees_the_runs_of_its_plans_alone() -> None:
    store = MemoryStore()
    project = Tag("project", "a")
    store.add_run(RunStatus.WAITING)
    theirs = await seen_by(store, frozenset({project})).situation.look()
    assert list(theirs.counts) == []
    whole = await store.situation.look()
    assert [one.status for one in whole.counts] == [RunStatus.WAITING]


def test_roles_without_workers_need_attention_and_hooks_only_if_there_are_any() -> None:
    assert problems_of(situation(), IDLE, has_hooks=False) == []
    [hooks] = problems_of(situation(), IDLE, has_hooks=True)
    assert hooks.startswith("no worker has the role hooks")


def test_what_is_held_or_late_needs_attention() -> None:
    held = situation(held="the disk is full", oldest_event=timedelta(minutes=7), events=3)
    first, second = problems_of(held, IDLE, has_hooks=False)
    assert first == "no Run is admitted: the disk is full"
    assert second.startswith("a commit has waited for 7 min")


def version(build: str, state: str, workers: int, workflows: int | None = None) -> VersionAtWork:
    return VersionAtWork(build, state, None, workers, workflows)


def test_versions_without_which_something_stands_still_need_attention() -> None:
    """Not those that drain as they should, and not what is over."""
    well = [version("2", "current", 1), version("1", "draining", 1, 3), version("0", "drained", 0)]
    engine = dataclasses.replace(IDLE, versions=well)
    assert problems_of(situation(), engine, has_hooks=False) == []
    gone = dataclasses.replace(engine, versions=[well[0], version("1", "draining", 0, 3)])
    [waits] = problems_of(situation(), gone, has_hooks=False)
    assert waits.startswith("3 workflows wait for workers of version 1: add it to workers.vers")
    ended = dataclasses.replace(engine, versions=[well[0], version("1", "draining", 0, 0)])
    assert problems_of(situation(), ended, has_hooks=False) == []
    nowhere = dataclasses.replace(engine, versions=[version("2", "inactive", 1)])
    [none] = problems_of(situation(), nowhere, has_hooks=False)
    assert none.startswith("workers have versions, and none of them is current")
    off = dataclasses.replace(engine, versions=[version("2", "drained", 0)])
    assert problems_of(situation(), off, has_hooks=False) == []
