"""The compute contract: volumes of others are read, and never changed. One test per rule."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from knit_workflows import names
from knit_workflows.compute.base import TransferMode
from knit_workflows.domain.errors import BackendRejected, VolumeRefused
from knit_workflows.domain.volumes import Mount, Volume
from tests.contract.compute.abilities import Ability
from tests.contract.compute.adapter import ComputeAdapter
from tests.contract.compute.pods import INPUT, OUTPUT, Pods
from tests.contract.compute.test_transfers_and_restarts import opened

FILES = {"a": b"one", "deep/b": b"two"}


async def test_a_volume_of_others_keeps_its_name(pods: Pods, adapter: ComputeAdapter) -> None:
    """Asked again, and asked for the name it has got: the same."""
    async with adapter.foreign_volume(FILES) as name:
        found = await pods.backend.adoptable(name)
        assert found == name
        assert await pods.backend.adoptable(found) == found
        assert not names.is_own_volume(found)


@pytest.mark.parametrize("name", ["", "/", "/no/such/folder", "..", "a b", "no-such-claim", "\0"])
async def test_what_is_no_volume_is_refused(pods: Pods, name: str) -> None:
    with pytest.raises(VolumeRefused):
        await pods.backend.adoptable(name)


async def test_a_volume_of_knit_is_refused(pods: Pods) -> None:
    """A Run may still write it."""
    own = await pods.volume(FILES)
    with pytest.raises(VolumeRefused):
        await pods.backend.adoptable(own.name)


async def test_a_pod_reads_an_adopted_volume(pods: Pods, adapter: ComputeAdapter) -> None:
    """As any other input."""
    async with adapter.foreign_volume(FILES) as name:
        pod = await pods.make(f"cat {INPUT}/deep/b > {OUTPUT}/copy")
        volume = Volume(await pods.backend.adoptable(name), str(uuid.uuid4()))
        pod = replace(pod, inputs=(Mount(INPUT, volume),))
        await pods.ran(pod)
        assert await pods.output(pod, "copy") == "two"
        assert await adapter.read_volume(volume) == FILES


@pytest.mark.needs(Ability.READ_ONLY_INPUTS)
async def test_a_pod_cannot_write_an_adopted_volume(pods: Pods, adapter: ComputeAdapter) -> None:
    async with adapter.foreign_volume(FILES) as name:
        pod = await pods.make(f"echo x > {INPUT}/new || echo refused > {OUTPUT}/it")
        volume = Volume(await pods.backend.adoptable(name), str(uuid.uuid4()))
        pod = replace(pod, inputs=(Mount(INPUT, volume),))
        await pods.ran(pod)
        assert await pods.output(pod, "it") == "refused\n"
        assert await adapter.read_volume(volume) == FILES


async def test_an_adopted_volume_is_opened_to_be_read(pods: Pods, adapter: ComputeAdapter) -> None:
    async with adapter.foreign_volume(FILES) as name:
        volume = Volume(await pods.backend.adoptable(name), str(uuid.uuid4()))
        reading = pods.transfer(volume, TransferMode.READ)
        assert await adapter.receive(await opened(pods, reading), reading) == FILES


async def test_an_adopted_volume_is_never_changed(pods: Pods, adapter: ComputeAdapter) -> None:
    """Neither made, nor deleted, nor opened or mounted to be written."""
    async with adapter.foreign_volume({}) as name:
        volume = Volume(await pods.backend.adoptable(name), str(uuid.uuid4()))
        pod = await pods.make("true")
        with pytest.raises(BackendRejected):
            await pods.backend.create_volume(volume)
        with pytest.raises(BackendRejected):
            await pods.backend.delete_volume(volume)
        with pytest.raises(BackendRejected):
            await pods.backend.open_transfer(pods.transfer(volume, TransferMode.WRITE))
        with pytest.raises(BackendRejected):
            await pods.backend.launch(replace(pod, outputs=(Mount(OUTPUT, volume),)))
        with pytest.raises(BackendRejected):
            await pods.backend.launch(replace(pod, log=volume))
        assert await pods.backend.adoptable(name) == volume.name
        assert await adapter.read_volume(volume) == {}


async def test_a_volume_is_measured_where_it_is_kept(pods: Pods) -> None:
    """At least what is in it; one that is not there has no size."""
    size = await pods.backend.measure_volume(await pods.volume({"a": b"x" * 100_000}))
    assert size is not None
    assert size >= 100_000
    knit_id = str(uuid.uuid4())
    assert await pods.backend.measure_volume(Volume(names.volume(knit_id), knit_id)) is None


async def test_an_imported_volume_is_there_or_refused(pods: Pods) -> None:
    """Whoever made it: it has the name of one of knit's."""
    await pods.backend.require_bound(await pods.volume(FILES), within=pods.adapter.patience)
    knit_id = str(uuid.uuid4())
    with pytest.raises(VolumeRefused):
        await pods.backend.require_bound(
            Volume(names.volume(knit_id), knit_id), within=pods.adapter.patience
        )
