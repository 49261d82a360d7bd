"""Tidying up: messages and activities of `knit.gc` and `knit.housekeep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta

from temporalio import activity

from knit_workflows.contracts.messages import Message
from knit_workflows.contracts.projector import ProjectorInput


class HousekeepingInput(Message):
    """What is too young to be touched, and the Projector that must be there."""

    projector: ProjectorInput
    grace: timedelta
    heartbeat: timedelta = timedelta(seconds=20)


class Tidied(Message):
    """How many things were dealt with, and how many could not be this time."""

    done: int = 0
    failed: int = 0


class HousekeepingActivities(ABC):
    """What tidying up does in the world. Each is repeated by the next turn of its schedule."""

    @activity.defn(name="knit.collect_garbage")
    @abstractmethod
    async def collect_garbage(self, request: HousekeepingInput) -> Tidied:
        """Deletes the volumes of Data that were retried or deleted away."""

    @activity.defn(name="knit.remove_leftover_pods")
    @abstractmethod
    async def remove_leftover_pods(self, request: HousekeepingInput) -> Tidied:
        """Removes run pods whose Run is final or has gone on."""

    @activity.defn(name="knit.end_lost_transfers")
    @abstractmethod
    async def end_lost_transfers(self, request: HousekeepingInput) -> Tidied:
        """Closes transfers that no workflow looks after any more; such an upload has failed."""

    @activity.defn(name="knit.restart_lost_runs")
    @abstractmethod
    async def restart_lost_runs(self, request: HousekeepingInput) -> Tidied:
        """Gives Runs whose workflow was terminated, or is unknown to Temporal, another one.

        The Projector too.
        """
