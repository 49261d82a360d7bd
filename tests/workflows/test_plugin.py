"""The plugin in other people's hands: what works by itself, and what fails in words."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, JSONPlainPayloadConverter, PayloadConverter
from temporalio.worker import Replayer, Worker, WorkerDeploymentConfig, WorkerTuner

from examples.own_worker.nightly import Nightly, Order
from knit_workflows import contracts, names
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import (
    ALL_ROLES,
    DEFAULT_SLOTS,
    SLOTS,
    TUNED_SLOTS,
    WAITING_SLOTS,
    WORKFLOWS,
    Deps,
    KnitPlugin,
    MisconfiguredWorker,
    Role,
    slots,
)
from knit_workflows.settings import EngineSettings, QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.testing import KnitEnvironment, MemoryBackend
from tests.workflows.test_run import TRAIN

HISTORIES = Path(__file__).parent / "histories"


def _address(client: Client) -> str:
    return client.service_client.config.target_host


def _deps(url: str = "postgresql:///never-opened") -> Deps:
    return Deps(
        PostgresStore(StoreSettings(url=SecretStr(url))),
        MemoryBackend(),
        queues=QueueSettings.single(names.ENGINE_QUEUE),
    )


@pytest.mark.parametrize("on_worker_too", [False, True])
async def test_one_worker_of_the_user_does_it_all(
    postgres: EmbeddedPostgres, temporal_client: Client, on_worker_too: bool
) -> None:
    """`Client.connect(plugins=[KnitPlugin(deps)])` and a plain Worker; `run_plan` in a workflow.

    The plugin on client and worker (of which the SDK warns) registers nothing twice.
    """
    url = postgres.url(f"plugin_{on_worker_too}")
    await migrate(url)
    deps = _deps(url)
    plugin = KnitPlugin(deps)
    client = await Client.connect(_address(temporal_client), plugins=[plugin])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The same plugin type")
        worker = Worker(
            client,
            task_queue=names.ENGINE_QUEUE,
            workflows=[Nightly],
            plugins=[plugin] if on_worker_too else [],
        )
    async with worker, deps.opened():
        knit = KnitEnvironment(client, deps, url)
        plan = await knit.apply(TRAIN)
        dataset = await knit.push({"type": "dataset"})
        answer = await client.execute_workflow(
            Nightly.run,
            Order(plan.summary.plan_id, "/in/data", dataset),
            id="nightly",
            task_queue=names.ENGINE_QUEUE,
            execution_timeout=timedelta(seconds=60),
        )
        assert "is done: /out/model=" in answer
        assert isinstance(deps.backend, MemoryBackend)
        assert len(deps.backend.launches) == 1


async def test_a_worker_of_a_plain_client_is_refused(temporal_client: Client) -> None:
    """The sentence says what to do."""
    plain = await Client.connect(_address(temporal_client))
    with pytest.raises(MisconfiguredWorker, match=r"Client\.connect"):
        Worker(plain, task_queue="mine", plugins=[KnitPlugin(_deps())])


async def test_a_foreign_converter_is_refused(temporal_client: Client) -> None:
    """knit's messages need pydantic's converter; one derived from it, or the default, is fine."""

    class Foreign(PayloadConverter):
        def to_payloads(self, values):  # type: ignore[no-untyped-def]
            return [JSONPlainPayloadConverter().to_payload(value) for value in values]

        def from_payloads(self, payloads, type_hints=None):  # type: ignore[no-untyped-def]
            return []

    host = _address(temporal_client)
    with pytest.raises(MisconfiguredWorker, match="PydanticPayloadConverter"):
        await Client.connect(
            host,
            data_converter=DataConverter(payload_converter_class=Foreign),
            plugins=[KnitPlugin()],
        )
    await Client.connect(host, data_converter=pydantic_data_converter, plugins=[KnitPlugin()])


async def test_a_versioned_worker_upgrades_by_default(temporal_client: Client) -> None:
    """Without a behaviour of their own, knit's Runs follow the current version."""
    version = WorkerDeploymentVersion(deployment_name="mine", build_id="1")
    config = {
        "client": temporal_client,
        "deployment_config": WorkerDeploymentConfig(version=version, use_worker_versioning=True),
    }
    configured = KnitPlugin(_deps()).configure_worker(config)  # type: ignore[arg-type]
    deployment = configured["deployment_config"]
    assert deployment is not None
    assert deployment.default_versioning_behavior is VersioningBehavior.AUTO_UPGRADE


