"""Keeps in Temporal with which version of the workers Runs begin."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows.settings import QueueSettings, VersioningSettings
from knit_workflows.temporal.queue_state import RECENTLY
from knit_workflows.temporal.worker_versions import (
    UNVERSIONED,
    Routing,
    find_deployment,
    find_routing,
    make_current,
    queues_of,
)

log = logging.getLogger(__name__)

_PATIENCE: Final = timedelta(seconds=30)
_STARTING: Final = timedelta(seconds=1)
_PASSING: Final = frozenset(
    {
        RPCStatusCode.CANCELLED,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.UNAVAILABLE,
    }
)
"""How calls fail while Temporal is away, or busy with many workers that start at once."""


class CurrentVersionKeeper:
    """Has Runs begin with the version of this process; every worker with the role `engine` has one.

    The one that starts last takes over: in a rolling update that is the new version, after
    `helm rollback` the one that is restored. After that a version is left alone as long as it has
    workers; when they are gone, whoever sees that first takes over. A process without a version
    does the same for workers without one, so versioning is switched off; but it leaves alone what
    workers of another deployment do, which somebody else looks after.

    Two at once do no harm: Temporal refuses the second, which then looks again.
    """

    def __init__(
        self,
        client: Client,
        settings: VersioningSettings,
        queues: QueueSettings,
        *,
        looks_every: timedelta,
        silence: timedelta = RECENTLY,
        patience: timedelta = _PATIENCE,
    ) -> None:
        """`silence`: how long a version that is gone has not polled.

        `patience`: how long a new version waits until it has workers of all roles.
        """
        self._client = client
        self._name = settings.deployment_name
        self._build_id = settings.build_id
        self._engine_queue = queues.engine
        # Backups have workers of their own, without a version.
        needed = {name: getattr(queues, name) for name in type(queues).model_fields}
        self._queues = frozenset(queue for role, queue in needed.items() if role != "backup")
        self._looks_every = looks_every
        self._silence = silence
        self._gives_up_at = time.monotonic() + patience.total_seconds()
        self._starting = True
        self._problem = ""
        self._told = ""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Looks at once, and now and then while inside."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            try:
                await self.ensure()
                self._problem = ""
            except (RPCError, RuntimeError) as error:
                if isinstance(error, RPCError) and error.status not in _PASSING:
                    self._note(str(error))
                else:  # the next look will see
                    log.debug("versions of workers are not looked at: %s", error)
            await asyncio.sleep(self._pause().total_seconds())

    def _pause(self) -> timedelta:
        if self._starting and time.monotonic() < self._gives_up_at:
            return min(self._looks_every, _STARTING)
        return self._looks_every

    def _note(self, problem: str) -> None:
        """Logs a problem that lasts, but once: some servers refuse for ever.

        Of two workers that take over at once one is refused; its next look finds all well.
        """
        if problem == self._problem != self._told:
            self._told = problem
            log.warning(
                "it is not known, or cannot be changed, with which version of the workers Runs "
                "begin: %s",
                problem,
                extra={"action": "worker_version_unknown"},
            )
        self._problem = problem

    async def ensure(self) -> None:
        """Takes over if it is this version's turn; raises RPCError."""
        found = await find_routing(self._client, self._engine_queue, self._name, self._silence)
        if found.current == self._build_id:
            self._starting = False
        elif await self._is_its_turn(found):
            await self._take_over(found.current)

    async def _is_its_turn(self, found: Routing) -> bool:
        is_other = found.current is None
        if not self._starting:
            return not is_other and found.current not in found.polling
        if self._build_id == UNVERSIONED:
            return not is_other
        # Before its first poll Temporal does not know of it.
        if self._build_id not in found.polling:
            return False
        if time.monotonic() > self._gives_up_at:
            return True
        return self._queues <= await queues_of(self._client, self._name, self._build_id)

    async def _take_over(self, before: str | None) -> None:
        deployment = await find_deployment(self._client, self._name)
        if deployment is None or before not in (deployment.current, None):
            return  # another was faster, or Temporal is not of one mind yet
        await make_current(self._client, deployment, self._build_id)
        self._starting = False
        log.info(
            "Runs begin with %s from now on, and not with %s",
            _in_words(self._build_id),
            _in_words(before),
            extra={
                "action": "worker_version_current",
                "build_id": self._build_id,
                "before": before,
            },
        )


def _in_words(build_id: str | None) -> str:
    if build_id is None:
        return "workers of another name"
    return "workers without a version" if build_id == UNVERSIONED else f"version {build_id}"
