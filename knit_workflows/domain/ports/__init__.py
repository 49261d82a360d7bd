"""What activities and the API ask of the store; the one adapter is `knit_workflows.store`.

Every write is one short transaction that also holds the history row (`run_event`) and the outbox
row of whatever must follow it. Every call raises StoreUnavailable when the database does not
answer. A Run is addressed by (run id, generation); an older generation raises Superseded.
"""

from __future__ import annotations

from knit_workflows.domain.ports.accounts import AuditStore, TokenStore
from knit_workflows.domain.ports.data import AdoptionStore, DataStore, ImportStore
from knit_workflows.domain.ports.hooks import HookStore
from knit_workflows.domain.ports.housekeeping import Discarded, HousekeepingStore, UnfinishedImport
from knit_workflows.domain.ports.lineage import CompletionStore, LineageStore
from knit_workflows.domain.ports.plans import PlanStore
from knit_workflows.domain.ports.projection import (
    ADMITTED_AT_ONCE,
    THROTTLE_FOR,
    AdmissionLimits,
    AdmissionStore,
    Pass,
    Projection,
    ProjectionStore,
    StartableRun,
    StopRequest,
)
from knit_workflows.domain.ports.runs import (
    Concluded,
    Relaunched,
    RunCensus,
    RunExecutionStore,
    RunKey,
    RunsOfPlan,
    RunSpec,
    RunStore,
    Started,
    UsedResources,
)
from knit_workflows.domain.ports.situation import Situation, SituationStore
from knit_workflows.domain.ports.stores import ApiStore, Store
from knit_workflows.domain.ports.transfers import (
    TransferRecord,
    TransferStore,
    WarmVolume,
    WarmVolumeStore,
)

__all__ = [
    "ADMITTED_AT_ONCE",
    "THROTTLE_FOR",
    "AdmissionLimits",
    "AdmissionStore",
    "AdoptionStore",
    "ApiStore",
    "AuditStore",
    "CompletionStore",
    "Concluded",
    "DataStore",
    "Discarded",
    "HookStore",
    "HousekeepingStore",
    "ImportStore",
    "LineageStore",
    "Pass",
    "PlanStore",
    "Projection",
    "ProjectionStore",
    "Relaunched",
    "RunCensus",
    "RunExecutionStore",
    "RunKey",
    "RunSpec",
    "RunStore",
    "RunsOfPlan",
    "Situation",
    "SituationStore",
    "StartableRun",
    "Started",
    "StopRequest",
    "Store",
    "TokenStore",
    "TransferRecord",
    "TransferStore",
    "UnfinishedImport",
    "UsedResources",
    "WarmVolume",
    "WarmVolumeStore",
]