async def test_what_never_ends_is_pinned_at_no_worker(temporal_client: Client) -> None:
    """Temporal refuses the declaration from workers without a version, so they do not have it."""
    version = WorkerDeploymentVersion(deployment_name="mine", build_id="1")
    pinned = WorkerDeploymentConfig(
        version=version,
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )

    def declared(**more: Any) -> dict[str | None, VersioningBehavior]:
        given: Any = {"client": temporal_client, "task_queue": "mine", **more}
        kinds = KnitPlugin().configure_worker(given)["workflows"]
        found = [workflow._Definition.must_from_class(kind) for kind in kinds]
        assert len({one.name for one in found}) == len(found)
        return {one.name: one.versioning_behavior for one in found}

    follow = {
        names.PROJECTOR_WORKFLOW,
        names.GC_WORKFLOW,
        names.HOUSEKEEPING_WORKFLOW,
        names.BACKUP_WORKFLOW,
    }
    with_version = declared(deployment_config=pinned)
    for name, behavior in with_version.items():
        wanted = "AUTO_UPGRADE" if name in follow else "UNSPECIFIED"
        assert behavior is VersioningBehavior[wanted], name
    without = declared()
    assert without.keys() == with_version.keys() > follow
    assert set(without.values()) == {VersioningBehavior.UNSPECIFIED}


@pytest.mark.parametrize("of_the_user", [None, 0.2, 40])
async def test_heartbeats_are_not_held_back(
    temporal_client: Client, of_the_user: float | None
) -> None:
    """The SDK would hold them back for most of their time-out; a shorter pause stays as it is."""
    chosen = (
        {}
        if of_the_user is None
        else {"max_heartbeat_throttle_interval": timedelta(seconds=of_the_user)}
    )
    worker = Worker(
        temporal_client,
        task_queue=names.ENGINE_QUEUE,
        plugins=[KnitPlugin(_deps())],
        **chosen,  # type: ignore[arg-type]
    )
    longest = worker.config(active_config=True)["max_heartbeat_throttle_interval"]
    a_third = EngineSettings().projector_heartbeat / 3
    assert longest == timedelta(seconds=of_the_user) if of_the_user == 0.2 else longest < a_third


class _Asked(Deps):
    """It remembers for how many slots its activities were made."""

    slots = 0
    eager: bool | None = None

    def activities(
        self, roles: frozenset[Role], slots: int = SLOTS, *, eager: bool = True
    ) -> list[Callable[..., object]]:
        """Remembers."""
        self.slots, self.eager = slots, eager
        return super().activities(roles, slots, eager=eager)


@pytest.mark.parametrize(
    ("roles", "of_the_user", "slots"),
    [
        (frozenset({Role.ENGINE}), {"max_concurrent_activities": 7}, 7),
        (frozenset({Role.ENGINE}), {}, DEFAULT_SLOTS),
        (frozenset({Role.ENGINE}), {"tuner": WorkerTuner.create_fixed()}, TUNED_SLOTS),
        (ALL_ROLES, {}, WAITING_SLOTS),
    ],
)
async def test_activities_that_wait_know_the_slots_of_their_worker(
    temporal_client: Client,
    roles: frozenset[Role],
    of_the_user: dict[str, object],
    slots: int,
) -> None:
    """They leave half of them to the Projector and others."""
    store = PostgresStore(StoreSettings(url=SecretStr("postgresql:///never-opened")))
    deps = _Asked(store, MemoryBackend())
    plugins = [KnitPlugin(deps, roles=roles)]
    Worker(temporal_client, task_queue="mine", plugins=plugins, **of_the_user)  # type: ignore[arg-type]
    assert deps.slots == slots


