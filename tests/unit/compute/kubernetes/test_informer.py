"""When a cache may be believed: the clock is the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from knit_workflows.compute.kubernetes.api.informer import Informer
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.metrics.instruments import WATCH_AGE
from tests.waiting import until


class QuietServer:
    """Ends each watch after so many seconds, without a word: it sends no bookmarks of Events."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.watches = 0

    async def list(self, kind: str, query: Mapping[str, str]) -> tuple[list[JsonObject], str]:
        return [], "1"

    async def watch(
        self, kind: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        self.watches += 1
        self.now += self.seconds  # and it ends before anybody else goes on
        for nothing in ():
            yield nothing


def informer(server: QuietServer) -> Informer[JsonObject]:
    return Informer(
        server,  # type: ignore[arg-type]
        "Event",
        {},
        key=lambda event: event["metadata"]["name"],
        read=lambda event: event,
        clock=lambda: server.now,
    )


@pytest.mark.patient
async def test_a_watch_that_ends_as_it_was_asked_to_keeps_the_cache_fresh() -> None:
    server = QuietServer(60)
    watching = informer(server)
    watching.start()
    await until(lambda: server.watches >= 4)
    assert watching.fresh
    await watching.aclose()


@pytest.mark.patient
async def test_watches_that_end_at_once_say_nothing() -> None:
    """As through a proxy that cuts them: changes may be missed."""
    server = QuietServer(0)
    watching = informer(server)
    watching.start()
    await until(lambda: server.watches >= 2)
    assert watching.fresh  # it has been listed just now
    server.now += 101
    await until(lambda: server.watches >= 3)
    assert not watching.fresh
    await watching.aclose()


async def test_how_long_nothing_was_heard_is_a_metric_until_it_is_closed() -> None:
    server = QuietServer(0)
    first, watching = informer(server), informer(server)
    watching.start()
    await until(lambda: server.watches >= 1)
    server.now += 250
    assert age() == 250
    await watching.aclose()
    assert age() is None
    first.start()  # nothing was heard yet: since the start
    assert age() == 0
    server.now += 10
    assert age() == 10
    await first.aclose()
    await watching.aclose()  # once more


def age() -> float | None:
    """What the metric says of events."""
    [metric] = WATCH_AGE.collect()
    return {one.labels["kind"]: one.value for one in metric.samples}.get("Event")
