"""The Temporal plugin: what makes a client and a worker speak knit.

```python
client = await Client.connect("localhost:7233", plugins=[KnitPlugin()])        # a client only
worker = Worker(client, task_queue="knit", plugins=[KnitPlugin(deps=…)])       # a worker
```
A plugin given to the client works on its workers by itself; giving it to both is fine too.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, TypeAlias

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import Worker, WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from knit_workflows import names
from knit_workflows.activities.backups import ProcessBackupActivities
from knit_workflows.activities.hooks.hook_test import CallerHookTestActivities
from knit_workflows.activities.hooks.transitions import StoreHookActivities
from knit_workflows.activities.housekeeping import StoreHousekeepingActivities
from knit_workflows.activities.projector import StoreProjectorActivities
from knit_workflows.activities.runs.await_run import StoreAwaitRunActivities
from knit_workflows.activities.runs.run import ComputeRunActivities
from knit_workflows.activities.transfers.transfer import ComputeTransferActivities
from knit_workflows.activities.transfers.warm_volumes import WarmVolumes
from knit_workflows.activities.trials import ComputeTrialActivities
from knit_workflows.activities.volumes import ComputeVolumeActivities
from knit_workflows.compute.base import ComputeBackend, RunLimits
from knit_workflows.contracts.housekeeping import HousekeepingInput
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.ports import Store
from knit_workflows.hooks.caller import HookCaller
from knit_workflows.hooks.followed import FollowedHooks
from knit_workflows.settings import (
    EngineSettings,
    HookSettings,
    QueueSettings,
    VersioningSettings,
)
from knit_workflows.upkeep.backups import measured_backups
from knit_workflows.upkeep.current_version import CurrentVersionKeeper
from knit_workflows.upkeep.keeper import Keeper
from knit_workflows.workflows.backup import BackupWorkflow
from knit_workflows.workflows.following import FOLLOWING
from knit_workflows.workflows.hook_test import HookTestWorkflow
from knit_workflows.workflows.housekeeping import (
    GarbageCollectionWorkflow,
    HousekeepingWorkflow,
)
from knit_workflows.workflows.projector import ProjectorWorkflow
from knit_workflows.workflows.run import RunWorkflow
from knit_workflows.workflows.transfer import TransferWorkflow
from knit_workflows.workflows.trial import TrialWorkflow
from knit_workflows.workflows.volumes import VolumesWorkflow

WORKFLOWS: Final = (
    RunWorkflow,
    ProjectorWorkflow,
    TransferWorkflow,
    VolumesWorkflow,
    TrialWorkflow,
    GarbageCollectionWorkflow,
    HousekeepingWorkflow,
    HookTestWorkflow,
    BackupWorkflow,
)
MIN_SHUTDOWN: Final = timedelta(seconds=1)
SLOTS: Final = 200
WAITING_SLOTS: Final = 2_000
"""For roles whose activities mostly wait."""
DEFAULT_SLOTS: Final = 100
"""Those of a user's Worker that does not say how many; the SDK's own number."""
TUNED_SLOTS: Final = 2
"""Those of a user's Worker with a tuner, which may have more; it does not say how many."""


class Role(StrEnum):
    """What a worker does; all but `ENGINE` and `HOOKS` need rights on the compute back-end."""

    ENGINE = "engine"
    """Workflows, projection, waiting for Runs."""
    COMPUTE = "compute"
    """Launching and finalizing Runs; garbage collection."""
    WATCH = "watch"
    """Watching run pods."""
    INTERACTIVE = "interactive"
    """Transfers and stops: somebody waits for them, so they never wait behind Runs."""
    HOOKS = "hooks"
    """Calls of lifecycle hooks; it needs no right on the back-end, but the network."""
    BACKUP = "backup"
    """Backups that a schedule takes, in processes of their own. It needs the settings of database
    and back-end in its environment, and the destination, so only who asks for it has it."""


ALL_ROLES: Final = frozenset(Role) - {Role.BACKUP}
"""What every installation needs."""
WITHOUT_BACKEND: Final = frozenset({Role.ENGINE, Role.HOOKS, Role.BACKUP})
"""Roles that need no right on a remote back-end: at most they ask how many Runs it suggests."""
WAITING_ROLES: Final = frozenset({Role.WATCH, Role.HOOKS})
WORKFLOWS_BY_ROLE: Final = {
    Role.INTERACTIVE: (TransferWorkflow, VolumesWorkflow, TrialWorkflow),
    Role.HOOKS: (HookTestWorkflow,),
    Role.BACKUP: (BackupWorkflow,),
}
"""For which somebody waits; the role `ENGINE` has them all."""


