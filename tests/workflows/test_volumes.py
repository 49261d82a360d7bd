"""`knit.Volumes`: the API asks workers about volumes, and Runs use what was adopted."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows import names
from knit_workflows.client import KnitClient
from knit_workflows.compute.base import RunPod
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.domain.data import Adoption
from knit_workflows.domain.errors import BackendUnavailable, DataNotFound, EngineUnavailable
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import MemoryBackend, knit_environment
from knit_workflows.workflows.housekeeping import GarbageCollectionWorkflow

PLAN = {
    "image": "demo:1",
    "inputs": [{"path": "/in", "tags": ["type:theirs"]}],
    "outputs": [{"path": "/out", "tags": ["type:ours"]}],
}


async def test_an_adopted_folder_is_an_input_and_survives_all(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """Adopted, used, deleted: its content and times stay as they are."""
    theirs = tmp_path.resolve() / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("content")
    before = {path: path.stat() for path in (theirs, theirs / "file")}

    def behave(pod: RunPod) -> Exit:
        [mount] = pod.inputs
        assert (Path(mount.volume.name) / "file").read_text() == "content"
        return SUCCEEDED

    backend = MemoryBackend(behave)
    async with knit_environment(backend=backend, postgres=postgres) as knit:
        plan = await knit.apply(PLAN)
        asked = [str(theirs), f"{theirs}/none", f"{theirs}/."]
        good, bad, same = await knit.knit.look_at_volumes("adoptable", asked)
        assert (good.name, good.reason) == (str(theirs), "")
        assert bad.reason
        assert bad.advice
        assert same == good
        [adopted] = await knit.store.adoptions.adopt(
            [Adoption(good.name, frozenset({Tag("type", "theirs")}))]
        )
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert run.summary.status is RunStatus.DONE, run.summary.exit
        await knit.store.runs.delete(run.summary.run_id)
        kept = await knit.store.runs.delete(adopted.data.upstream.run.run_id)
        assert kept == [str(theirs)]
        garbage = await knit.store.housekeeping.discarded(older_than=timedelta(), limit=9)
        assert {names.is_own_volume(one.volume) for one in garbage} == {True}
    stats = {path: path.stat() for path in before}
    assert {p: (s.st_mtime_ns, s.st_ctime_ns, s.st_mode) for p, s in stats.items()} == {
        p: (s.st_mtime_ns, s.st_ctime_ns, s.st_mode) for p, s in before.items()
    }


async def test_sizes_are_asked_for_too(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    async with knit_environment(postgres=postgres) as knit:
        there, gone = await knit.knit.look_at_volumes(
            "bytes", [str(tmp_path.resolve()), names.volume("gone")]
        )
        assert there.bytes is not None
        assert there.bytes >= 10_000
        assert gone.bytes is None


async def test_what_is_purged_is_collected(postgres: EmbeddedPostgres) -> None:
    """Its volume and nothing else; it cannot be opened any more."""
    backend = MemoryBackend()
    async with knit_environment(backend=backend, postgres=postgres) as knit:
        gone, there = [await knit.push({"k": name}) for name in ("a", "b")]
        assert (await knit.store.data.purge(gone)).is_new
        request = HousekeepingInput(projector=knit.deps.projector_input(), grace=timedelta())
        await knit.temporal.execute_workflow(
            GarbageCollectionWorkflow.run,
            request,
            id="collects-what-was-purged",
            task_queue=knit.deps.queues.engine,
        )
        assert backend.volumes == [names.volume(there)]
        with pytest.raises(DataNotFound, match="was purged"):
            await knit.knit.open_download(gone)


class Away(MemoryBackend):
    """Does not answer."""

    async def adoptable(self, name: str) -> str:
        raise BackendUnavailable("the cluster is away")


async def test_a_back_end_that_is_away_is_told_at_once(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(backend=Away(), postgres=postgres) as knit:
        with pytest.raises(BackendUnavailable, match="the cluster is away"):
            await knit.knit.look_at_volumes("adoptable", ["/srv"])


async def test_without_a_worker_the_question_ends(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(postgres=postgres, work=False) as knit:
        impatient = KnitClient(knit.temporal, lease=timedelta(seconds=1), queues=knit.deps.queues)
        with pytest.raises(EngineUnavailable, match="no worker"):
            await asyncio.wait_for(impatient.look_at_volumes("adoptable", ["/srv"]), 60)
