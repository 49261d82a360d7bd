"""How long a run pod may fail to start before its Run is given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind


@dataclass(slots=True)
class StartDeadlines:
    """Measures how long a pod has been failing to start, by kind of failure.

    An image that cannot be pulled may last for `image_pull`, a transient failure for `start`, a
    rule of the cluster that forbids the pod for `refused`; a pod that waits for capacity, for the
    back-end, or that makes progress has no deadline. The clock
    restarts when the kind changes or the failure goes away. Instants are monotonic seconds.
    """

    image_pull: timedelta
    start: timedelta
    refused: timedelta
    _kind: StartFailureKind | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)

    def expired(self, observation: Observation, now: float) -> StartFailure | None:
        """Takes note of an observation; gives its failure if the deadline has passed."""
        failure = observation.start_failure if observation.phase is Phase.PENDING else None
        if failure is None:
            self._kind = None
            return None
        if failure.kind is not self._kind:
            self._kind, self._since = failure.kind, now
        limit = self._limit()
        return failure if limit is not None and now - self._since >= limit else None

    def remaining(self, now: float) -> float | None:
        """Gives the seconds left for the present failure; None: it has no deadline."""
        limit = self._limit()
        return None if limit is None else max(0.0, self._since + limit - now)

    def _limit(self) -> float | None:
        match self._kind:
            case StartFailureKind.IMAGE:
                return self.image_pull.total_seconds()
            case StartFailureKind.TRANSIENT:
                return self.start.total_seconds()
            case StartFailureKind.REFUSED:
                return self.refused.total_seconds()
            case _:
                return None
