"""What a Run's start tells Temporal: within what every server takes, and whose turn it is."""

from __future__ import annotations

import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.activities.run_starter import RunStarter
from knit_workflows.activities.search_attributes import search_attributes_known
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.contracts.runs import RunInput
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import RunKey, StartableRun
from knit_workflows.settings import EngineSettings

LONG = "registry.example.com/" + "a-long-name/" * 40 + "trainer:" + "v" * 100
QUEUES = ProjectorInput(engine_queue="e", compute_queue="c", watch_queue="w", interactive_queue="i")


class Recorder:
    """Takes the place of a client: remembers what is started."""

    def __init__(self) -> None:
        self.started: list[tuple[RunInput, dict[str, object]]] = []

    async def start_workflow(self, _workflow: object, request: RunInput, **how: object) -> None:
        self.started.append((request, how))


class Refusing:
    """Takes the place of a client: Temporal refuses everything."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def start_workflow(self, *_: object, **__: object) -> None:
        raise self._error


def a_run(image: str = "host/sh:1", *command: str) -> StartableRun:
    return StartableRun(RunKey(RunId("r"), 1), PlanId("p"), image, command, (KnitId("d"),))


async def started(
    image: str, *command: str, settings: EngineSettings | None = None
) -> tuple[RunInput, dict[str, object]]:
    """Starts one Run; gives its input, and how it was started."""
    run = a_run(image, *command)
    client = Recorder()
    engine = settings or EngineSettings()
    starter = RunStarter(client, QUEUES, engine, attributes=True)  # type: ignore[arg-type]
    await starter.start([run])
    [one] = client.started
    return one


@pytest.mark.parametrize("eager", [True, False])
async def test_runs_begin_here_only_where_they_may(eager: bool) -> None:
    """Of workers with versions they would begin with that of this process, current or not."""
    client = Recorder()
    starter = RunStarter(
        client,  # type: ignore[arg-type]
        QUEUES,
        EngineSettings(),
        attributes=True,
        eager=eager,
    )
    await starter.start([a_run()])
    assert client.started[0][1]["request_eager_start"] is eager


async def test_no_search_attribute_is_longer_than_postgres_takes() -> None:
    """A longer one is never listed, and its task is tried again for ever."""
    _, how = await started(LONG)
    attributes = {one.key.name: one.value for one in how["search_attributes"]}  # type: ignore[attr-defined]
    assert set(attributes) == set(names.SEARCH_ATTRIBUTES)
    assert attributes[names.ATTRIBUTE_IMAGE] == LONG[:255]
    assert max(map(len, attributes.values())) == 255


@pytest.mark.parametrize("word", ["漢" * 300, "\\" * 500, "a\nb" * 300])
async def test_the_summary_is_one_short_line_whatever_the_command(word: str) -> None:
    _, how = await started("host/sh:1", "sh", "-c", word)
    assert len(str(how["static_summary"]).encode()) <= 180
    assert "\n" not in str(how["static_summary"])


@pytest.mark.parametrize(
    ("most", "seconds"), [(None, 20), (500, 20), (2_000, 60), (3_000, 90), (100_000, 120)]
)
async def test_the_heartbeats_of_many_runs_are_no_more_than_those_of_some(
    most: int | None, seconds: int
) -> None:
    """Each is a write of Temporal's."""
    request, _ = await started("host/sh:1", settings=EngineSettings(max_active_runs=most))
    assert request.heartbeat == timedelta(seconds=seconds)


async def test_its_stop_has_the_queue_of_what_people_wait_for() -> None:
    request, how = await started("host/sh:1")
    assert (request.compute_queue, request.interactive_queue) == ("c", "i")
    assert how["priority"].fairness_key == "p"  # type: ignore[attr-defined]


async def test_a_temporal_that_takes_no_run_is_told() -> None:
    client = Refusing(RPCError("away", RPCStatusCode.UNAVAILABLE, b""))
    starter = RunStarter(client, QUEUES, EngineSettings(), attributes=True)  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailable, match="Temporal did not take a Run's workflow"):
        await starter.start([a_run()])


async def test_a_run_that_has_ended_already_is_not_started_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two Projectors may have met, or the answer to the first start was lost."""
    client = Refusing(WorkflowAlreadyStartedError("knit.Run/r/1", "knit.Run"))
    starter = RunStarter(client, QUEUES, EngineSettings(), attributes=True)  # type: ignore[arg-type]
    with caplog.at_level(logging.DEBUG):
        await starter.start([a_run()])
    assert "run's workflow has ended already" in caplog.text


async def test_where_search_attributes_cannot_be_listed_none_are_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are a comfort: where the operator keeps them to himself, knit runs all the same."""

    async def refuse(*_: object) -> None:
        raise RPCError("not allowed", RPCStatusCode.PERMISSION_DENIED, b"")

    operator = SimpleNamespace(list_search_attributes=refuse)
    client = SimpleNamespace(namespace="default", operator_service=operator)
    with caplog.at_level(logging.INFO):
        assert not await search_attributes_known(client)  # type: ignore[arg-type]
    assert "search attributes cannot be listed, none are set" in caplog.text