def slots(roles: frozenset[Role]) -> int:
    """Gives how many activities of these roles a Worker of ours carries out at once."""
    return WAITING_SLOTS if roles & WAITING_ROLES else SLOTS


_ByRole: TypeAlias = Mapping[Role, Sequence[Callable[..., Any]]]


class MisconfiguredWorker(ValueError):
    """The worker or its client cannot work with knit; the message says what to change."""


class Deps:
    """The store and the back-end of a process, opened once however many workers share them."""

    def __init__(
        self,
        store: Store,
        backend: ComputeBackend,
        *,
        engine: EngineSettings | None = None,
        queues: QueueSettings | None = None,
        hooks: HookSettings | None = None,
        versioning: VersioningSettings | None = None,
        opens_backend: bool = True,
    ) -> None:
        """`opens_backend`: false where no role needs it, and the process may have no rights.

        `versioning`: None leaves it to others with which version of the workers Runs begin.
        """
        self.store = store
        self.backend = backend
        self.engine = engine or EngineSettings()
        self.queues = queues or QueueSettings()
        self.hooks = hooks or HookSettings()
        self.versioning = versioning
        self.caller = HookCaller(self.hooks)
        self._opens_backend = opens_backend
        self._users = 0
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keeps both open while inside; the first opens, the last closes."""
        async with self._lock:
            if self._users == 0:
                await self.store.open()
                if self._opens_backend:
                    await self.backend.open()
            self._users += 1
        try:
            yield
        finally:
            async with self._lock:
                self._users -= 1
                if self._users == 0:
                    await self.caller.aclose()
                    await self.backend.aclose()
                    await self.store.aclose()

    @asynccontextmanager
    async def following_hooks(self, worker: str) -> AsyncIterator[None]:
        """Keeps the hooks of the hooks file in force while inside, however it changes.

        Without a file those in force stay: another worker may follow one. `worker` is by whom.
        """
        if self.hooks.file is None:
            yield
            return
        followed = FollowedHooks(worker, self.hooks.file, self.store.hooks, self.caller)
        async with followed.in_force():
            yield

    @cached_property
    def warm_volumes(self) -> WarmVolumes:
        """The volumes that this process keeps waiting for uploads."""
        return WarmVolumes(self.store.warm_volumes, self.backend, self._idle)

    @property
    def _idle(self) -> timedelta:
        return self.engine.transfer_lease * 3 + self.engine.transfer_linger

    def projector_input(self) -> ProjectorInput:
        """Says where the Projector and the Runs it starts do their work."""
        return ProjectorInput(
            engine_queue=self.queues.engine,
            compute_queue=self.queues.compute,
            watch_queue=self.queues.watch,
            interactive_queue=self.queues.interactive,
            hooks_queue=self.queues.hooks,
            heartbeat=self.engine.projector_heartbeat,
        )

    def keeper(self, client: Client) -> Keeper:
        """Gives what keeps Projector and schedules in a Temporal."""
        request = HousekeepingInput(
            projector=self.projector_input(),
            grace=self.engine.gc_grace_period,
            heartbeat=self.engine.heartbeat,
        )
        return Keeper(client, self.store.housekeeping, request, self.engine)

    @asynccontextmanager
    async def kept(self, client: Client) -> AsyncIterator[None]:
        """Keeps in Temporal what must be there while inside.

        Workers that drain leave that to those of the version with which Runs begin: what an earlier
        build knows of schedules would be put in the place of what this one does.
        """
        versioning = self.versioning
        async with AsyncExitStack() as stack:
            if versioning is None or not versioning.draining:
                await stack.enter_async_context(self.keeper(client).kept())
            if versioning is not None and not versioning.draining:
                current = CurrentVersionKeeper(
                    client, versioning, self.queues, looks_every=self.engine.poll_interval
                )
                await stack.enter_async_context(current.kept())
            yield

    def _run_limits(self) -> RunLimits:
        suggested, limit = self.backend.suggested_runs(), self.engine.max_active_runs
        return suggested if limit is None else suggested.at_most(limit)

    def activities(
        self, roles: frozenset[Role], slots: int = SLOTS, *, eager: bool = True
    ) -> list[Callable[..., Any]]:
        """Gives the activities of these roles, bound to the store and the back-end.

        They are for one Worker, which carries out `slots` of them at once. `eager`: whether Runs
        that it starts may begin with it.
        """
        transfers = ComputeTransferActivities(
            self.store.transfers,
            self.store.data,
            self.store.execution,
            self.backend,
            idle=self._idle,
            taken=lambda: self.warm_volumes.taken(),
            linger=self.engine.transfer_linger,
        )
        parts = (
            self._of_runs(slots),
            self._of_transfers(transfers),
            self._of_upkeep(transfers, eager=eager),
            self._of_hooks(),
            {Role.BACKUP: [ProcessBackupActivities().take_backup]},
        )
        found = (one for role in sorted(roles) for part in parts for one in part.get(role, ()))
        return list(dict.fromkeys(found))

    def _of_runs(self, slots: int) -> _ByRole:
        runs = ComputeRunActivities(
            self.store.execution, self.store.hooks, self.backend, self.engine
        )
        trials = ComputeTrialActivities(self.backend)
        awaiting = StoreAwaitRunActivities(
            self.store.runs, self.engine.poll_interval, most_waiting=slots // 2
        )
        return {
            Role.ENGINE: [
                awaiting.ensure_run,
                awaiting.await_run,
                *([runs.launch_run] if self._launches_within_workflows else ()),
            ],
            Role.COMPUTE: [
                runs.launch_run,
                runs.create_volumes,
                runs.create_pod,
                runs.record_evidence,
                # Here too: old histories have stops on this queue.
                runs.stop_run,
                runs.finalize_run,
                # For dry runs the same rights are needed as for creations.
                trials.try_plan,
            ],
            Role.WATCH: [runs.watch_run, runs.watch_pod, runs.relaunch_run],
            Role.INTERACTIVE: [runs.stop_run],
        }

    @property
    def _launches_within_workflows(self) -> bool:
        """Says whether workflows launch their Runs themselves: then their worker has to be able to.

        A worker without that activity would fail every task of such a workflow.
        """
        return self.queues.engine == self.queues.compute and self.backend.is_at_hand()

    def _of_transfers(self, transfers: ComputeTransferActivities) -> _ByRole:
        volumes = ComputeVolumeActivities(self.backend)
        both: list[Callable[..., Any]] = [transfers.open_transfer, transfers.close_transfer]
        # COMPUTE too: old histories have transfers on its queue.
        return {Role.COMPUTE: both, Role.INTERACTIVE: [*both, volumes.look_at_volumes]}

    def _of_upkeep(self, transfers: ComputeTransferActivities, *, eager: bool) -> _ByRole:
        projector = StoreProjectorActivities(
            self.store.projection,
            self.store.admission,
            self.backend,
            self.engine,
            run_limits=self._run_limits(),
            current=self.projector_input(),
            eager=eager,
        )
        housekeeping = StoreHousekeepingActivities(
            self.store.housekeeping, self.backend, transfers, self.engine
        )
        return {
            Role.ENGINE: [projector.drain_outbox, housekeeping.restart_lost_runs],
            Role.COMPUTE: [
                housekeeping.collect_garbage,
                housekeeping.end_lost_transfers,
                housekeeping.remove_leftover_pods,
            ],
        }

    def _of_hooks(self) -> _ByRole:
        hooks = StoreHookActivities(
            self.store.runs, self.store.execution, self.store.hooks, self.caller
        )
        tests = CallerHookTestActivities(self.caller)
        return {Role.HOOKS: [hooks.call_before_hooks, hooks.call_after_hooks, tests.test_hook]}


class KnitPlugin(SimplePlugin):
    """knit for a Temporal client, worker or replayer.

    Without `deps` it gives the data converter and the workflows only: enough for clients and
    replayers. With `deps` a worker also gets the activities of `roles`, opens store and back-end
    while it runs and, with the role `engine`, makes sure that the Projector runs.
    """

    def __init__(self, deps: Deps | None = None, *, roles: frozenset[Role] = ALL_ROLES) -> None:
        self._deps = deps
        self._roles = roles
        super().__init__(
            names.PLUGIN,
            data_converter=_with_pydantic,
            workflow_runner=_with_passthrough,
            workflows=self._with_workflows,
            workflow_failure_exception_types=[KnitError],
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Checks the worker before it starts, so that misuse fails early with a clear message."""
        _require_pydantic(config["client"])
        if self._deps is not None:
            if config.get("graceful_shutdown_timeout", timedelta()) < MIN_SHUTDOWN:
                config["graceful_shutdown_timeout"] = timedelta(seconds=10)
            # The SDK would hold heartbeats back for four fifths of their time-out: a worker frozen
            # for one fifth would be taken for dead. We send one every third of it.
            times = self._deps.engine
            longest = min(times.heartbeat, times.projector_heartbeat) / 6
            config["max_heartbeat_throttle_interval"] = min(
                config.get("max_heartbeat_throttle_interval", longest), longest
            )
            if self._roles & WAITING_ROLES and not config.get("tuner"):
                config["max_concurrent_activities"] = (
                    config.get("max_concurrent_activities") or WAITING_SLOTS
                )
            eager = not _is_versioned(config)
            wanted = self._deps.activities(self._roles, _slots_of(config), eager=eager)
            config["activities"] = _with_activities(config.get("activities"), wanted)
        _default_versioning(config)
        configured = super().configure_worker(config)
        if _is_versioned(configured):
            found = configured.get("workflows", ())
            configured["workflows"] = [FOLLOWING.get(one, one) for one in found]
        return configured

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Any]) -> None:
        """Keeps what the activities need open while the worker runs."""
        if self._deps is None:
            await super().run_worker(worker, next)
            return
        async with self._deps.opened(), AsyncExitStack() as stack:
            if Role.ENGINE in self._roles:
                await stack.enter_async_context(self._deps.kept(worker.client))
            if Role.INTERACTIVE in self._roles:
                await stack.enter_async_context(self._deps.warm_volumes.kept())
            if Role.HOOKS in self._roles:
                identity = worker.client.identity
                await stack.enter_async_context(self._deps.following_hooks(identity))
            # Both: a worker that is gone cannot say that nobody takes backups.
            if self._roles & {Role.BACKUP, Role.ENGINE}:
                await stack.enter_async_context(measured_backups(worker.client))
            await super().run_worker(worker, next)

    def _with_workflows(self, existing: Sequence[type] | None) -> Sequence[type]:
        wanted = self._workflows()
        present = {_workflow_name(kind) for kind in existing or ()}
        return [*(existing or ()), *(w for w in wanted if _workflow_name(w) not in present)]

    def _workflows(self) -> Sequence[type]:
        if Role.ENGINE in self._roles or self._deps is None:
            return WORKFLOWS
        return [one for role in sorted(self._roles) for one in WORKFLOWS_BY_ROLE.get(role, ())]


