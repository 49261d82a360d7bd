"""Holding a door to a Data open: messages and activities of `knit.Transfer`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Literal

from temporalio import activity

from knit_workflows.contracts.messages import Message


class TransferInput(Message):
    """One transfer. For an upload `run_id` and `knit_id` are new and come from the caller."""

    transfer_id: str
    mode: Literal["read", "write"]
    knit_id: str
    run_id: str = ""
    lease: timedelta = timedelta(seconds=60)
    heartbeat: timedelta = timedelta(seconds=20)
    compute_queue: str
    """Where its activities are carried out; once it was that of Runs."""


class Opened(Message):
    """The door is open: its endpoint is in the store; or it could not be opened, and why."""

    ok: bool
    kind: str = ""
    """Name of the domain error when not ok."""
    reason: str = ""
    advice: str = ""


class Finish(Message):
    """The client is through: `ok` False discards what a write brought."""

    ok: bool
    reason: str = ""


class Closed(Message):
    """The transfer is over; `status` is the upload Run's final status (empty for a read)."""

    status: str = ""


class OpenTransfer(Message):
    """Open the door, making the upload's Run and Data first."""

    transfer_id: str
    mode: Literal["read", "write"]
    knit_id: str
    run_id: str = ""


class CloseTransfer(Message):
    """Close the door; for a write, finalize the upload's Run."""

    transfer_id: str
    run_id: str = ""
    ok: bool
    reason: str = ""


class TransferActivities(ABC):
    """What `knit.Transfer` does in the world."""

    @activity.defn(name="knit.open_transfer")
    @abstractmethod
    async def open_transfer(self, request: OpenTransfer) -> Opened:
        """Makes the rows and the volume, opens the door, records the endpoint."""

    @activity.defn(name="knit.close_transfer")
    @abstractmethod
    async def close_transfer(self, request: CloseTransfer) -> Closed:
        """Finalizes the upload, closes the door, removes the transfer's row."""
