"""Temporal's worker versions, in workers that have knit's plugin: two builds at once.

Those that knit's own workers take care of themselves are in `test_current_version`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import (
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from knit_workflows import names
from knit_workflows.contracts.projector import Drained, ProjectorActivities, ProjectorInput
from knit_workflows.plugin import KnitPlugin
from knit_workflows.provision.temporal_cli import obtain_temporal
from knit_workflows.workflows.projector import ProjectorWorkflow
from tests.docs.command_words import commands_of
from tests.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "worker-versions.md"


@workflow.defn(name="test.Patient")
class PatientWorkflow:
    """Waits until it is told to go on; gives the build of the worker that it is with then."""

    def __init__(self) -> None:
        self._told = False

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._told)
        version = workflow.info().get_current_deployment_version()
        return version.build_id if version else "none"

    @workflow.signal
    def go_on(self) -> None:
        self._told = True


class Drains(ProjectorActivities):
    """Notes which build has carried out each drain."""

    def __init__(self, build: str, seen: list[str]) -> None:
        self._build, self._seen = build, seen

    @activity.defn(name="knit.drain_outbox")
    async def drain_outbox(self, request: ProjectorInput) -> Drained:
        self._seen.append(self._build)
        await asyncio.sleep(0.1)
        return Drained()


class Deployment:
    """Workers of two builds on one queue; `drained_at`: the builds of the Projector's drains."""

    def __init__(self, client: Client, behavior: VersioningBehavior) -> None:
        self.drained_at: list[str] = []
        self.name = f"knit-{uuid.uuid4().hex[:8]}"
        self._client, self._behavior = client, behavior

    @asynccontextmanager
    async def workers(self, *builds: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for build in builds:
                version = WorkerDeploymentVersion(deployment_name=self.name, build_id=build)
                worker = Worker(
                    self._client,
                    task_queue=self.name,
                    workflows=[PatientWorkflow],
                    activities=[Drains(build, self.drained_at).drain_outbox],
                    workflow_runner=UnsandboxedWorkflowRunner(),
                    plugins=[KnitPlugin()],
                    deployment_config=WorkerDeploymentConfig(
                        version=version,
                        use_worker_versioning=True,
                        default_versioning_behavior=self._behavior,
                    ),
                )
                await stack.enter_async_context(worker)
            yield

    async def make_current(self, build: str) -> None:
        """As `temporal worker deployment set-current-version` does."""
        service = self._client.workflow_service
        await self._once_known(
            lambda: service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=self._client.namespace, deployment_name=self.name, build_id=build
                )
            )
        )

    async def ramp(self, build: str, percentage: float) -> None:
        """As `temporal worker deployment set-ramping-version` does."""
        service = self._client.workflow_service
        await self._once_known(
            lambda: service.set_worker_deployment_ramping_version(
                SetWorkerDeploymentRampingVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=self.name,
                    build_id=build,
                    percentage=percentage,
                )
            )
        )

    async def begin(self) -> Any:
        """Starts a workflow, and waits until a worker has it."""
        handle = await self._client.start_workflow(
            PatientWorkflow.run, id=f"{self.name}-{uuid.uuid4().hex}", task_queue=self.name
        )
        async with asyncio.timeout(PATIENCE):
            while len([one async for one in handle.fetch_history_events()]) < 4:
                await asyncio.sleep(0.05)
        return handle

    async def ends_at(self, handle: Any) -> str:
        await handle.signal(PatientWorkflow.go_on)
        async with asyncio.timeout(PATIENCE):
            return str(await handle.result())

    async def until_new_ones_end_at(self, build: str) -> None:
        """Starts some at once, until all end at this build.

        Temporal tells the partitions of a task queue of a change one after the other.
        """

        async def one() -> str:
            return await self.ends_at(await self.begin())

        async with asyncio.timeout(PATIENCE):
            while set(await asyncio.gather(*(one() for _ in range(5)))) != {build}:
                pass

    async def until_drained_at(self, build: str) -> None:
        """Waits until only this build carries out what the Projector does: ten drains in a row."""
        async with asyncio.timeout(PATIENCE):
            while self.drained_at[-10:] != [build] * 10:
                await asyncio.sleep(0.05)

    @staticmethod
    async def _once_known(call: Any) -> None:
        """The server hears of a build from its first poll."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await call()
                    return
                except RPCError:
                    await asyncio.sleep(0.1)


@pytest.mark.patient
@pytest.mark.parametrize(
    ("behavior", "of_before"),
    [
        (VersioningBehavior.UNSPECIFIED, "2"),  # the plugin takes AUTO_UPGRADE
        (VersioningBehavior.PINNED, "1"),
    ],
)
async def test_where_workflows_end_when_another_build_is_made_current(
    temporal_client: Client, behavior: VersioningBehavior, of_before: str
) -> None:
    """Those that began with the first build; new ones; and both ways back."""
    deployment = Deployment(temporal_client, behavior)
    async with deployment.workers("1", "2"):
        await deployment.make_current("1")
        before = await deployment.begin()
        await deployment.make_current("2")
        await deployment.until_new_ones_end_at("2")
        assert await deployment.ends_at(before) == of_before
        await deployment.make_current("1")
        await deployment.until_new_ones_end_at("1")
        await deployment.ramp("2", 100)
        await deployment.until_new_ones_end_at("2")
        await deployment.ramp("2", 0)
        await deployment.until_new_ones_end_at("1")


@pytest.mark.patient
async def test_a_pinned_workflow_waits_for_ever_once_its_workers_are_gone(
    temporal_client: Client,
) -> None:
    """Which is what would become of Runs when a database ends the earlier workers."""
    deployment = Deployment(temporal_client, VersioningBehavior.PINNED)
    async with deployment.workers("1"):
        await deployment.make_current("1")
        pinned = await deployment.begin()
    async with deployment.workers("2"):
        await deployment.make_current("2")
        await pinned.signal(PatientWorkflow.go_on)
        await deployment.until_new_ones_end_at("2")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await pinned.result()
    async with deployment.workers("1"):
        assert await deployment.ends_at(pinned) == "1"


@pytest.mark.patient
async def test_the_projector_goes_over_where_workflows_are_pinned(temporal_client: Client) -> None:
    """It never ends: pinned like Runs it would keep its first version for ever."""
    deployment = Deployment(temporal_client, VersioningBehavior.PINNED)
    queues = dict.fromkeys(("engine_queue", "compute_queue", "watch_queue"), deployment.name)
    async with deployment.workers("1", "2"):
        await deployment.make_current("1")
        pinned = await deployment.begin()
        projector = await temporal_client.start_workflow(
            ProjectorWorkflow.run,
            ProjectorInput(**queues, heartbeat=timedelta(seconds=2)),
            id=names.projector_workflow(0),
            task_queue=deployment.name,
        )
        await deployment.until_drained_at("1")
        await deployment.make_current("2")
        await deployment.until_drained_at("2")
        assert await deployment.ends_at(pinned) == "1"
        await projector.terminate()


@pytest.mark.patient
async def test_pinned_workflows_can_be_moved_as_the_page_says(temporal_client: Client) -> None:
    """Where their workers are gone for good: the current version goes on with them."""
    deployment = Deployment(temporal_client, VersioningBehavior.PINNED)
    async with deployment.workers("1"):
        await deployment.make_current("1")
        pinned = await deployment.begin()
    [words] = [one[1:] for one in commands_of(PAGE, "temporal") if "update-options" in one]
    words = [word.replace("'knit:0.1.0'", f"'{deployment.name}:1'") for word in words]
    words[words.index("--namespace") + 1] = temporal_client.namespace
    address = temporal_client.service_client.config.target_host
    async with deployment.workers("2"):
        await deployment.make_current("2")
        program = await asyncio.to_thread(obtain_temporal)
        moving = await asyncio.create_subprocess_exec(
            program, *words, "--address", address, stdout=asyncio.subprocess.DEVNULL
        )
        assert await moving.wait() == 0
        assert await deployment.ends_at(pinned) == "2"
