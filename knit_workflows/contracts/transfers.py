"""Messages and activities of `knit.Transfer`, which keeps the access to a Data open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.domain.runs.run import KNIT

EndpointId = Annotated[str, Field(validation_alias=AliasChoices("endpoint_id", "door"))]
"""An id of `domain.readers`; until December 2026 it was `door`, which histories still have."""


class TransferInput(Message):
    """One transfer. For an upload `run_id` and `knit_id` are new and come from the caller."""

    transfer_id: str
    mode: Literal["read", "write"]
    knit_id: str
    run_id: str = ""
    actor: str = KNIT
    """Who uploads, for the history."""
    lease: timedelta = timedelta(seconds=60)
    heartbeat: timedelta = timedelta(seconds=20)
    opening: timedelta = timedelta(seconds=60)
    """How long it may take to open."""
    compute_queue: str
    """The task queue of its activities."""
    opened: Opened | None = None
    """What an earlier execution of the same workflow has opened."""


class Opened(Message):
    """The transfer is open and its endpoint is in the store; or why it could not be opened."""

    ok: bool
    kind: str = ""
    """Name of the domain error when not ok."""
    reason: str = ""
    advice: str = ""
    endpoint_id: EndpointId = ""
    """What it shares with others that read the Data; see `knit_workflows.domain.readers`."""


class Finish(Message):
    """The client has finished; `ok` False discards what an upload has written."""

    ok: bool
    reason: str = ""


class Closed(Message):
    """The transfer is over; `status` is the upload Run's final status (empty for a read)."""

    status: str = ""
    reason: str = ""
    """Why an upload has failed, if its client does not know."""
    stays: timedelta = timedelta(0)
    """For how long its endpoint is kept for the next reader; then it is to be closed again."""


class OpenTransfer(Message):
    """Opens a transfer; for an upload, makes its Run and Data first."""

    transfer_id: str
    mode: Literal["read", "write"]
    knit_id: str
    run_id: str = ""
    actor: str = KNIT
    within: timedelta = timedelta(seconds=60)
    """From when it was asked for, over all attempts."""


class CloseTransfer(Message):
    """Closes a transfer; for an upload, finalizes its Run.

    `mode`, `knit_id` and `endpoint_id` are for a transfer whose row others have removed.
    """

    transfer_id: str
    mode: Literal["read", "write", ""] = ""
    knit_id: str = ""
    run_id: str = ""
    endpoint_id: EndpointId = ""
    ok: bool
    reason: str = ""
    may_stay: bool = False
    """Whether the workflow comes back for what `Closed.stays` asks for."""


class TransferActivities(ABC):
    """The activities of `knit.Transfer`."""

    @activity.defn(name="knit.open_transfer")
    @abstractmethod
    async def open_transfer(self, request: OpenTransfer) -> Opened:
        """Makes the rows and the volume, opens the transfer, records its endpoint."""

    @activity.defn(name="knit.close_transfer")
    @abstractmethod
    async def close_transfer(self, request: CloseTransfer) -> Closed:
        """Finalizes the upload, closes the transfer, removes its row."""
