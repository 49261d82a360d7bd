"""Uploads and downloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs import USER


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """An open transfer of one Data; `endpoint` is empty until the back-end has opened it."""

    transfer_id: str
    knit_id: KnitId
    run_id: RunId
    volume: str
    mode: str
    token: str
    endpoint: str


class TransferStore(Protocol):
    """Records uploads and downloads."""

    async def announce(self) -> None:
        """Throttles Runs for `THROTTLE_FOR`, since a user begins to wait for a transfer.

        Nothing is stored. Callers that go on waiting repeat it.
        """

    async def begin_upload(
        self, transfer_id: str, run_id: RunId, knit_id: KnitId, *, actor: str = USER
    ) -> TransferRecord:
        """Makes the Run of `knit#uploaded` (running), its Data, and the transfer's row.

        The ids come from the caller; the same ids again give the same record.

        Raises:
            NotFound: the transfer has been closed already, or its Data is being deleted.
            DataExists: the Data belongs to another transfer.
        """

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        """Makes the row of a READ transfer, or finds it.

        Raises:
            DataNotFound: there is no such Data, or its content was purged.
        """

    async def get(self, transfer_id: str) -> TransferRecord:
        """Gives a transfer; raises NotFound."""

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """Records the transfer's endpoint. Closed meanwhile: changes nothing."""

    async def closed(self, transfer_id: str) -> None:
        """Removes the transfer's row. A second call changes nothing."""
