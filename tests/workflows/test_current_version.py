"""Which version of knit's workers Runs begin with, on a real Temporal; and where they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio import workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from knit_workflows import names
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres, dev_server_settings
from knit_workflows.plugin import ALL_ROLES, Deps
from knit_workflows.provision.temporal_cli import obtain_temporal
from knit_workflows.settings import QueueSettings, StoreSettings, VersioningSettings
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.queue_state import RECENTLY, engine_state
from knit_workflows.temporal.worker_versions import find_deployment, find_routing
from knit_workflows.testing import QUICK, MemoryBackend, knit_environment
from knit_workflows.upkeep import current_version
from knit_workflows.upkeep.current_version import CurrentVersionKeeper
from knit_workflows.worker import deployment_of, workers
from tests.waiting import PATIENCE, until
from tests.workflows.test_run import TRAIN, only_run, until_status

pytestmark = pytest.mark.patient

QUEUES = QueueSettings.single("engine")
OFTEN = timedelta(milliseconds=300)


@workflow.defn(name="test.Ends", sandboxed=False)
class EndsWorkflow:
    """Gives the version that it has ended with."""

    @workflow.run
    async def run(self) -> str:
        """Gives it."""
        version = workflow.info().get_current_deployment_version()
        # A worker without one has the hash of its code.
        return version.build_id if version and version.deployment_name else ""


@workflow.defn(name="test.Waits", sandboxed=False)
class WaitsWorkflow:
    """Ends when it is told to."""

    def __init__(self) -> None:
        self._told = False

    @workflow.run
    async def run(self) -> None:
        """Waits."""
        await workflow.wait_condition(lambda: self._told)

    @workflow.signal
    def go_on(self) -> None:
        """Lets it end."""
        self._told = True


async def other_client(client: Client) -> Client:
    """Connects to the same server."""
    host = client.service_client.config.target_host
    return await Client.connect(host, data_converter=client.data_converter)


class Installation:
    """Workers of versions, each with its Keeper, as processes of knit's have them."""

    def __init__(self, client: Client, queues: QueueSettings = QUEUES) -> None:
        self.client, self.queues = client, queues

    def keeper(
        self,
        build: str,
        *,
        silence: timedelta = RECENTLY,
        patience: timedelta = timedelta(seconds=60),
    ) -> CurrentVersionKeeper:
        return CurrentVersionKeeper(
            self.client,
            VersioningSettings(build_id=build),
            self.queues,
            looks_every=OFTEN,
            silence=silence,
            patience=patience,
        )

    async def worker(self, build: str, queue: str = "engine") -> Worker:
        """Makes one with a client of its own, as a process has it."""
        return Worker(
            await other_client(self.client),
            task_queue=queue,
            workflows=[EndsWorkflow, WaitsWorkflow],
            deployment_config=deployment_of(VersioningSettings(build_id=build)),
        )

    @asynccontextmanager
    async def process(self, build: str, **times: timedelta) -> AsyncIterator[None]:
        async with await self.worker(build), self.keeper(build, **times).kept():
            yield

    async def current(self) -> str | None:
        """Gives the version with which workflows begin; None: Temporal knows no versions."""
        found = await find_deployment(self.client, "knit")
        return None if found is None else found.current

    async def until_current(self, build: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.current() != build:
                await asyncio.sleep(0.05)

    async def until_ends_at(self, build: str) -> None:
        """Begins workflows until one ends with this version.

        Temporal tells the partitions of a task queue of a change one after the other.
        """
        async with asyncio.timeout(PATIENCE):
            while await self._ends_at() != build:
                pass

    async def _ends_at(self) -> str:
        return await self.client.execute_workflow(
            EndsWorkflow.run,
            id=f"ends-{asyncio.get_running_loop().time()}",
            task_queue="engine",
        )


@pytest.fixture
def installation(temporal_client: Client) -> Installation:
    return Installation(temporal_client)


async def test_the_one_that_starts_last_takes_over(installation: Installation) -> None:
    """The first of all, the next one while the first is there, and the first when it is restored.

    It makes no difference which one is newer.
    """
    async with installation.process("1"):
        await installation.until_current("1")
        await installation.until_ends_at("1")
        async with installation.process("2"):
            await installation.until_current("2")
            await asyncio.sleep(5 * OFTEN.total_seconds())
            assert await installation.current() == "2", "the other is still there and looks"
            await installation.until_ends_at("2")
            async with installation.process("1"):
                await installation.until_current("1")
                await installation.until_ends_at("1")


async def test_a_version_without_workers_is_taken_over_from(installation: Installation) -> None:
    """Nobody would say so otherwise, and nothing would begin any more."""
    gone = timedelta(seconds=2)
    async with installation.process("1", silence=gone):
        await installation.until_current("1")
        keeper = installation.keeper("2")
        async with await installation.worker("2"), keeper.kept():
            # It takes over, but perhaps not for long: it polls less often than it may be silent.
            await until(lambda: not keeper._starting)
        await installation.until_current("1")
        await installation.until_ends_at("1")


async def test_a_new_version_waits_for_workers_of_all_roles(temporal_client: Client) -> None:
    """Otherwise the first Runs would wait for them: longest with a version that has none at all."""
    queues = QueueSettings.single("engine").model_copy(update={"watch": "watch", "backup": "apart"})
    installation = Installation(temporal_client, queues)
    async with installation.process("1"):
        await installation.until_current("")
        await asyncio.sleep(5 * OFTEN.total_seconds())
        assert await installation.current() == ""
        async with await installation.worker("1", "watch"):
            await installation.until_current("1")


async def test_a_new_version_does_not_wait_for_ever(temporal_client: Client) -> None:
    queues = QueueSettings.single("engine").model_copy(update={"watch": "watch"})
    installation = Installation(temporal_client, queues)
    async with installation.process("1", patience=timedelta(seconds=1)):
        await installation.until_current("1")


async def test_two_at_once_do_no_harm(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    """However they interleave: one is current in the end, stays it, and nobody complains."""
    async with AsyncExitStack() as stack:
        for build in ("1", "2"):
            await stack.enter_async_context(await installation.worker(build))
        with caplog.at_level(logging.INFO, current_version.__name__):
            keepers = [installation.keeper(build) for build in ("1", "2", "1", "2")]
            for keeper in keepers:
                await stack.enter_async_context(keeper.kept())
            # Until then each of them may yet take over.
            await until(lambda: not any(keeper._starting for keeper in keepers))
            settled = await installation.current()
            changes = len(caplog.records)
            await asyncio.sleep(5 * OFTEN.total_seconds())
        assert await installation.current() == settled
        assert {one.levelname for one in caplog.records} == {"INFO"}
        assert len(caplog.records) == changes <= 4


async def test_versioning_is_switched_off_and_on(installation: Installation) -> None:
    """A worker without a version has new Runs begin with its like; those of before see that."""
    async with installation.process("1"):
        await installation.until_current("1")
        async with installation.process(""):
            await installation.until_current("")
            await asyncio.sleep(5 * OFTEN.total_seconds())
            assert await installation.current() == ""
            await installation.until_ends_at("")
            async with installation.process("2"):
                await installation.until_current("2")
                await installation.until_ends_at("2")


async def test_without_versions_nothing_is_asked_to_change(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, current_version.__name__):
        async with installation.process(""):
            await asyncio.sleep(5 * OFTEN.total_seconds())
            await installation.until_ends_at("")
    assert await installation.current() is None
    assert not caplog.records


async def test_versions_of_others_are_left_alone(installation: Installation) -> None:
    """Whoever gives workers with knit's plugin versions of another name looks after them."""
    theirs = VersioningSettings(build_id="7", deployment_name="theirs")
    worker = Worker(
        installation.client,
        task_queue="engine",
        workflows=[EndsWorkflow],
        deployment_config=deployment_of(theirs),
    )
    keeper = CurrentVersionKeeper(installation.client, theirs, QUEUES, looks_every=OFTEN)
    async with worker:
        async with keeper.kept():
            async with asyncio.timeout(PATIENCE):
                while (found := await find_deployment(installation.client, "theirs")) is None or (
                    found.current != "7"
                ):
                    await asyncio.sleep(0.05)
        async with installation.keeper("").kept():
            await asyncio.sleep(5 * OFTEN.total_seconds())
        await installation.until_ends_at("7")
        # But who has given knit's own workers a name and a version wants that they work.
        async with installation.process("1"):
            await installation.until_current("1")
            await installation.until_ends_at("1")


@pytest.mark.parametrize(
    "status",
    [RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.NOT_FOUND],
)
async def test_a_server_that_refuses_is_told_of_once(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: RPCStatusCode,
) -> None:
    """It may be too old, or not let knit do this; the worker works all the same."""
    asked = 0

    async def refused(*_: Any) -> None:
        nonlocal asked
        asked += 1
        raise RPCError("not for you", status, b"")

    monkeypatch.setattr(current_version, "make_current", refused)
    with caplog.at_level(logging.INFO, current_version.__name__):
        async with installation.process("1"):
            async with asyncio.timeout(PATIENCE):
                while asked < 4:
                    await asyncio.sleep(0.05)
    [line] = caplog.records
    assert "not for you" in line.message
    assert line.action == "worker_version_unknown"  # type: ignore[attr-defined]


@asynccontextmanager
async def quick_to_drain() -> AsyncIterator[Client]:
    """A Temporal server that looks each second whether a version is drained."""
    drainage = "matching.wv.VersionDrainageStatus"
    settings = (f"{drainage}VisibilityGracePeriod", f"{drainage}RefreshInterval")
    server = await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(await asyncio.to_thread(obtain_temporal)),
        dev_server_extra_args=[
            *dev_server_settings(file_database=False),
            *(word for one in settings for word in ("--dynamic-config-value", f'{one}="1s"')),
        ],
        dev_server_log_level="error",
    )
    try:
        yield server.client
    finally:
        await server.shutdown()


async def test_people_see_which_versions_still_have_something_to_do() -> None:
    """As `knit admin status` and `knit admin doctor` ask for it."""
    async with quick_to_drain() as client:
        installation = Installation(client)

        async def seen() -> dict[str, tuple[str, bool, int | None]]:
            async with asyncio.timeout(PATIENCE):
                while (found := await engine_state(client, QUEUES, "knit")).problem:
                    await asyncio.sleep(0.2)
            versions = found.versions
            return {one.build_id: (one.state, one.workers > 0, one.workflows) for one in versions}

        async def until_seen(wanted: dict[str, tuple[str, bool, int | None]]) -> None:
            async with asyncio.timeout(PATIENCE):
                while (found := await seen()) != wanted:
                    await asyncio.sleep(0.2)
            assert found

        assert await seen() == {}, "workers have no versions"
        async with await installation.worker("1"):
            await until_seen({"1": ("inactive", True, None)})
            async with installation.keeper("1").kept():
                await installation.until_current("1")
            left = await client.start_workflow("test.Waits", id="left", task_queue="engine")
            async with installation.process("2"):
                await until_seen({"2": ("current", True, None), "1": ("draining", True, 1)})
                await left.signal("go_on")
                await until_seen({"2": ("current", True, None), "1": ("drained", True, None)})


Processes = Callable[..., Any]


@pytest.fixture
async def knit(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[Any, MemoryBackend, Processes]]:
    """A knit without workers, and what starts those of a version."""
    backend = MemoryBackend()
    async with knit_environment(postgres=postgres, backend=backend, work=False) as made:

        @asynccontextmanager
        async def process(build: str, *, draining: bool = False) -> AsyncIterator[None]:
            deps = Deps(
                PostgresStore(StoreSettings(url=SecretStr(made.url))),
                backend,
                engine=QUICK,
                queues=QueueSettings(compute="knit"),
                versioning=VersioningSettings(build_id=build, draining=draining),
            )
            async with deps.opened(), AsyncExitStack() as stack:
                for worker in workers(await other_client(made.temporal), deps, ALL_ROLES):
                    await stack.enter_async_context(worker)
                yield

        yield made, backend, process


async def build_of(knit: Any, run_id: Any) -> str:
    """Gives the version at which a Run's workflow was last, as Temporal says."""
    handle = knit.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
    info = (await handle.describe()).raw_description.workflow_execution_info
    return str(info.versioning_info.deployment_version.build_id)


async def runs_until_one_is_of(knit: Any, build: str) -> list[RunId]:
    """Has Runs begin until one is at this version; gives them all, which run.

    Temporal tells the partitions of a task queue of a change one after the other.
    """
    begun: list[RunId] = []
    at = ""
    async with asyncio.timeout(PATIENCE):
        while at != build:
            plan = await knit.apply({**TRAIN, "image": f"example/other:v{len(begun)}"})
            begun.append((await only_run(knit, plan.summary.plan_id)).summary.run_id)
            await until_status(knit, begun[-1], RunStatus.RUNNING)
            while not (at := await build_of(knit, begun[-1])):  # its first step is not over yet
                await asyncio.sleep(0.05)
    return begun


async def test_a_run_ends_with_the_version_that_it_began_with(
    knit: tuple[Any, MemoryBackend, Processes],
) -> None:
    """While new ones go to the next version, although workers that drain start after that."""
    environment, backend, process = knit
    installation = Installation(environment.temporal)
    backend.hold()
    plan = await environment.apply(TRAIN)
    async with AsyncExitStack() as first:
        await first.enter_async_context(process("1"))
        await installation.until_current("1")
        await environment.push({"type": "dataset"})
        before = (await only_run(environment, plan.summary.plan_id)).summary.run_id
        await until_status(environment, before, RunStatus.RUNNING)
        async with process("2"):
            await installation.until_current("2")
            async with process("1", draining=True):
                await first.aclose()
                after = await runs_until_one_is_of(environment, "2")
                for run_id in (before, *after):
                    backend.finish(names.run_pod(run_id, 1))
                    done = await environment.final(run_id)
                    assert done.summary.status is RunStatus.DONE
                assert await installation.current() == "2"
                assert await build_of(environment, before) == "1"
                assert await build_of(environment, after[-1]) == "2"
    assert sorted(backend.launches) == sorted(names.run_pod(one, 1) for one in (before, *after))


async def test_workers_that_drain_leave_schedules_to_others(
    knit: tuple[Any, MemoryBackend, Processes],
) -> None:
    """They would put back what an earlier version knows of them."""
    environment, _, process = knit
    client = environment.temporal

    async def kept() -> bool:
        return [one.id async for one in await client.list_schedules()] != []

    async with process("1", draining=True):
        async with asyncio.timeout(PATIENCE):
            while not (await find_routing(client, "knit", "knit", RECENTLY)).polling:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert not await kept()
        async with process("2"), asyncio.timeout(PATIENCE):
            while not await kept():
                await asyncio.sleep(0.1)


async def test_a_run_under_way_goes_on_when_versioning_is_switched_on(
    knit: tuple[Any, MemoryBackend, Processes],
) -> None:
    environment, backend, process = knit
    backend.hold()
    plan = await environment.apply(TRAIN)
    async with process(""):
        await environment.push({"type": "dataset"})
        run_id = (await only_run(environment, plan.summary.plan_id)).summary.run_id
        await until_status(environment, run_id, RunStatus.RUNNING)
    async with process("1"):
        backend.finish(names.run_pod(run_id, 1))
        assert (await environment.final(run_id)).summary.status is RunStatus.DONE