def _slots_of(config: WorkerConfig) -> int:
    """Gives how many activities a Worker is sure to carry out at once."""
    if config.get("tuner"):
        return TUNED_SLOTS
    return config.get("max_concurrent_activities") or DEFAULT_SLOTS


def _with_activities(
    existing: Sequence[Callable[..., Any]] | None, wanted: Sequence[Callable[..., Any]]
) -> Sequence[Callable[..., Any]]:
    present = {_activity_name(function) for function in existing or ()}
    return [*(existing or ()), *(f for f in wanted if _activity_name(f) not in present)]


def _with_pydantic(existing: DataConverter | None) -> DataConverter:
    if existing is None:
        return pydantic_data_converter
    converter = existing.payload_converter_class
    if issubclass(converter, PydanticPayloadConverter):
        return existing
    if converter is DefaultPayloadConverter:
        # Only the default part is replaced: the user's codec and failure converter stay.
        return dataclasses.replace(existing, payload_converter_class=PydanticPayloadConverter)
    raise MisconfiguredWorker(
        f"knit's messages are pydantic models, which {converter.__name__} cannot carry: derive "
        "your payload converter from temporalio.contrib.pydantic.PydanticPayloadConverter"
    )


def _with_passthrough(existing: WorkflowRunner | None) -> WorkflowRunner:
    runner = existing or SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    return dataclasses.replace(
        runner,
        restrictions=runner.restrictions.with_passthrough_modules(
            "knit_workflows.contracts",
            "knit_workflows.domain",
            "knit_workflows.names",
            "knit_workflows.workflows.options",
        ),
    )


def _require_pydantic(client: Client) -> None:
    active = client.config(active_config=True)["data_converter"]
    if not issubclass(active.payload_converter_class, PydanticPayloadConverter):
        raise MisconfiguredWorker(
            "this worker's client does not speak knit: connect it with "
            "Client.connect(…, plugins=[KnitPlugin(…)]); the plugin then reaches its workers by "
            "itself"
        )


def _is_versioned(config: WorkerConfig) -> bool:
    deployment = config.get("deployment_config")
    return deployment is not None and deployment.use_worker_versioning


def _default_versioning(config: WorkerConfig) -> None:
    deployment = config.get("deployment_config")
    if (
        deployment is not None
        and deployment.use_worker_versioning
        and deployment.default_versioning_behavior is VersioningBehavior.UNSPECIFIED
    ):
        # Runs live for days inside other people's workers: they follow the current version.
        config["deployment_config"] = dataclasses.replace(
            deployment, default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE
        )


def _workflow_name(kind: type) -> str | None:
    return workflow._Definition.must_from_class(kind).name


def _activity_name(function: Callable[..., Any]) -> str | None:
    return activity._Definition.must_from_callable(function).name
