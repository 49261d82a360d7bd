"""What is left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports.projection import StartableRun
from knit_workflows.domain.ports.runs import RunKey
from knit_workflows.domain.ports.transfers import TransferRecord
from knit_workflows.domain.runs.run import RunStatus


@dataclass(frozen=True, slots=True)
class Discarded:
    """A volume whose Data was discarded by a retry or deletion; nothing refers to it any more."""

    knit_id: KnitId
    volume: str


@dataclass(frozen=True, slots=True)
class UnfinishedImport:
    """An import that nobody ends any more."""

    key: RunKey
    status: RunStatus


class HousekeepingStore(Protocol):
    """Finds what to collect and reconcile; gives nothing younger than `older_than`."""

    async def discarded(self, *, older_than: timedelta, limit: int) -> Sequence[Discarded]:
        """Gives volumes to delete, in the order in which they were discarded."""

    async def collected(self, knit_ids: Sequence[KnitId]) -> None:
        """Records that these volumes are gone. A second call changes nothing."""

    async def postponed(self, knit_id: KnitId) -> None:
        """Records that a volume could not be deleted: it is the youngest from now on."""

    async def under_way(
        self, *, older_than: timedelta, after: RunId | None, limit: int
    ) -> Sequence[StartableRun]:
        """Gives unfinished Runs whose workflow was started and that have not changed lately.

        At most `limit`, by id, after the id `after`.
        """

    async def over(self, keys: Sequence[RunKey], *, older_than: timedelta) -> frozenset[RunKey]:
        """Selects the executions whose Run is final or in a later generation.

        Runs that do not exist are left out: they may belong to another installation.
        """

    async def finish_activations(self) -> int:
        """Moves the Runs that an interrupted (de)activation of their Plan has left; gives how many.

        Those of one that is still at work may be among them.
        """

    async def unfinished_imports(
        self, *, window: timedelta, older_than: timedelta, limit: int
    ) -> Sequence[UnfinishedImport]:
        """Gives imports that were not ended within `window`, and those that only lack their end.

        The latter are completing or aborting, and have been for `older_than`. None of those that
        have been admitted: their workflow ends them.
        """

    async def stale_transfers(self, *, older_than: timedelta) -> Sequence[TransferRecord]:
        """Gives all transfers that were opened some time ago, oldest first."""
