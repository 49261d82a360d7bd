"""Garbage collection and reconciliation: messages and activities of `knit.gc`, `knit.housekeep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.contracts.projector import ProjectorInput


class HousekeepingInput(Message):
    """Objects younger than `grace` are left alone; `projector` is started if it does not run."""

    projector: ProjectorInput
    grace: timedelta
    heartbeat: timedelta = timedelta(seconds=20)


class HousekeepingResult(Message):
    """How many objects were dealt with, and how many failed; these are tried again next time."""

    done: int = 0
    failed: int = 0


class HousekeepingActivities(ABC):
    """What the two workflows do in the world. The next turn of their schedule repeats it."""

    @activity.defn(name="knit.collect_garbage")
    @abstractmethod
    async def collect_garbage(self, request: HousekeepingInput) -> HousekeepingResult:
        """Deletes the volumes of Data that were retried or deleted away."""

    @activity.defn(name="knit.remove_leftover_pods")
    @abstractmethod
    async def remove_leftover_pods(self, request: HousekeepingInput) -> HousekeepingResult:
        """Removes run pods whose Run is final or has gone on."""

    @activity.defn(name="knit.end_lost_transfers")
    @abstractmethod
    async def end_lost_transfers(self, request: HousekeepingInput) -> HousekeepingResult:
        """Closes transfers whose workflow no longer runs; such an upload has failed.

        Imports that were not ended in time have failed, too.
        """

    @activity.defn(name="knit.restart_lost_runs")
    @abstractmethod
    async def restart_lost_runs(self, request: HousekeepingInput) -> HousekeepingResult:
        """Restarts workflows of Runs that were terminated or that Temporal does not know.

        Starts the Projector too, if it does not run.
        """
