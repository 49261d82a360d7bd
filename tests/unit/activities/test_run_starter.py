"""What a Run's start tells Temporal: within what every server takes, and whose turn it is."""

from __future__ import annotations

import pytest

from knit_workflows import names
from knit_workflows.activities.run_starter import RunStarter
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.contracts.runs import RunInput
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


async def started(image: str, *command: str) -> tuple[RunInput, dict[str, object]]:
    """Starts one Run; gives its input, and how it was started."""
    run = StartableRun(RunKey(RunId("r"), 1), PlanId("p"), image, command, (KnitId("d"),))
    client = Recorder()
    starter = RunStarter(client, QUEUES, EngineSettings(), attributes=True)  # type: ignore[arg-type]
    await starter.start([run])
    [one] = client.started
    return one


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


async def test_its_stop_has_the_queue_of_what_people_wait_for() -> None:
    request, how = await started("host/sh:1")
    assert (request.compute_queue, request.interactive_queue) == ("c", "i")
    assert how["priority"].fairness_key == "p"  # type: ignore[attr-defined]
