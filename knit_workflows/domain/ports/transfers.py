"""Uploads and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.readers import Left, endpoint_id_of
from knit_workflows.domain.runs.run import USER


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """A transfer of one Data; `endpoint` is a URL, empty until the back-end has opened it."""

    transfer_id: str
    knit_id: KnitId
    run_id: RunId
    volume: str
    mode: str
    token: str
    endpoint: str

    @property
    def endpoint_id(self) -> str:
        """What it shares with others that read the same Data; empty if it shares nothing."""
        return endpoint_id_of(self.token)


@dataclass(frozen=True, slots=True)
class WarmVolume:
    """An empty volume that waits for an upload, with a transfer pod; `ending` if it is to go."""

    volume: str
    knit_id: str
    """What its name was made of; it is the id of no Data."""
    token: str
    ending: bool


class WarmVolumeStore(Protocol):
    """Records volumes that wait for uploads; `TransferStore.begin_upload` takes the ready ones.

    A keeper holds those that it works at: no other works at them, and no upload gets them.
    """

    async def hold(self, keeper: str, kind: str, count: int) -> Sequence[WarmVolume]:
        """Adds what is missing to `count`, and holds for a minute what there is to do.

        That is: to make a volume; to look after one that has not been looked at for a while; to
        remove one that is superfluous, or of another kind. What another keeper holds is left out.
        """

    async def ready(self, keeper: str, volume: str) -> bool:
        """Lets uploads take a volume; False if the keeper does not hold it any more."""

    async def end(self, keeper: str, volume: str) -> bool:
        """Has a volume go, whose pod may then be closed; False if the keeper does not hold it.

        It may be another keeper's by now, or that of an upload which uses its pod.
        """

    async def discard(self, keeper: str, volume: str) -> None:
        """Leaves a volume that the keeper holds to the garbage collection."""


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

        The ids come from the caller; the same ids again give the same record. The volume is one
        that is ready for uploads, if there is one, and else has the name of the Data.

        Raises:
            NotFound: the transfer has been closed already, or its Data is being deleted.
            DataExists: the Data belongs to another transfer.
        """

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        """Makes the row of a READ transfer, or finds it.

        It shares the endpoint of others that read the Data, if it may (`readers.may_join`): then it
        has their token. Otherwise it has an endpoint of its own.

        Raises:
            DataNotFound: there is no such Data, or its content was purged.
        """

    async def present(self, transfer_id: str) -> None:
        """Records that the client of an open READ transfer is there; see `PRESENT_EVERY`.

        Of one that was not there for some of these times, a retry, deletion or purge removes the
        row. Without a row, this changes nothing.
        """

    async def leave(
        self, transfer_id: str, knit_id: KnitId, endpoint_id: str, *, linger: timedelta
    ) -> Left:
        """Ends a READ transfer as `readers.leaving` decides; may be repeated.

        Its row may have been removed by others. Of transfers that leave at once exactly one stays,
        or is told to close the endpoint; its row is there until `closed`, and nobody joins
        meanwhile.
        """

    async def get(self, transfer_id: str) -> TransferRecord:
        """Gives a transfer; raises NotFound."""

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """Records the transfer's endpoint. Closed meanwhile: changes nothing."""

    async def closed(self, transfer_id: str) -> None:
        """Removes the transfer's row. A second call changes nothing."""
