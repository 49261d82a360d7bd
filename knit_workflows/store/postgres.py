"""The store on PostgreSQL: composes its parts, opens and closes them."""

from __future__ import annotations

from typing import Final

from knit_workflows.domain.errors import StoreIsNewer, StoreMismatch
from knit_workflows.settings import StoreSettings
from knit_workflows.store import named_sql
from knit_workflows.store.accounts import PostgresAuditStore, PostgresTokenStore
from knit_workflows.store.completions import PostgresCompletionStore
from knit_workflows.store.connection import Database
from knit_workflows.store.data.adoption import PostgresAdoptionStore
from knit_workflows.store.data.data_store import PostgresDataStore
from knit_workflows.store.hooks import PostgresHookStore
from knit_workflows.store.housekeeping import PostgresHousekeepingStore
from knit_workflows.store.imports import PostgresImportStore
from knit_workflows.store.inspection.agreement import PostgresAgreementStore
from knit_workflows.store.inspection.situation import PostgresSituationStore
from knit_workflows.store.lineage import PostgresLineageStore
from knit_workflows.store.listening import Listener
from knit_workflows.store.migrations import REVISION
from knit_workflows.store.plans.plan_store import PostgresPlanStore
from knit_workflows.store.projection.projection_store import PostgresProjectionStore
from knit_workflows.store.runs.admission import PostgresAdmissionStore
from knit_workflows.store.runs.execution import PostgresRunExecutionStore
from knit_workflows.store.runs.run_store import PostgresRunStore
from knit_workflows.store.transfers import PostgresTransferStore
from knit_workflows.store.warm_volumes import PostgresWarmVolumeStore

_SQL: Final = named_sql.beside(__file__)


class PostgresStore:
    """Everything knit remembers, in one PostgreSQL database; implements `ports.Store`."""

    def __init__(self, settings: StoreSettings) -> None:
        url = settings.url.get_secret_value()
        db = Database(url, settings.pool_size, folder=settings.folder, reserve=settings.reserve)
        listener = Listener(url)
        self._db = db
        self._listener = listener
        self.plans = PostgresPlanStore(db)
        self.data = PostgresDataStore(db)
        self.adoptions = PostgresAdoptionStore(db)
        self.runs = PostgresRunStore(db, listener)
        self.lineage = PostgresLineageStore(db)
        self.completions = PostgresCompletionStore(db)
        self.projection = PostgresProjectionStore(db, listener)
        self.execution = PostgresRunExecutionStore(db)
        self.imports = PostgresImportStore(db, self.execution)
        self.admission = PostgresAdmissionStore(db, listener, self.execution, self.projection)
        self.hooks = PostgresHookStore(db)
        self.tokens = PostgresTokenStore(db)
        self.audit = PostgresAuditStore(db)
        self.transfers = PostgresTransferStore(db)
        self.warm_volumes = PostgresWarmVolumeStore(db)
        self.housekeeping = PostgresHousekeepingStore(db)
        self.agreement = PostgresAgreementStore(db)
        self.situation = PostgresSituationStore(db)

    async def open(self) -> None:
        """Connects and checks the schema; a second call checks it once more.

        A database of a later revision is fine if it says that it serves programs of this one.

        Raises:
            StoreMismatch: it is not that of this knit; with advice on what to do.
            StoreIsNewer: and it has been upgraded beyond this knit.
            StoreUnavailable: the database does not answer.
        """
        row = None
        if (await self._db.row(_SQL["revision"])).versions is not None:
            row = await self._db.row(_SQL["current"])
        if row is None:
            raise _mismatch("no tables of knit")
        if row.revision == REVISION:
            return
        if row.revision < REVISION:
            raise _mismatch(f"its tables in revision {row.revision}")
        if row.serves is None or row.serves > REVISION:
            raise StoreIsNewer(
                f"the database has its tables in revision {row.revision}, this knit needs "
                f"revision {REVISION}",
                advice="this knit is older than its database: start the newer one",
            )

    async def aclose(self) -> None:
        """Closes all connections; call it once, after the last use of the store."""
        await self._listener.aclose()
        await self._db.aclose()

    async def ping(self) -> None:
        """Returns if the database answers; raises StoreUnavailable."""
        await self._db.row(_SQL["ping"])


def _mismatch(has: str) -> StoreMismatch:
    return StoreMismatch(
        f"the database has {has}, this knit needs revision {REVISION}",
        advice="run the database migrations (python -m knit_workflows.store), then start again",
    )