@pytest.mark.parametrize("versioned", [True, False])
async def test_runs_begin_with_the_worker_that_starts_them_unless_it_has_a_version(
    temporal_client: Client, versioned: bool
) -> None:
    """A worker that drains may start Runs for minutes, and they are for the current version."""
    store = PostgresStore(StoreSettings(url=SecretStr("postgresql:///never-opened")))
    deps = _Asked(store, MemoryBackend())
    version = WorkerDeploymentVersion(deployment_name="mine", build_id="1")
    config = {
        "client": temporal_client,
        "deployment_config": WorkerDeploymentConfig(
            version=version, use_worker_versioning=versioned
        ),
    }
    KnitPlugin(deps).configure_worker(config)  # type: ignore[arg-type]
    assert deps.eager is not versioned


def test_what_people_wait_for_has_a_queue_and_a_worker_of_its_own() -> None:
    """Its workflows and activities only; those from before it had one are served as they were."""
    deps = _deps()

    def served(*roles: Role) -> set[str]:
        return {str(_activity_name(one)) for one in deps.activities(frozenset(roles))}

    wanted = {"knit.stop_run", "knit.open_transfer", "knit.close_transfer"}
    assert served(Role.INTERACTIVE) == wanted | {"knit.look_at_volumes"}
    assert wanted < served(Role.COMPUTE)
    assert not served(Role.ENGINE) & wanted
    everything = [_activity_name(one) for one in deps.activities(ALL_ROLES)]
    assert len(everything) == len(set(everything))
    assert QueueSettings().interactive not in {
        QueueSettings().engine,
        QueueSettings().compute,
        QueueSettings().watch,
    }


@pytest.mark.parametrize(
    ("at_hand", "queues", "launches"),
    [
        (True, QueueSettings.single("one"), True),
        (True, QueueSettings(engine="one", compute="one"), True),
        (True, QueueSettings(), False),
        (False, QueueSettings.single("one"), False),
    ],
)
def test_whoever_executes_workflows_can_launch_what_they_launch_themselves(
    monkeypatch: pytest.MonkeyPatch, at_hand: bool, queues: QueueSettings, launches: bool
) -> None:
    """A workflow's task fails if it wants a local activity that its worker does not have."""
    monkeypatch.setattr(MemoryBackend, "is_at_hand", lambda _: at_hand)
    store = PostgresStore(StoreSettings(url=SecretStr("postgresql:///never-opened")))
    deps = Deps(store, MemoryBackend(), queues=queues)
    activities = map(_activity_name, deps.activities(frozenset({Role.ENGINE})))
    assert ("knit.launch_run" in activities) == launches


