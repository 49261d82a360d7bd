"""Messages and activity of `knit.Backup`, which a schedule starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message


class TakeBackup(Message):
    """Where a set goes, and how many are kept; None: all.

    The schedule hands it over, with more that only its readers know.
    """

    destination: str
    keep: int | None = None
    heartbeat: timedelta = timedelta(seconds=30)


class BackupTaken(Message):
    """The set that was taken.

    `unreadable` counts Data that could not be read: the set is without them, and no older one was
    removed. `unpruned`: why no older one could be.
    """

    set_id: str
    volumes: int
    volumes_read: int
    bytes_stored: int
    seconds: float
    unreadable: int = 0
    removed_sets: int = 0
    unpruned: str = ""


class BackupActivities(ABC):
    """The activity of `knit.Backup`."""

    @activity.defn(name="knit.take_backup")
    @abstractmethod
    async def take_backup(self, request: TakeBackup) -> BackupTaken:
        """Takes a set; cut at any moment, the next attempt goes on from there."""
