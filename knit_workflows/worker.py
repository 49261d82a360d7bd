"""The worker process: `python -m knit_workflows --roles engine,compute,watch,interactive,hooks`.

The composition root of workers: here, and only here, the real store and back-end are chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.envconfig import ClientConnectConfig
from temporalio.worker import Worker, WorkerDeploymentConfig

from knit_workflows import log as logs
from knit_workflows import tracing
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.domain.errors import BackendRejected, KnitError, StoreMismatch
from knit_workflows.domain.ports import Store
from knit_workflows.health import Health
from knit_workflows.metrics import exposition
from knit_workflows.metrics.instruments import OF_WORKERS, WORKER_READY
from knit_workflows.open_files import allow_open_files
from knit_workflows.plugin import (
    ALL_ROLES,
    WAITING_SLOTS,
    WITHOUT_BACKEND,
    Deps,
    KnitPlugin,
    Role,
    slots,
)
from knit_workflows.settings import (
    ComputeSettings,
    QueueSettings,
    Settings,
    SettingsRefused,
    VersioningSettings,
    read_settings,
)
from knit_workflows.start_up import (
    Interrupted,
    Patience,
    answers,
    reach_namespace,
    require_schema,
    seconds,
)
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.connection import client_config
from knit_workflows.temporal.telemetry import set_up_telemetry
from knit_workflows.temporal.workers import Underway, working
from knit_workflows.tracing import process as traced_process

log = logging.getLogger(__name__)

SHUTDOWN: Final = timedelta(seconds=2)
"""After SIGTERM, short steps finish within this time; watches then move to another worker."""
HOOKS_SHUTDOWN: Final = timedelta(seconds=5)
"""The same for calls of hooks: one after a transition that is given up is not made again."""
EXPANDER: Final = "expander"
"""A role that is no Temporal worker: it looks at claims, alone in its process."""
LOOKS_EVERY: Final = timedelta(seconds=10)
"""How soon a worker notices that its database has been upgraded."""


def backend_from(settings: ComputeSettings) -> ComputeBackend:
    """Builds the back-end that the settings name; nothing is opened.

    Adapters are imported here, when chosen: the Kubernetes client alone needs more memory than the
    rest of a worker.
    """
    match settings.kind:
        case "kubernetes":
            from knit_workflows.compute.kubernetes import KubernetesBackend

            return KubernetesBackend(settings.kubernetes)
        case "memory":
            from knit_workflows.compute.memory import MemoryBackend

            return MemoryBackend()
        case "local":
            from knit_workflows.compute.local import LocalBackend

            return LocalBackend(settings.local)


def deps_from(settings: Settings, roles: frozenset[Role] = ALL_ROLES) -> Deps:
    """Builds the dependencies of the activities of these roles; nothing is opened."""
    return Deps(
        PostgresStore(settings.store),
        backend_from(settings.compute),
        engine=settings.engine,
        queues=settings.queues,
        hooks=settings.hooks,
        versioning=settings.versioning,
        # On Kubernetes a worker without need of them has no credentials that could be loaded.
        opens_backend=settings.compute.kind != "kubernetes" or not roles <= WITHOUT_BACKEND,
    )


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a worker says how it is, if anywhere: its health, its metrics, those of its core."""

    health: int | None = None
    metrics: socket.socket | None = None
    core: int | None = None

    @asynccontextmanager
    async def open(self, health: Health, roles: Iterable[str]) -> AsyncIterator[None]:
        """Answers there while inside."""
        async with AsyncExitStack() as stack:
            if self.health is not None:
                await stack.enter_async_context(health.listening(self.health))
            component = f"worker {' '.join(sorted(roles))}"

            async def refresh() -> None:
                WORKER_READY.labels(component).set(0 if await health.problem() else 1)

            await stack.enter_async_context(
                exposition.serving(
                    self.metrics, component, OF_WORKERS, core_port=self.core, refresh=refresh
                )
            )
            yield


