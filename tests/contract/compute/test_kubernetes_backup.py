"""Volumes of a real cluster, as a backup reads them and a restore makes them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from knit_workflows import names
from knit_workflows.backup.blobs import Piece, pieces_of
from knit_workflows.backup.pods import PodVolumes
from knit_workflows.backup.volumes import Restored, Wanted, announce, read_volumes, write_volumes
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.domain.volumes import Volume
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
async def adapter() -> AsyncIterator[KubernetesAdapter]:
    async with kubernetes_adapter() as adapter:
        yield adapter


async def test_volumes_are_read_and_made_by_pods(adapter: KubernetesAdapter) -> None:
    """Three claims are read, their archives make three more, which are then found to be equal."""
    first = [str(uuid.uuid4()) for _ in range(3)]
    for number, one in enumerate(first):
        volume = Volume(names.volume(one), one)
        await adapter.backend.create_volume(volume)
        await adapter.write_volume(volume, {"deep/file": bytes([number]) * 3_000_000})
    wanted = [Wanted(one, names.volume(one)) for one in first]
    gone = str(uuid.uuid4())
    frames, archives = await asyncio.to_thread(
        read, adapter, [*wanted, Wanted(gone, names.volume(gone))]
    )
    assert [one["capacity"] for one in frames if "read" in one] == [1 << 30] * 3
    assert [one["absent"] for one in frames if "failed" in one] == [True]

    again = {str(uuid.uuid4()): archives[one] for one in first}
    made = await asyncio.to_thread(make, adapter, again)
    assert made == [{"made": one} for one in again]
    for number, one in enumerate(again):
        found = await adapter.read_volume(Volume(names.volume(one), one))
        assert found == {"deep/file": bytes([number]) * 3_000_000}
    assert await asyncio.to_thread(make, adapter, again) == [{"equal": one} for one in again]


def read(
    adapter: KubernetesAdapter, wanted: list[Wanted]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Gives the messages, and the archives by Data."""
    volumes = PodVolumes(KubernetesBackend(adapter.settings))
    messages: list[dict[str, Any]] = []
    archives: dict[str, bytes] = {}
    with volumes.at_work():
        for frame in read_volumes(volumes, wanted):
            if isinstance(frame, bytes):
                archives[messages[-1]["volume"]] = archives.get(messages[-1]["volume"], b"") + frame
            else:
                messages.append(frame)
    return messages, archives


def make(adapter: KubernetesAdapter, archives: dict[str, bytes]) -> list[dict[str, Any]]:
    def frames() -> Any:
        yield announce(
            [
                Restored(one, tuple(map(Piece.of, pieces_of([whole]))), 1 << 30)
                for one, whole in archives.items()
            ]
        )
        for one, whole in archives.items():
            yield {"volume": one}
            yield whole
            yield {"end": True}

    volumes = PodVolumes(KubernetesBackend(adapter.settings))
    with volumes.at_work():
        return list(write_volumes(volumes, frames()))
