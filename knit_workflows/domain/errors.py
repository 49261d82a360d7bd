"""The tree of expected errors; the place of a class in it says what a caller may do.

```
KnitError
├─ InvalidRequest   InvalidTag, InvalidQuantity, InvalidPlan,
│                   VolumeRefused                                 400  never retried
├─ NotFound         DataNotFound, PlanNotFound, RunNotFound,
│                   DeliveryNotFound, TokenNotFound               404  never retried
├─ Conflict         EquivalentPlan, CyclicPlans, IllegalMove,
│                   TooManyRuns, DataExists, Superseded,
│                   TooLarge, UploadInProgress, IdempotencyKeyConsumed,
│                   HooksNotCalled, ImportOver, TokenExists       409  never retried
├─ Unavailable      StoreUnavailable, StoreMismatch, BackendUnavailable,
│                   QuotaExceeded, EngineUnavailable, TransferNotReady, Busy,
│                   WorkerEnds                                    503  retried
│                   StoreFull, EngineFull, StorageFull            507  retried
└─ BackendRejected                                                500  never retried
```
The class docstring is the default message. `advice` tells the user what to do next and `see` names
the thing to look at (an id); both are shown by the API and the command line. A user's container
that exits with 1 is an outcome, not an error; bugs are not in this tree.
"""

from __future__ import annotations


class KnitError(Exception):
    """Something went wrong."""

    def __init__(self, reason: str | None = None, *, advice: str = "", see: str = "") -> None:
        self.reason = reason or (type(self).__doc__ or "").strip().splitlines()[0]
        self.advice = advice
        self.see = see
        super().__init__(self.reason)


class InvalidRequest(KnitError):
    """The request is not valid."""


class InvalidTag(InvalidRequest):
    """The tag is not valid."""


class InvalidQuantity(InvalidRequest):
    """The quantity is not a Kubernetes quantity."""


class InvalidPlan(InvalidRequest):
    """The Plan is not valid."""


class InvalidArchive(InvalidRequest):
    """The archive is not one that knit unpacks."""


class VolumeRefused(InvalidRequest):
    """The volume cannot become Data."""


class NotFound(KnitError):
    """There is no such thing."""


class DataNotFound(NotFound):
    """There is no such Data."""


class PlanNotFound(NotFound):
    """There is no such Plan."""


class RunNotFound(NotFound):
    """There is no such Run."""


class DeliveryNotFound(NotFound):
    """There is no such delivery."""


class TokenNotFound(NotFound):
    """There is no such token."""


class Conflict(KnitError):
    """The present state does not allow it."""


class EquivalentPlan(Conflict):
    """An equivalent Plan is registered already."""


class CyclicPlans(Conflict):
    """The Plan would feed itself."""


class TooManyRuns(Conflict):
    """The Plan would at once create more Runs than the limit allows."""


class IllegalMove(Conflict):
    """The Run cannot go from its status to that one."""


class DataExists(Conflict):
    """The Data has content already."""


class UploadInProgress(Conflict):
    """An upload with this key is in progress."""


class IdempotencyKeyConsumed(Conflict):
    """The upload with this key is over and has produced no Data."""


class ImportOver(Conflict):
    """The import is over: it has been ended before, or was not ended in time."""


class TokenExists(Conflict):
    """A valid token has that name already."""


class TooLarge(Conflict):
    """The response would be larger than the limit allows."""


class Superseded(Conflict):
    """The Run has gone on to a later generation; this execution has nothing to do any more."""


class HooksNotCalled(Conflict):
    """Hooks are in force that have not been called for this transition."""


class Unavailable(KnitError):
    """A part of knit does not answer at the moment."""


class StoreUnavailable(Unavailable):
    """The database does not answer."""


class StoreMismatch(StoreUnavailable):
    """The database has the tables of another knit."""


class StoreIsNewer(StoreMismatch):
    """The database has been upgraded beyond this knit, which must not go on with it."""


class StoreFull(StoreUnavailable):
    """The disk of the database is full."""


class WorkerEnds(Unavailable):
    """The worker is being stopped; another one does what is left."""


class EngineUnavailable(Unavailable):
    """Temporal does not answer."""


class EngineFull(EngineUnavailable):
    """The disk of Temporal is full."""


class BackendUnavailable(Unavailable):
    """The compute back-end does not answer."""


class QuotaExceeded(BackendUnavailable):
    """A quota of the cluster is used up."""


class TransferNotReady(Unavailable):
    """The transfer is not ready yet."""


class Busy(Unavailable):
    """The system is busy, and could not do it in time."""


class StorageFull(Unavailable):
    """There is no space left for the Data."""


class BackendRejected(KnitError):
    """The compute back-end refuses this for good."""
