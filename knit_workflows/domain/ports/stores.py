"""The whole store, as the API and as workers see it."""

from __future__ import annotations

from typing import Protocol

from knit_workflows.domain.ports.accounts import AuditStore, TokenStore
from knit_workflows.domain.ports.agreement import AgreementStore
from knit_workflows.domain.ports.data import AdoptionStore, DataStore, ImportStore
from knit_workflows.domain.ports.hooks import HookStore
from knit_workflows.domain.ports.housekeeping import HousekeepingStore
from knit_workflows.domain.ports.lineage import CompletionStore, LineageStore
from knit_workflows.domain.ports.plans import PlanStore
from knit_workflows.domain.ports.projection import AdmissionStore, ProjectionStore
from knit_workflows.domain.ports.runs import RunExecutionStore, RunStore
from knit_workflows.domain.ports.situation import SituationStore
from knit_workflows.domain.ports.transfers import TransferStore, WarmVolumeStore


class ApiStore(Protocol):
    """What the API asks of the store."""

    @property
    def data(self) -> DataStore: ...  # noqa: D102
    @property
    def adoptions(self) -> AdoptionStore: ...  # noqa: D102
    @property
    def imports(self) -> ImportStore: ...  # noqa: D102
    @property
    def plans(self) -> PlanStore: ...  # noqa: D102
    @property
    def runs(self) -> RunStore: ...  # noqa: D102
    @property
    def lineage(self) -> LineageStore: ...  # noqa: D102
    @property
    def completions(self) -> CompletionStore: ...  # noqa: D102
    @property
    def transfers(self) -> TransferStore: ...  # noqa: D102
    @property
    def hooks(self) -> HookStore: ...  # noqa: D102
    @property
    def tokens(self) -> TokenStore: ...  # noqa: D102
    @property
    def audit(self) -> AuditStore: ...  # noqa: D102
    @property
    def situation(self) -> SituationStore: ...  # noqa: D102

    async def open(self) -> None:
        """Connects, and checks the tables; a second call checks them again."""

    async def ping(self) -> None:
        """Returns if the database answers."""

    async def aclose(self) -> None:
        """Closes all connections."""


class Store(ApiStore, Protocol):
    """All of it."""

    @property
    def execution(self) -> RunExecutionStore: ...  # noqa: D102
    @property
    def projection(self) -> ProjectionStore: ...  # noqa: D102
    @property
    def admission(self) -> AdmissionStore: ...  # noqa: D102
    @property
    def housekeeping(self) -> HousekeepingStore: ...  # noqa: D102
    @property
    def warm_volumes(self) -> WarmVolumeStore: ...  # noqa: D102
    @property
    def agreement(self) -> AgreementStore: ...  # noqa: D102
