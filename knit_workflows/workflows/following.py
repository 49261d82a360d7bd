"""The workflows that are never pinned, as workers with versions have them.

The Projector never ends; of the others a schedule begins the next one when the last has ended.
Pinned to a version whose workers are gone, one that waits would hold up all that it is for.

Each is a class of its own because the declaration cannot stand on the workflow itself: Temporal
refuses all that a worker without a version says of a workflow with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from temporalio import workflow
from temporalio.common import VersioningBehavior

from knit_workflows import names
from knit_workflows.contracts.backups import BackupTaken, TakeBackup
from knit_workflows.contracts.housekeeping import HousekeepingInput, HousekeepingResult
from knit_workflows.contracts.messages import Nothing
from knit_workflows.contracts.projector import ProjectorInput
from knit_workflows.workflows.backup import BackupWorkflow
from knit_workflows.workflows.housekeeping import GarbageCollectionWorkflow, HousekeepingWorkflow
from knit_workflows.workflows.projector import ProjectorWorkflow

_FOLLOWS: Final[Mapping[str, Any]] = {
    "sandboxed": False,
    "versioning_behavior": VersioningBehavior.AUTO_UPGRADE,
}


@workflow.defn(name=names.PROJECTOR_WORKFLOW, **_FOLLOWS)
class FollowingProjector(ProjectorWorkflow):
    """The Projector goes over to the version with which Runs begin."""

    @workflow.run
    async def run(self, request: ProjectorInput) -> Nothing:
        """Does as the Projector does."""
        return await super().run(request)


@workflow.defn(name=names.GC_WORKFLOW, **_FOLLOWS)
class FollowingGarbageCollection(GarbageCollectionWorkflow):
    """A collection goes over to the version with which Runs begin."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> HousekeepingResult:
        """Collects."""
        return await super().run(request)


@workflow.defn(name=names.HOUSEKEEPING_WORKFLOW, **_FOLLOWS)
class FollowingHousekeeping(HousekeepingWorkflow):
    """A reconciliation goes over to the version with which Runs begin."""

    @workflow.run
    async def run(self, request: HousekeepingInput) -> HousekeepingResult:
        """Reconciles."""
        return await super().run(request)


@workflow.defn(name=names.BACKUP_WORKFLOW, **_FOLLOWS)
class FollowingBackup(BackupWorkflow):
    """A backup goes over to the version with which Runs begin."""

    @workflow.run
    async def run(self, request: TakeBackup) -> BackupTaken:
        """Takes it."""
        return await super().run(request)


FOLLOWING: Final[Mapping[type, type]] = {
    ProjectorWorkflow: FollowingProjector,
    GarbageCollectionWorkflow: FollowingGarbageCollection,
    HousekeepingWorkflow: FollowingHousekeeping,
    BackupWorkflow: FollowingBackup,
}
"""By the workflow that each stands for."""
