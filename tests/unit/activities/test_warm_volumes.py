"""The keeper of volumes that wait for uploads, between a store and a back-end that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from knit_workflows import names
from knit_workflows.activities.transfers.warm_volumes import WarmVolumes
from knit_workflows.compute.base import Endpoint, Transfer, WarmPool
from knit_workflows.domain.errors import BackendUnavailable, DataExists, TransferNotReady
from knit_workflows.domain.ports import WarmVolume
from knit_workflows.domain.volumes import Volume
from tests.waiting import until

POOL = WarmPool(1, "kind")
ONE = WarmVolume(names.volume("aa"), "aa", "s3cret", ending=False)
ENDING = WarmVolume(names.volume("bb"), "bb", "s3cret", ending=True)


class Rows:
    """What the store gives out to be done, and what it is told."""

    def __init__(self, *held: WarmVolume) -> None:
        self.held: Sequence[WarmVolume] = held
        self.turns = 0
        self.told: list[str] = []
        self.lost = False
        """Another keeper holds them, or an upload has taken them."""

    async def hold(self, keeper: str, kind: str, count: int) -> Sequence[WarmVolume]:
        self.turns += 1
        return self.held

    async def ready(self, keeper: str, volume: str) -> bool:
        self.told.append(f"ready {volume}")
        return True

    async def end(self, keeper: str, volume: str) -> bool:
        return not self.lost

    async def discard(self, keeper: str, volume: str) -> None:
        self.told.append(f"discard {volume}")


class Pods:
    """A back-end whose transfers open as `outcome` says."""

    def __init__(self, outcome: Exception | None = None) -> None:
        self.outcome = outcome
        self.made: list[str] = []

    def warm_pool(self) -> WarmPool:
        return POOL

    async def create_volume(self, volume: Volume) -> None:
        self.made.append(f"volume {volume.name}")

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        self.made.append(f"open {transfer.name} {transfer.token}")
        if self.outcome is not None:
            raise self.outcome
        return Endpoint("http://10.0.0.1:1/")

    async def close_transfer(self, transfer: Transfer) -> None:
        self.made.append(f"close {transfer.name}")


def keeper(rows: Rows, pods: Pods) -> WarmVolumes:
    return WarmVolumes(rows, pods, timedelta(minutes=3))  # type: ignore[arg-type]


async def test_a_volume_is_ready_when_its_agent_answers() -> None:
    rows, pods = Rows(ONE), Pods()
    assert await keeper(rows, pods).turn(POOL)
    assert pods.made == ["volume data-knitid-aa", "open knitid-aa-write-warm s3cret"]
    assert rows.told == ["ready data-knitid-aa"]


async def test_until_then_it_is_not() -> None:
    rows = Rows(ONE)
    assert not await keeper(rows, Pods(TransferNotReady("soon"))).turn(POOL)
    assert rows.told == []


async def test_what_is_superfluous_is_discarded_after_its_pod() -> None:
    rows, pods = Rows(ENDING), Pods()
    assert await keeper(rows, pods).turn(POOL)
    assert pods.made == ["close knitid-bb-write-warm"]
    assert rows.told == ["discard data-knitid-bb"]


async def test_a_volume_that_others_have_written_to_becomes_no_data() -> None:
    rows = Rows(ONE)
    assert await keeper(rows, Pods(DataExists())).turn(POOL)
    assert rows.told == ["discard data-knitid-aa"]


async def test_the_pod_of_an_upload_is_not_closed() -> None:
    """Opening took so long that another keeper made the volume ready, and an upload took it."""
    rows = Rows(ONE)

    class Taken(Pods):
        async def open_transfer(self, transfer: Transfer) -> Endpoint:
            rows.lost = True
            return await super().open_transfer(transfer)

    pods = Taken(DataExists())
    assert await keeper(rows, pods).turn(POOL)
    assert pods.made == ["volume data-knitid-aa", "open knitid-aa-write-warm s3cret"]
    assert rows.told == []


async def test_one_that_fails_does_not_keep_the_others_from_it() -> None:
    """The failure is told after all have been looked after."""
    rows = Rows(ONE, ENDING)
    with pytest.raises(BackendUnavailable):
        await keeper(rows, Pods(BackendUnavailable("quota"))).turn(POOL)
    assert rows.told == ["discard data-knitid-bb"]


async def test_the_next_turn_comes_when_an_upload_has_taken_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And a back-end that is away ends nothing, and is told once."""
    rows = Rows(ONE)
    keeps = keeper(rows, Pods(BackendUnavailable("the cluster is away")))
    async with keeps.kept():
        for turns in (1, 2, 3):
            await until(lambda turns=turns: rows.turns >= turns)
            await asyncio.sleep(0)
            keeps.taken()
    assert caplog.text.count("the cluster is away") == 1
