"""Every string that processes share: names of workflows, task queues, labels and objects.

Ids of workflows and names of objects are computed from knit ids, so that starting twice finds the
first one.
"""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.domain.ids import ID_PATTERN

VERSION: Final = "0.1.0"
"""knit's, for processes that may run from a folder: in images it is not installed as a package."""

PLUGIN: Final = "knit.KnitPlugin"

RUN_WORKFLOW: Final = "knit.Run"
PROJECTOR_WORKFLOW: Final = "knit.Projector"
TRANSFER_WORKFLOW: Final = "knit.Transfer"
HOOK_TEST_WORKFLOW: Final = "knit.TestHook"
VOLUMES_WORKFLOW: Final = "knit.Volumes"
TRIAL_WORKFLOW: Final = "knit.TryPlan"
GC_WORKFLOW: Final = "knit.gc"
HOUSEKEEPING_WORKFLOW: Final = "knit.housekeep"
"""The last two are also the names of their schedules."""
BACKUP_WORKFLOW: Final = "knit.Backup"
BACKUP_SCHEDULE: Final = "knit.backup"
RECOVERY_WORKFLOW: Final = "knit.recover"
"""The id of the turn of `knit.housekeep` after Temporal has lost everything."""

ENGINE_QUEUE: Final = "knit"
COMPUTE_QUEUE: Final = "knit-compute"
WATCH_QUEUE: Final = "knit-watch"
INTERACTIVE_QUEUE: Final = "knit-interactive"
HOOKS_QUEUE: Final = "knit-hooks"
BACKUP_QUEUE: Final = "knit-backup"

ATTRIBUTE_RUN_ID: Final = "KnitRunId"
ATTRIBUTE_PLAN_ID: Final = "KnitPlanId"
ATTRIBUTE_STATUS: Final = "KnitRunStatus"
ATTRIBUTE_IMAGE: Final = "KnitImage"
SEARCH_ATTRIBUTES: Final = (
    ATTRIBUTE_RUN_ID,
    ATTRIBUTE_PLAN_ID,
    ATTRIBUTE_STATUS,
    ATTRIBUTE_IMAGE,
)
"""All of type Keyword; optional on a server."""

OUTBOX_CHANNEL: Final = "knit_outbox"
"""PostgreSQL channel that is notified when the Projector has work."""
RUN_CHANNEL: Final = "knit_run"
"""PostgreSQL channel that is notified with a Run's id when its status changes."""
THROTTLE_CHANNEL: Final = "knit_throttle"
"""PostgreSQL channel that is notified when a user begins to wait for a transfer or a stop."""

LABEL_RUN: Final = "knit/worker.runid"
LABEL_RUN_ALIAS: Final = "knit/worker.run"
LABEL_PLAN: Final = "knit/worker.plan"
LABEL_GENERATION: Final = "knit/worker.generation"
LABEL_KNIT_ID: Final = "knit/data.knitid"
ANNOTATION_ORIGIN: Final = "knit/data.origin"
LABEL_AGENT_KNIT_ID: Final = "knit/dataagt.knitid"
LABEL_AGENT_MODE: Final = "knit/dataagt.mode"


_RUN_WORKFLOW: Final = re.compile(rf"knit\.run:({ID_PATTERN}):([0-9]{{1,9}})")
_RUN_POD: Final = re.compile(rf"worker-run-({ID_PATTERN})(?:-([0-9]{{1,9}}))?")


def run_of_workflow(workflow_id: str) -> tuple[str, int] | None:
    """Parses the id of a Run's workflow into Run and generation; None if it is not one."""
    found = _RUN_WORKFLOW.fullmatch(workflow_id)
    return None if found is None else (found[1], int(found[2]))


def run_workflow(run_id: str, generation: int) -> str:
    """Gives the id of the workflow that executes one generation of a Run."""
    return f"knit.run:{run_id}:{generation}"


def projector_workflow(shard: int) -> str:
    """Gives the id of the Projector of a shard; there is one per shard."""
    return f"knit.projector:{shard}"


def transfer_workflow(transfer_id: str) -> str:
    """Gives the id of the workflow that holds one transfer open."""
    return f"knit.transfer:{transfer_id}"


def hook_test_workflow(test_id: str) -> str:
    """Gives the id of the workflow that tests a hook once."""
    return f"knit.test-hook:{test_id}"


def run_pod(run_id: str, generation: int) -> str:
    """Gives the name of a Run's pod (on Kubernetes: of its Job).

    The first generation has Knitfab's name; later ones append their number, so that remains of an
    earlier generation can never be mistaken for this one.
    """
    suffix = "" if generation == 1 else f"-{generation}"
    return f"worker-run-{run_id}{suffix}"


def run_of_pod(pod_name: str) -> tuple[str, int] | None:
    """Parses the name of a run pod into Run and generation; None if it is not one."""
    found = _RUN_POD.fullmatch(pod_name)
    return None if found is None else (found[1], int(found[2] or 1))


def volume(knit_id: str) -> str:
    """Gives the name of the volume that holds a Data."""
    return f"data-knitid-{knit_id}"


def is_own_volume(volume_name: str) -> bool:
    """Says whether a volume has the name of one of knit's own; it is another's if not."""
    return volume_name.startswith(volume(""))


def is_warm(volume_name: str, knit_id: str) -> bool:
    """Says whether a Data is in a volume of knit's that was there before the Data."""
    return is_own_volume(volume_name) and volume_name != volume(knit_id)


def warm_transfer(volume_name: str) -> str:
    """Gives the name of the transfer pod that waits at a volume without a Data."""
    return f"knitid-{volume_name.removeprefix(volume(''))}-write-warm"


def volumes_workflow(request_id: str) -> str:
    """Gives the id of the workflow that looks at volumes for one request."""
    return f"knit.volumes:{request_id}"


def trial_workflow(request_id: str) -> str:
    """Gives the id of the workflow that tries a Plan for one request."""
    return f"knit.try-plan:{request_id}"


def transfer(knit_id: str, mode: str, transfer_id: str) -> str:
    """Gives the name of a transfer's pod; the last part distinguishes transfers of one Data."""
    return f"knitid-{knit_id}-{mode}-{transfer_id[:10]}"