def test_a_client_only_process_stays_light() -> None:
    """The plugin without deps loads neither the database's nor the cluster's libraries."""
    script = (
        "import sys, knit_workflows.plugin\n"
        "heavy = {'sqlmodel', 'psycopg', 'kubernetes', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("history", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_old_histories_replay(history: Path) -> None:
    """A change of workflow code that would break Runs under way fails here."""
    recorded = WorkflowHistory.from_json(history.stem, history.read_text())
    await Replayer(workflows=[], plugins=[KnitPlugin()]).replay_workflow(recorded)


def test_every_workflow_type_has_a_recorded_history() -> None:
    """A type without one could be changed so that what is under way breaks, unseen."""
    recorded = {_recorded_type(path) for path in HISTORIES.glob("*.json")}
    ours = {workflow._Definition.must_from_class(kind).name for kind in WORKFLOWS}
    assert recorded == ours


def test_every_activity_of_our_workflows_is_in_a_recorded_history() -> None:
    """So that no path can be changed unseen: launches after a disruption, hooks, opening, trials.

    Those of users' own workflows are scheduled in theirs.
    """
    of_users = {"knit.ensure_run", "knit.await_run"}
    ours = {
        definition.name
        for contract in _contracts()
        for one in vars(contract).values()
        if (definition := activity._Definition.from_callable(one)) is not None
    }
    recorded = {name for path in HISTORIES.glob("*.json") for name in _scheduled(path)}
    assert recorded == ours - of_users


@pytest.mark.parametrize(
    ("scenario", "steps"),
    [
        ("run.disrupted", ("knit.relaunch_run",)),
        ("run.disrupted_too_often", ("knit.relaunch_run", "knit.record_evidence")),
        ("run.disrupted_with_hooks", ("knit.watch_pod", "knit.relaunch_run")),
        ("transfer.shut", ("knit.open_transfer", "knit.close_transfer")),
        ("transfer.upload", ("knit.open_transfer", "knit.close_transfer")),
    ],
)
def test_the_paths_through_disruptions_and_opening_are_recorded(
    scenario: str, steps: tuple[str, ...]
) -> None:
    for path in HISTORIES.glob(f"{scenario}.[0-9]*.json"):
        scheduled = iter(_scheduled(path))
        assert all(step in scheduled for step in steps), path
        return
    raise AssertionError(f"{scenario} has not been recorded")


def _scheduled(history: Path) -> list[str]:
    """Names the activities of a history, in their order."""
    found = (
        one.get("activityTaskScheduledEventAttributes")
        for one in json.loads(history.read_text())["events"]
    )
    return [one["activityType"]["name"] for one in found if one]


def _recorded_type(history: Path) -> str:
    first = json.loads(history.read_text())["events"][0]
    name: str = first["workflowExecutionStartedEventAttributes"]["workflowType"]["name"]
    return name


def _contracts() -> list[type]:
    """Gives the abstract activities: what workflows may ask for."""
    found = [
        kind
        for module in pkgutil.iter_modules(contracts.__path__, f"{contracts.__name__}.")
        for kind in vars(importlib.import_module(module.name)).values()
        if inspect.isclass(kind) and kind.__module__ == module.name and inspect.isabstract(kind)
    ]
    assert found
    return found


def test_workers_of_the_roles_have_every_activity_of_the_contracts_and_no_other() -> None:
    """One that no role registers would wait in its task queue for ever."""
    registered = [_activity_name(function) for function in _deps().activities(frozenset(Role))]
    named = [_activity_name(getattr(kind, name)) for kind in _contracts() for name in _names(kind)]
    assert sorted(registered) == sorted(named)


@pytest.mark.parametrize("contract", _contracts(), ids=lambda kind: kind.__name__)
def test_activities_have_the_contracts_names_and_signatures(contract: type) -> None:
    """An override without its decorator would have no definition at all."""
    subclasses = contract.__subclasses__()  # tests have some of their own
    [implementation] = [one for one in subclasses if one.__module__.startswith("knit_workflows.")]
    for name in _names(contract):
        ours, theirs = getattr(implementation, name), getattr(contract, name)
        assert _activity_name(ours) == _activity_name(theirs)
        assert inspect.signature(ours) == inspect.signature(theirs)


def test_calls_of_hooks_have_as_many_slots_as_watches() -> None:
    """Both mostly wait; with fewer, hooks that hang would keep those of other Runs waiting."""
    waiting = slots(frozenset({Role.WATCH}))
    assert slots(frozenset({Role.HOOKS})) == slots(ALL_ROLES) == waiting
    assert slots(ALL_ROLES - {Role.WATCH, Role.HOOKS}) < waiting


def _names(contract: type) -> frozenset[str]:
    names_of: frozenset[str] = contract.__abstractmethods__  # type: ignore[attr-defined]
    return names_of


def _activity_name(function: Callable[..., object]) -> str | None:
    return activity._Definition.must_from_callable(function).name
