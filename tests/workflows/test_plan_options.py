"""What a Plan asks of a cluster reaches the back-end: with the pod, and with each new volume."""

from __future__ import annotations

from knit_workflows.compute.base import RunPod
from knit_workflows.domain.plans.options import NO_OPTIONS, PlanOptions, PodOptions
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunStatus
from knit_workflows.domain.volumes import AS_INSTALLED, Volume, VolumeOptions
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import MemoryBackend, knit_environment

PLAN = {
    "image": "demo:1",
    "inputs": [{"path": "/in", "tags": ["type:theirs"]}],
    "outputs": [{"path": "/out", "tags": [], "volume": {"size": "10Gi"}}, {"path": "/plain"}],
    "log": {"volume": {"storage_class": "cheap"}},
    "pod": {"labels": {"team": "x"}, "shm_size": "1Gi", "queue": "q"},
}


async def test_options_reach_the_back_end_and_changes_later_runs(
    postgres: EmbeddedPostgres,
) -> None:
    pods: list[RunPod] = []
    made: dict[str, VolumeOptions] = {}

    class Noting(MemoryBackend):
        async def create_volume(self, volume: Volume) -> VolumeOptions:
            made[volume.name] = volume.options
            return await super().create_volume(volume)

    def behave(pod: RunPod) -> Exit:
        pods.append(pod)
        return SUCCEEDED

    async with knit_environment(backend=Noting(behave), postgres=postgres) as knit:
        plan = await knit.apply(PLAN)
        await knit.push({"type": "theirs"})
        [run] = await knit.runs_of(plan.summary.plan_id, 1)
        assert run.summary.status is RunStatus.DONE, run.summary.exit
        with_it = PlanOptions(
            PodOptions(labels={"team": "x"}, shm_size="1Gi", queue="q"),
            {"/log": VolumeOptions("cheap"), "/out": VolumeOptions(size="10Gi")},
        )
        assert run.used is not None
        assert run.used.options == with_it
        [pod] = pods
        assert pod.options == PodOptions(labels={"team": "x"}, shm_size="1Gi", queue="q")
        assert pod.log is not None
        out, plain = (made[mount.volume.name] for mount in pod.outputs)
        assert (out, plain) == (VolumeOptions(size="10Gi"), AS_INSTALLED)
        assert made[pod.log.name] == VolumeOptions("cheap")
        await knit.store.plans.set_options(
            plan.summary.plan_id, PlanOptions(PodOptions(labels={"team": "y"}))
        )
        again = await knit.store.runs.get(run.summary.run_id)
        assert again.used == run.used, "what a Run was made with does not change with its Plan"
        await knit.push({"type": "theirs"})
        await knit.runs_of(plan.summary.plan_id, 2)
        assert pods[-1].options == PodOptions(labels={"team": "y"})
        assert made[pods[-1].outputs[0].volume.name] == AS_INSTALLED
        assert NO_OPTIONS.of_volume("/out") == AS_INSTALLED
