"""A Run gets all of its volumes or none, so that Runs which wait for a quota let others through."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.failures import QUOTA_PAUSE, translated
from knit_workflows.activities.runs.steps import RunSteps
from knit_workflows.domain.errors import BackendUnavailable, QuotaExceeded
from knit_workflows.domain.volumes import Mount, Volume, VolumeOptions
from knit_workflows.settings import EngineSettings


class Claims:
    """A back-end whose quota admits `room` claims, or whose server fails from then on."""

    def __init__(self, room: int, failure: type[BackendUnavailable] = QuotaExceeded) -> None:
        self.room = room
        self.failure = failure
        self.made: set[str] = set()
        self.asked: list[str] = []

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        self.asked.append(volume.name)
        if volume.name not in self.made and len(self.made) >= self.room:
            raise self.failure
        self.made.add(volume.name)
        return volume.options

    async def delete_volume(self, volume: Volume) -> None:
        self.made.discard(volume.name)


def spec(*names: str) -> Any:
    mounts = [Mount(f"/{name}", Volume(name, name)) for name in names]
    return SimpleNamespace(outputs=mounts, log=Volume(f"log-of-{names[0]}", "log"))


def steps(claims: Claims) -> RunSteps:
    return RunSteps(claims, EngineSettings())  # type: ignore[arg-type]


async def test_who_does_not_get_all_gives_back_what_it_got() -> None:
    claims = Claims(room=2)
    with pytest.raises(QuotaExceeded):
        await steps(claims).create_volumes(spec("a", "b"))
    assert claims.made == set()
    await steps(claims).create_volumes(spec("c"))
    assert claims.made == {"c", "log-of-c"}


async def test_who_waits_for_a_quota_asks_for_one_volume_only() -> None:
    claims = Claims(room=0)
    with pytest.raises(QuotaExceeded):
        await steps(claims).create_volumes(spec("a", "b"))
    assert claims.asked == ["a"]


async def test_a_server_that_is_away_costs_no_volume() -> None:
    """They are found by the next attempt."""
    claims = Claims(room=1, failure=BackendUnavailable)
    with pytest.raises(BackendUnavailable):
        await steps(claims).create_volumes(spec("a", "b"))
    assert claims.made == {"a"}


def test_those_who_wait_for_a_quota_come_back_one_by_one() -> None:
    pauses = set()
    for _ in range(20):
        with pytest.raises(ApplicationError) as refused, translated():
            raise QuotaExceeded
        assert refused.value.next_retry_delay is not None
        pauses.add(refused.value.next_retry_delay.total_seconds())
    assert len(pauses) > 1
    assert all(QUOTA_PAUSE / 2 <= pause <= QUOTA_PAUSE for pause in pauses)


@pytest.mark.parametrize(("attempt", "longest"), [(1, 5.0), (4, 20.0), (1000, 60.0)])
def test_who_has_waited_long_for_a_quota_asks_seldom(attempt: int, longest: float) -> None:
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, attempt=attempt)

    def fail() -> None:
        with translated():
            raise QuotaExceeded

    with pytest.raises(ApplicationError) as refused:
        environment.run(fail)
    assert refused.value.next_retry_delay is not None
    assert longest / 2 <= refused.value.next_retry_delay.total_seconds() <= longest
