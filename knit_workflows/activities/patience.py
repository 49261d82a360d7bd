"""How long a run pod may fail to start before its Run is given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from knit_workflows.compute.base import Observation, Phase, StartFailure, StartFailureKind


@dataclass(slots=True)
class Patience:
    """Remembers since when a pod has had which kind of trouble.

    Image trouble has `image`, transient trouble `transient` of time; a pod that waits for room, for
    the back-end, or for what is being done has no end to it. What goes away is forgotten.
    Instants are monotonic seconds.
    """

    image: timedelta
    transient: timedelta
    _kind: StartFailureKind | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)

    def lost_with(self, observation: Observation, now: float) -> StartFailure | None:
        """Gives the trouble that has lasted too long, else None."""
        trouble = observation.start_failure if observation.phase is Phase.PENDING else None
        if trouble is None:
            self._kind = None
            return None
        if trouble.kind is not self._kind:
            self._kind, self._since = trouble.kind, now
        limit = self._limit()
        return trouble if limit is not None and now - self._since >= limit else None

    def wakes_in(self, now: float) -> float | None:
        """Gives the seconds after which present trouble has lasted too long; None: never."""
        limit = self._limit()
        return None if limit is None else max(0.0, self._since + limit - now)

    def _limit(self) -> float | None:
        match self._kind:
            case StartFailureKind.IMAGE:
                return self.image.total_seconds()
            case StartFailureKind.TRANSIENT:
                return self.transient.total_seconds()
            case _:
                return None