async def expand(
    settings: Settings, *, patience: timedelta = timedelta(), ports: Ports | None = None
) -> None:
    """Expands claims that run full until SIGTERM or SIGINT; needs nothing but the cluster.

    `patience` is how long its credentials may be missing at the start.

    Raises:
        BackendRejected: Runs are not on Kubernetes, or there are no credentials.
    """
    if settings.compute.kind != "kubernetes":
        raise BackendRejected(
            f"the role {EXPANDER} is for Kubernetes, and runs are on {settings.compute.kind!r}",
            advice="set KNIT_COMPUTE__KIND to kubernetes, or leave the role out",
        )
    from knit_workflows.compute.kubernetes.api.server import ApiServer
    from knit_workflows.compute.kubernetes.expander import Expander

    stopping = _stopped_by_signals()
    health = Health()
    server = ApiServer(settings.compute.kubernetes)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context((ports or Ports()).open(health, [EXPANDER]))
        await Patience(patience, stopping, health).wait_for(server.open)
        stack.push_async_callback(server.aclose)
        expander = Expander(server, settings.compute.kubernetes)
        looking = asyncio.create_task(expander.run())
        health.is_up({"the cluster": expander.answers})
        log.info("worker is ready", extra={"action": "worker_ready", "roles": [EXPANDER]})
        await asyncio.wait(
            {looking, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        if looking.done():
            looking.result()
        log.info("worker stops", extra={"action": "worker_stops"})
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _stopped_by_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def workers(
    client: Client, deps: Deps, roles: frozenset[Role], underway: Underway | None = None
) -> list[Worker]:
    """Builds one Worker per task queue that these roles serve; `underway` hears of what they do."""
    return [
        Worker(
            client,
            task_queue=queue,
            plugins=[KnitPlugin(deps, roles=served)],
            interceptors=[underway] if underway else [],
            on_fatal_error=underway.on_fatal_error if underway else None,
            max_concurrent_activities=slots(served),
            graceful_shutdown_timeout=shutdown_of(served),
            # How long a killed worker's workflows wait for it before another one takes them. With
            # less than a burst of Runs takes, each of them is replayed from its history instead.
            sticky_queue_schedule_to_start_timeout=deps.engine.step_timeout,
            max_cached_workflows=deps.engine.cached_workflows,
            deployment_config=deployment_of(deps.versioning),
        )
        for queue, served in by_queue(deps.queues, roles).items()
    ]


def deployment_of(versioning: VersioningSettings | None) -> WorkerDeploymentConfig | None:
    """Says of which version the Workers are; None: of none."""
    if versioning is None or not versioning.build_id:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(versioning.deployment_name, versioning.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def shutdown_of(roles: frozenset[Role]) -> timedelta:
    """Gives how long activities of these roles may go on after SIGTERM."""
    return HOOKS_SHUTDOWN if Role.HOOKS in roles else SHUTDOWN


def by_queue(queues: QueueSettings, roles: frozenset[Role]) -> dict[str, frozenset[Role]]:
    """Maps each task queue to the roles that it serves; several roles may share one."""
    served: dict[str, frozenset[Role]] = {}
    for role in sorted(roles):
        queue: str = getattr(queues, role.value)
        served[queue] = served.get(queue, frozenset()) | {role}
    return served


async def serve(
    settings: Settings,
    temporal: ClientConnectConfig,
    roles: frozenset[Role],
    *,
    patience: timedelta = timedelta(),
    ports: Ports | None = None,
) -> None:
    """Works until SIGTERM or SIGINT; work in progress continues elsewhere or after a restart.

    `patience` is how long database, Temporal and back-end may be away, or not be prepared yet, at
    the start.
    """
    stopping = _stopped_by_signals()
    health = Health()
    start = Patience(patience, stopping, health)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context((ports or Ports()).open(health, roles))
        client = await start.wait_for(lambda: reach_namespace(temporal))
        await start.wait_for(lambda: require_schema(settings.store))
        deps = deps_from(settings, roles)
        # The back-end is needed too, and the others may go away again after they were seen.
        await start.wait_for(lambda: stack.enter_async_context(deps.opened()))
        underway = Underway()
        running = await stack.enter_async_context(
            working(
                workers(client, deps, roles, underway),
                client,
                underway,
                patience=shutdown_of(roles),
            )
        )
        health.is_up({"database": deps.store.ping, "Temporal": lambda: answers(client)})
        log.info("worker is ready", extra={"action": "worker_ready", "roles": sorted(roles)})
        told = asyncio.ensure_future(told_to_stop(stopping, deps.store))
        await asyncio.wait((told, running), return_when=asyncio.FIRST_COMPLETED)
        health.waits_for("it is ending")
        log.info("worker stops", extra={"action": "worker_stops"})
        if told.done():
            told.result()


async def told_to_stop(stopping: asyncio.Event, store: Store) -> None:
    """Waits until the worker is told to stop.

    One that is older than its database must not go on: it would not know of what is new, and pass
    hooks over, for example.

    Raises:
        StoreMismatch: the database has been upgraded meanwhile.
    """
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOKS_EVERY.total_seconds()):
                await stopping.wait()
                return
        try:
            await store.open()
        except StoreMismatch:
            raise
        except KnitError:
            continue  # an outage, which activities wait for


def allow_connections() -> None:
    """Lets this process have as many connections as it may want: each call of a hook is one."""
    allow_open_files(2 * WAITING_SLOTS)


def _roles(text: str) -> frozenset[Role] | None:
    """Reads roles; None is the expander, which needs other rights than all the others."""
    words = {word.strip() for word in text.split(",")}
    if words == {EXPANDER}:
        return None
    if EXPANDER in words:
        raise argparse.ArgumentTypeError(
            f"{EXPANDER} is a role for a worker of its own, which has rights of its own"
        )
    try:
        return frozenset(map(Role, words))
    except ValueError as error:
        every = ", ".join((*Role, EXPANDER))
        raise argparse.ArgumentTypeError(f"{error}; roles are {every}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m knit_workflows", description=__doc__)
    parser.add_argument(
        "--roles",
        type=_roles,
        default=",".join(sorted(ALL_ROLES)),
        help=f"what this worker does, comma-separated (default: all of these): "
        f"{', '.join(one for one in Role if one in ALL_ROLES)}; {Role.BACKUP} besides, which takes "
        f"backups by a schedule; or {EXPANDER} alone, which expands claims that run full",
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=timedelta(),
        metavar="SECONDS",
        help="how long database, Temporal and back-end may be away at the start (default: not at "
        "all)",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        metavar="PORT",
        help="answer /livez and /readyz over HTTP there, on all addresses (default: nowhere)",
    )
    exposition.add_argument(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, serves, and leaves the process."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = read_settings()
        temporal = client_config()
        metrics = exposition.listen(options.metrics_address)
    except (SettingsRefused, exposition.AddressInUse) as refused:
        parser.error(str(refused))
    logs.set_up(settings.log_format, settings.log_level)
    # The expander has nothing to do with Temporal.
    core = metrics is not None and options.roles is not None
    core_port = set_up_telemetry(settings.log_format, with_metrics=core)
    ports = Ports(options.health_port, metrics, core_port)
    traced_process.start("knit-worker")
    if options.roles is not None and Role.HOOKS in options.roles:
        allow_connections()
    code = 1
    try:
        # Not `asyncio.run`, which waits for all that is left to end.
        asyncio.new_event_loop().run_until_complete(
            expand(settings, patience=options.patience, ports=ports)
            if options.roles is None
            else serve(settings, temporal, options.roles, patience=options.patience, ports=ports)
        )
        code = 0
    except Interrupted:
        code = 0
    except KnitError as error:
        # Its message is enough; only for unexpected errors a stack trace is useful.
        message = "; ".join(filter(None, (error.reason, error.advice)))
        log.error("worker ended: %s", message, extra={"action": "worker_ended"})
    except BaseException:
        log.exception("worker ended", extra={"action": "worker_ended"})
    finally:
        tracing.stop()
        # The interpreter may crash in its shutdown after it has run a Worker.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
