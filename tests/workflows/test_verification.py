"""Database, Temporal and back-end are compared: each kind of disagreement is found, and mended."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from knit_workflows import names
from knit_workflows.activities.run_starter import RunStarter
from knit_workflows.compute.base import RunPod
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.matching import assignment_hash
from knit_workflows.domain.ports import RunKey, StartableRun
from knit_workflows.domain.ports.agreement import RunEdges
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.inspection.database_checks import check_edges
from knit_workflows.inspection.findings import Finding
from knit_workflows.inspection.verify import Verification, repair
from knit_workflows.inspection.volume_checks import Names
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from tests.workflows.test_run import TRAIN, only_run, until_status

LEFT_ALONE = QUICK.model_copy(
    update={
        "gc_interval": timedelta(hours=1),
        "gc_grace_period": timedelta(hours=1),
        "poll_interval": timedelta(minutes=5),
    }
)
"""Nothing heals by itself within the test."""
NOW = timedelta(0)


async def found(knit: KnitEnvironment) -> list[Finding]:
    verification = Verification(knit.store, knit.backend, knit.temporal, grace=NOW)
    return [one async for one in verification.findings()]


async def mended(knit: KnitEnvironment, findings: list[Finding]) -> list[tuple[str, str]]:
    steps = repair(findings, knit.temporal, knit.deps.keeper(knit.temporal), grace=NOW)
    return [step async for step in steps]


async def test_what_agrees_gives_no_findings(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(postgres=postgres, engine=LEFT_ALONE) as knit:
        await knit.kept()
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        await knit.runs_of(plan.summary.plan_id, 1)
        verification = Verification(knit.store, knit.backend, knit.temporal, grace=NOW)
        assert [one async for one in verification.findings()] == []
        assert verification.counted["Runs"] == 1
        assert verification.counted["Data"] == verification.counted["volumes"] == 3


async def test_what_temporal_has_lost_is_found_and_mended(postgres: EmbeddedPostgres) -> None:
    """A Run's workflow, a transfer's, the Projector, a schedule; a workflow without a Run."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=LEFT_ALONE) as knit:
        await knit.kept()
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run = (await only_run(knit, plan.summary.plan_id)).summary
        await until_status(knit, run.run_id, RunStatus.RUNNING)
        upload = await knit.knit.open_upload()
        lost = (
            names.run_workflow(run.run_id, 1),
            names.transfer_workflow(upload.transfer_id),
            names.projector_workflow(0),
        )
        for workflow_id in lost:
            await knit.temporal.get_workflow_handle(workflow_id).terminate("lost")
        await knit.temporal.get_schedule_handle(names.GC_WORKFLOW).delete()
        first = await found(knit)
        assert {(one.check, one.subject) for one in first} == {
            ("runs", f"Run {run.run_id}"),
            ("transfers", f"Data {upload.knit_id}"),
            ("upkeep", names.projector_workflow(0)),
            ("upkeep", names.GC_WORKFLOW),
        }
        assert all(one.repair for one in first)
        assert [failure for _, failure in await mended(knit, first)] == ["", ""]
        assert await found(knit) == []
        backend.finish(names.run_pod(run.run_id, 1))
        assert (await knit.final(run.run_id)).summary.status is RunStatus.DONE
        assert backend.launches == [names.run_pod(run.run_id, 1)]


@asynccontextmanager
async def with_a_running_run(
    postgres: EmbeddedPostgres,
) -> AsyncIterator[tuple[KnitEnvironment, RunId, Callable[[], Awaitable[None]]]]:
    """Gives knit, a Run, and what ends it: then its workflow is over, too."""
    backend = MemoryBackend()
    backend.hold()
    async with knit_environment(postgres=postgres, backend=backend, engine=LEFT_ALONE) as knit:
        await knit.kept()
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "dataset"})
        run_id = (await only_run(knit, plan.summary.plan_id)).summary.run_id
        await until_status(knit, run_id, RunStatus.RUNNING)

        async def end() -> None:
            backend.finish(names.run_pod(run_id, 1))
            await knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1)).result()

        yield knit, run_id, end


