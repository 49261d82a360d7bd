"""Whether the back-end and the database agree: volumes and run pods."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend, FoundVolume
from knit_workflows.domain.errors import VolumeRefused
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey, Store
from knit_workflows.domain.ports.agreement import KeptData
from knit_workflows.domain.volumes import Volume
from knit_workflows.inspection.findings import Finding, Repair

PAGE: Final = 2_000


class Names:
    """Many names in eight bytes each: two of them may be taken for one, once in 2⁶⁴ pairs."""

    def __init__(self) -> None:
        self._digests = array("Q")
        self._is_sorted = True

    def add(self, name: str) -> None:
        """Adds a name."""
        self._digests.append(_digest(name))
        self._is_sorted = False

    def __contains__(self, name: str) -> bool:
        """Says whether it was added."""
        if not self._is_sorted:
            self._digests = array("Q", sorted(self._digests))
            self._is_sorted = True
        wanted = _digest(name)
        at = bisect_left(self._digests, wanted)
        return at < len(self._digests) and self._digests[at] == wanted


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


class VolumeChecks:
    """What they look at is older than `grace`: younger things may be on their way."""

    def __init__(
        self, backend: ComputeBackend, store: Store, counted: Counter[str], grace: timedelta
    ) -> None:
        self._backend = backend
        self._store = store
        self._counted = counted
        self._grace = grace

    async def volumes(self) -> AsyncIterator[Finding]:
        """Compares the volumes that there are with the Data that there should be."""
        before = await self._store.agreement.now() - self._grace
        seen = Names()
        async for page in self._pages():
            for one in page:
                seen.add(one.name)
            for name in await self._unknown(page, before):
                yield Finding(
                    "volumes",
                    name,
                    "no Data has this volume",
                    "it may be of a Data that a restored backup lacks, or of another knit in the "
                    "same namespace; delete it by hand if not",
                )
        after: KnitId | None = None
        kept = self._store.agreement.kept_data
        while data := await kept(before=before, after=after, limit=PAGE):
            self._counted["Data"] += len(data)
            for kept_data in data:
                if finding := await self._lost(kept_data, seen):
                    yield finding
            after = data[-1].knit_id

    async def _pages(self) -> AsyncIterator[list[FoundVolume]]:
        page: list[FoundVolume] = []
        async with aclosing(self._backend.own_volumes()) as found:
            async for one in found:
                self._counted["volumes"] += 1
                page.append(one)
                if len(page) >= PAGE:
                    yield page
                    page = []
        if page:
            yield page

    async def _unknown(self, page: Sequence[FoundVolume], before: datetime) -> list[str]:
        known = await self._store.agreement.known_volumes([one.name for one in page])
        return [
            one.name
            for one in page
            if one.name not in known and (one.created_at is None or one.created_at < before)
        ]

    async def _lost(self, one: KeptData, seen: Names) -> Finding | None:
        """Looks whether the volume of a Data is there; at that itself, if it was not seen."""
        if one.owned and one.volume in seen:
            return None
        try:
            if one.owned:
                volume = Volume(one.volume, one.knit_id)
                await self._backend.require_bound(volume, within=timedelta(0))
            else:
                await self._backend.adoptable(one.volume)
        except VolumeRefused as refused:
            again = f"retry its Run {one.run_id}" if one.was_made else "push it again"
            return Finding(
                "data",
                f"Data {one.knit_id}",
                f"its volume {one.volume} cannot be had: {refused.reason}",
                f"restore the volume from a backup under this name; or {again}; or keep the "
                f"lineage alone: knit data purge {one.knit_id}",
            )
        return None

    async def pods(self) -> AsyncIterator[Finding]:
        """Looks for run pods whose Run is over or unknown."""
        pods = {}
        for name in await self._backend.run_pods():
            if (found := names.run_of_pod(name)) is not None:
                pods[RunKey(RunId(found[0]), found[1])] = name
        self._counted["run pods"] += len(pods)
        keys = list(pods)
        known = await self._store.agreement.present([key.run_id for key in keys])
        over = await self._store.housekeeping.over(keys, older_than=self._grace)
        for key, name in pods.items():
            if key in over:
                yield Finding(
                    "pods",
                    name,
                    f"the Run {key.run_id} is over, its pod is left",
                    "the reconciliation removes it after KNIT_ENGINE__GC_GRACE_PERIOD",
                    Repair.RECONCILE,
                )
            elif key.run_id not in known:
                yield Finding(
                    "pods",
                    name,
                    "the database knows no Run of this pod",
                    "it may be of a Run that a restored backup lacks, or of another knit in the "
                    "same namespace; delete it by hand if not",
                )
