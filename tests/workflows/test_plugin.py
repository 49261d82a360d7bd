"""The plugin in other people's hands: what works by itself, and what fails in words."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, JSONPlainPayloadConverter, PayloadConverter
from temporalio.worker import Replayer, Worker, WorkerDeploymentConfig

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Deps, KnitPlugin, MisconfiguredWorker
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore, migrate
from knit_workflows.testing import MemoryBackend, knit_environment
from knit_workflows.workflow import run_plan
from tests.workflows.test_run import TRAIN

HISTORIES = Path(__file__).parent / "histories"


@workflow.defn
class Nightly:
    """A user's own workflow that awaits a Run."""

    @workflow.run
    async def run(self, plan_id: str, dataset: str, queue: str) -> list[str]:
        """Ask twice for the same Run."""
        first = await run_plan(plan_id, {"/in/data": dataset}, task_queue=queue)
        again = await run_plan(plan_id, {"/in/data": dataset}, task_queue=queue)
        assert first == again
        return [first.status, *(output.path for output in first.outputs)]


def _deps(postgres: EmbeddedPostgres, name: str) -> Deps:
    return Deps(
        PostgresStore(StoreSettings(url=SecretStr(postgres.url(name)))),
        MemoryBackend(),
        queues=QueueSettings.single("mine"),
    )


async def test_one_worker_of_the_user_does_it_all(
    postgres: EmbeddedPostgres, temporal_client: Client
) -> None:
    """`Client.connect(plugins=[KnitPlugin(deps)])` and a plain Worker; `run_plan` in a workflow.

    The same plugin on client and worker, and a user's own workflows beside knit's, work as well.
    """
    deps = _deps(postgres, "plugin_user")
    await migrate(postgres.url("plugin_user"))
    plugin = KnitPlugin(deps)
    client = await Client.connect(
        temporal_client.service_client.config.target_host, plugins=[plugin]
    )
    worker = Worker(client, task_queue="mine", workflows=[Nightly], plugins=[plugin])
    async with worker, knit_environment(
        postgres=postgres, client=client, work=False
    ) as unused, deps.opened():
        del unused
        from knit_workflows.testing import KnitEnvironment

        knit = KnitEnvironment(client, deps, postgres.url("plugin_user"))
        plan = await knit.apply(TRAIN)
        dataset = await knit.push({"type": "dataset"})
        answer = await client.execute_workflow(
            Nightly.run,
            args=[plan.summary.plan_id, dataset, "mine"],
            id="nightly",
            task_queue="mine",
            execution_timeout=timedelta(seconds=60),
        )
        assert answer == ["done", "/out/model"]
        assert len(deps.backend.launches) == 1  # type: ignore[attr-defined]


async def test_a_worker_of_a_plain_client_is_refused(
    postgres: EmbeddedPostgres, temporal_client: Client
) -> None:
    """The sentence says what to do."""
    plain = await Client.connect(temporal_client.service_client.config.target_host)
    with pytest.raises(MisconfiguredWorker, match=r"Client\.connect"):
        Worker(plain, task_queue="mine", plugins=[KnitPlugin(_deps(postgres, "guards"))])


async def test_a_foreign_converter_is_refused(temporal_client: Client) -> None:
    """knit's messages need pydantic's converter; one derived from it, or the default, is fine."""

    class Foreign(PayloadConverter):
        def to_payloads(self, values):  # type: ignore[no-untyped-def]
            return [JSONPlainPayloadConverter().to_payload(value) for value in values]

        def from_payloads(self, payloads, type_hints=None):  # type: ignore[no-untyped-def]
            return []

    host = temporal_client.service_client.config.target_host
    with pytest.raises(MisconfiguredWorker, match="PydanticPayloadConverter"):
        await Client.connect(
            host,
            data_converter=DataConverter(payload_converter_class=Foreign),
            plugins=[KnitPlugin()],
        )
    await Client.connect(
        host, data_converter=pydantic_data_converter, plugins=[KnitPlugin()]
    )


async def test_a_versioned_worker_upgrades_by_default(
    postgres: EmbeddedPostgres, temporal_client: Client
) -> None:
    """Without a behaviour of their own, knit's Runs follow the current version."""
    version = WorkerDeploymentVersion(deployment_name="mine", build_id="1")
    config = {
        "client": temporal_client,
        "deployment_config": WorkerDeploymentConfig(version=version, use_worker_versioning=True),
    }
    configured = KnitPlugin(_deps(postgres, "guards")).configure_worker(config)  # type: ignore[arg-type]
    deployment = configured["deployment_config"]
    assert deployment is not None
    assert deployment.default_versioning_behavior is VersioningBehavior.AUTO_UPGRADE


def test_a_client_only_process_stays_light() -> None:
    """The plugin without deps loads neither the database's nor the cluster's libraries."""
    script = (
        "import sys, knit_workflows.plugin\n"
        "heavy = {'sqlalchemy', 'sqlmodel', 'psycopg', 'kubernetes', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("history", sorted(HISTORIES.glob("*.json")), ids=lambda path: path.stem)
async def test_old_histories_replay(history: Path) -> None:
    """A change of workflow code that would break Runs under way fails here."""
    from temporalio.client import WorkflowHistory

    recorded = WorkflowHistory.from_json(history.stem, history.read_text())
    await Replayer(workflows=[], plugins=[KnitPlugin()]).replay_workflow(recorded)


def test_there_are_histories() -> None:
    """Every workflow type has at least one recorded history."""
    kinds = {path.stem.split(".")[0] for path in HISTORIES.glob("*.json")}
    assert {"run", "transfer", "projector"} <= kinds


def test_activities_have_the_contracts_names_and_signatures() -> None:
    """An override without its decorator would have no definition at all."""
    import inspect

    from temporalio import activity

    from knit_workflows.activities.awaiting import StoreAwaitRunActivities
    from knit_workflows.activities.projector import StoreProjectorActivities
    from knit_workflows.activities.runs import ComputeRunActivities
    from knit_workflows.activities.transfers import ComputeTransferActivities

    kinds = (
        StoreAwaitRunActivities,
        StoreProjectorActivities,
        ComputeRunActivities,
        ComputeTransferActivities,
    )
    for kind in kinds:
        contract = kind.__mro__[1]
        for name in contract.__abstractmethods__:
            ours, theirs = getattr(kind, name), getattr(contract, name)
            definition = activity._Definition.must_from_callable(ours)
            assert definition.name == activity._Definition.must_from_callable(theirs).name
            assert inspect.signature(ours) == inspect.signature(theirs)