def followed_by(
    look: Callable[..., Awaitable[Any]], happens: Callable[[], Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    """Looks, and has something happen as soon as something is found."""

    async def looked(**arguments: Any) -> Any:
        if found := await look(**arguments):
            await happens()
        return found

    return looked


async def test_what_ends_while_it_is_looked_at_is_not_lost(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was under way when it was found, and its workflow is over when it is asked for."""
    async with with_a_running_run(postgres) as (knit, _, end_run):
        upload, store = await knit.knit.open_upload(), knit.store.housekeeping

        async def end_upload() -> None:
            await knit.knit.finish(upload, ok=True)

        stale = followed_by(store.stale_transfers, end_upload)
        monkeypatch.setattr(store, "stale_transfers", stale)
        monkeypatch.setattr(store, "under_way", followed_by(store.under_way, end_run))
        assert await found(knit) == []


async def test_a_run_that_has_just_ended_is_not_started_again(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_a_running_run(postgres) as (knit, run_id, end_run):
        workflow = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
        execution = (await workflow.describe()).run_id
        store = knit.store.housekeeping
        monkeypatch.setattr(store, "under_way", followed_by(store.under_way, end_run))
        await (await knit.deps.keeper(knit.temporal).reconcile(grace=NOW)).result()
        assert (await workflow.describe()).run_id == execution
        assert (await knit.store.runs.get(run_id)).summary.status is RunStatus.DONE


async def test_a_workflow_whose_run_is_unknown_is_terminated(postgres: EmbeddedPostgres) -> None:
    """As after an older backup was restored; nobody works at it here."""
    async with knit_environment(postgres=postgres, engine=LEFT_ALONE, work=False) as knit:
        key = RunKey(RunId(str(uuid.uuid4())), 1)
        plan = await knit.apply(TRAIN)
        queues = knit.deps.projector_input()
        starter = RunStarter(knit.temporal, queues, LEFT_ALONE, attributes=False)
        await starter.start([StartableRun(key, plan.summary.plan_id, "image:1", (), ())])
        workflow_id = names.run_workflow(key.run_id, 1)
        orphans: list[Finding] = []
        while not orphans:  # Temporal's list lags
            orphans = [one for one in await found(knit) if one.check == "workflows"]
        assert [one.subject for one in orphans] == [workflow_id]
        assert await mended(knit, orphans) == [(f"{workflow_id} is terminated", "")]
        assert not [one for one in await found(knit) if one.check == "workflows"]


async def test_volumes_pods_and_edges_that_disagree(postgres: EmbeddedPostgres) -> None:
    """What needs a decision is left to people; the pod of a Run that is over is removed."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend, engine=LEFT_ALONE) as knit:
        await knit.kept()
        plan = await knit.apply(TRAIN)
        pushed = str(await knit.push({"type": "dataset"}))
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        run_id, made = run.summary.run_id, run.outputs[0].knit_id
        # Which may still have its own pod to release.
        await knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1)).result()
        stray = names.volume(str(uuid.uuid4()))
        await backend.create_volume(Volume(stray, "stray"))
        for one in (str(made), pushed):
            await backend.delete_volume(Volume(names.volume(one), one))
        over = names.run_pod(run_id, 1)
        foreign = names.run_pod(str(uuid.uuid4()), 1)
        for name in (over, foreign):
            await backend.launch(RunPod(name, run_id, 1, "plan", "image:1", ()))
        async with await psycopg.AsyncConnection.connect(knit.url) as connection:
            await connection.execute("DELETE FROM run_input")
            await connection.execute(
                "DELETE FROM data_tag USING data WHERE data_tag.knit_id = data.knit_id "
                "AND run_id = %s AND data.knit_id <> %s",
                [run_id, made],
            )
            await connection.execute(
                "DELETE FROM data WHERE run_id = %s AND knit_id <> %s", [run_id, made]
            )
        first = await found(knit)
        assert Counter((one.check, one.subject) for one in first) == Counter(
            [
                ("edges", f"Run {run_id}"),  # its input
                ("edges", f"Run {run_id}"),  # its log
                ("data", f"Data {made}"),
                ("data", f"Data {pushed}"),
                ("volumes", stray),
                ("volumes", names.volume(str(run.log.knit_id))),  # type: ignore[union-attr]
                ("pods", over),
                ("pods", foreign),
            ]
        )
        cures = {one.subject: one.cure for one in first}
        assert f"retry its Run {run_id}" in cures[f"Data {made}"]
        assert "push it again" in cures[f"Data {pushed}"], "its Run cannot be retried"
        assert [one.subject for one in first if one.repair] == [over]
        assert await mended(knit, first) == [("the reconciliation has had a turn", "")]
        assert sorted(one.subject for one in await found(knit)) == sorted(
            one.subject for one in first if one.subject != over
        )


async def test_a_back_end_that_is_away_is_a_finding_and_stops_no_other_check(
    postgres: EmbeddedPostgres,
) -> None:
    class Away(MemoryBackend):
        async def run_pods(self) -> list[str]:
            raise RuntimeError("nobody listens")

    async with knit_environment(postgres=postgres, backend=Away(), engine=LEFT_ALONE) as knit:
        await knit.kept()
        await knit.push({"type": "dataset"})
        [one] = await found(knit)
        assert (one.check, one.message) == ("pods", "it was not possible: nobody listens")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (("a", "b"), None),
        (("a", None), "1 of its 2 inputs have no Data"),
        (("b", "a"), "its inputs are others than those of which it was made"),
        ((), "its inputs are others than those of which it was made"),
    ],
)
async def test_the_hash_of_a_combination_tells_whether_its_edges_are_whole(inputs, words) -> None:
    class Store:
        async def edges(self, *, after, limit):
            digest = assignment_hash({0: "a", 1: "b"})
            return [] if after else [RunEdges(RunId("r"), digest, inputs)]

        async def lost_outputs(self, *, limit):
            return []

    findings = [one async for one in check_edges(Store(), Counter())]  # type: ignore[arg-type]
    assert [one.message for one in findings] == ([words] if words else [])


def test_names_are_found_among_many() -> None:
    names_seen = Names()
    for number in range(1000):
        names_seen.add(f"volume-{number}")
    assert all(f"volume-{number}" in names_seen for number in range(1000))
    assert "volume-1000" not in names_seen
    names_seen.add("volume-1000")
    assert "volume-1000" in names_seen
    assert "anything" not in Names()
