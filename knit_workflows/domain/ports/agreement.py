"""Whether the parts of an installation agree: what the store contributes to the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports.runs import RunKey


@dataclass(frozen=True, slots=True)
class RunEdges:
    """A Run and the Data at its inputs, in the order of their positions (None: there is none).

    `digest` is the hash of the combination that the Run was made of.
    """

    run_id: RunId
    digest: bytes
    inputs: tuple[KnitId | None, ...]


@dataclass(frozen=True, slots=True)
class LostOutput:
    """An output of a Run that has no Data; `path` is empty for its log."""

    run_id: RunId
    path: str


@dataclass(frozen=True, slots=True)
class KeptData:
    """A Data whose content is kept; `owned`: in a volume of knit's.

    `was_made`: by a Run of a Plan, and not pushed, imported or adopted.
    """

    knit_id: KnitId
    run_id: RunId
    volume: str
    owned: bool
    was_made: bool


class AgreementStore(Protocol):
    """Reads everything page by page: a call gives at most `limit`, by id, after the id `after`."""

    async def now(self) -> datetime:
        """Gives the instant of the store's clock."""

    async def edges(self, *, after: RunId | None, limit: int) -> Sequence[RunEdges]:
        """Gives the Runs of Plans of users, unless they were deleted, with their inputs."""

    async def lost_outputs(self, *, limit: int) -> Sequence[LostOutput]:
        """Gives outputs without Data of Runs that have been launched, and were not deleted."""

    async def kept_data(
        self, *, before: datetime, after: KnitId | None, limit: int
    ) -> Sequence[KeptData]:
        """Gives the Data of Runs that were done `before` then, unless they were purged."""

    async def known_volumes(self, volumes: Sequence[str]) -> frozenset[str]:
        """Selects the volumes that are those of a Data, wait for uploads, or are to be deleted."""

    async def present(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """Selects the Runs that exist, deleted ones too."""

    async def unstarted(self, *, older_than: timedelta, limit: int) -> Sequence[RunKey]:
        """Gives Runs that were admitted some time ago and have had no workflow yet."""
