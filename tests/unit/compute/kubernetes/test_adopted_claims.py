"""Which claims of others may become Data, and that nothing is done to them."""

from __future__ import annotations

import asyncio
import copy
from datetime import timedelta

import pytest

from knit_workflows.compute.base import Transfer, TransferMode
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, VolumeRefused
from knit_workflows.domain.volumes import Volume

CLAIM = {
    "metadata": {"name": "theirs"},
    "spec": {"accessModes": ["ReadWriteMany"], "volumeMode": "Filesystem", "volumeName": "pv"},
    "status": {"phase": "Bound", "capacity": {"storage": "1Ti"}},
}
VOLUME = Volume("theirs", "a")


def with_claim(api, **changed) -> None:
    claim = copy.deepcopy(CLAIM)
    for part, values in changed.items():
        claim[part] |= values
    api.put("persistentvolumeclaims", claim)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"spec": {"accessModes": ["ReadOnlyMany"]}},
        {"spec": {"accessModes": ["ReadWriteOnce"]}},
        {"status": {"phase": "Pending"}},
    ],
    ids=["bound", "read-only", "of one node", "bound by its first pod"],
)
@pytest.mark.patient
async def test_it_is_looked_at_and_nothing_else(api, backend, changed):
    with_claim(api, **changed)
    assert await backend.adoptable("theirs") == "theirs"
    assert api.requests == ["GET persistentvolumeclaims/theirs"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}}, "being deleted"),
        ({"status": {"phase": "Lost"}}, "lost its volume"),
        ({"spec": {"volumeMode": "Block"}}, "block device"),
        ({"spec": {"accessModes": ["ReadWriteOncePod"]}}, "one pod alone"),
    ],
)
async def test_what_pods_cannot_read_is_refused_in_words(api, backend, changed, why):
    with_claim(api, **changed)
    with pytest.raises(VolumeRefused, match=why) as refused:
        await backend.adoptable("theirs")
    assert refused.value.advice


async def test_one_that_is_missing_is_told_with_its_namespace(backend):
    with pytest.raises(VolumeRefused, match="no claim theirs in the namespace ns"):
        await backend.adoptable("theirs")


@pytest.mark.parametrize(
    "name", ["", "A", "a/b", "../pods/x", "a b", "data-knitid-a", "-a", "a" * 254, "x?watch=1"]
)
async def test_other_names_are_not_even_asked_for(api, backend, name):
    with pytest.raises(VolumeRefused):
        await backend.adoptable(name)
    assert api.requests == []


async def test_a_server_that_is_away_refuses_nothing(api, backend):
    api.answers.append((503, "later"))
    with pytest.raises(BackendUnavailable):
        await backend.adoptable("theirs")


async def test_its_size_is_its_capacity(api, backend):
    with_claim(api)
    assert await backend.measure_volume(VOLUME) == 1 << 40
    with_claim(api, status={"capacity": {}})
    assert await backend.measure_volume(VOLUME) is None
    assert await backend.measure_volume(Volume("none", "a")) is None


async def test_it_is_never_changed(api, backend):
    with_claim(api)
    with pytest.raises(BackendRejected):
        await backend.delete_volume(VOLUME)
    with pytest.raises(BackendRejected):
        await backend.create_volume(VOLUME)
    with pytest.raises(BackendRejected):
        await backend.open_transfer(Transfer("t", VOLUME, TransferMode.WRITE, "s"))
    assert api.requests == []


class TestImports:
    """The end of an import waits a little for the importer's claim."""

    CLAIM = Volume("theirs", "a")
    SOON = timedelta(seconds=0.2)

    async def test_one_that_is_bound(self, api, backend):
        with_claim(api)
        await backend.require_bound(self.CLAIM, within=timedelta())

    @pytest.mark.patient
    async def test_one_that_becomes_bound(self, api, backend):
        with_claim(api, status={"phase": "Pending"})
        waiting = asyncio.create_task(
            backend.require_bound(self.CLAIM, within=timedelta(seconds=60))
        )
        while api.count("GET") < 2:
            await asyncio.sleep(0.01)
        with_claim(api)
        await waiting

    @pytest.mark.patient
    async def test_one_that_does_not(self, api, backend):
        with_claim(api, status={"phase": "Pending"})
        with pytest.raises(VolumeRefused, match="is Pending, not Bound"):
            await backend.require_bound(self.CLAIM, within=self.SOON)

    async def test_one_that_is_missing_or_going(self, api, backend):
        with pytest.raises(VolumeRefused, match="no claim"):
            await backend.require_bound(self.CLAIM, within=timedelta(seconds=60))
        with_claim(api, metadata={"deletionTimestamp": "2026-01-02T03:04:05Z"})
        with pytest.raises(VolumeRefused, match="no claim"):
            await backend.require_bound(self.CLAIM, within=timedelta(seconds=60))
