"""The lifecycle hooks in force, and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.hooks import (
    DeliveryQuery,
    HookAnswer,
    HookDelivery,
    HookPhase,
    Hooks,
    HooksInForce,
    HooksSource,
    Transition,
)


class HookStore(Protocol):
    """Knows the hooks in force, and keeps the record of their deliveries."""

    async def hooks(self) -> Hooks:
        """Gives the hooks in force, which every process follows."""

    async def configure(self, hooks: Hooks, source: HooksSource | None = None) -> bool:
        """Puts these hooks of that source in force; tells whether they differ from those before."""

    async def follow(self, source: HooksSource, problem: str = "") -> None:
        """Records that a worker follows a hooks file, and why the file is refused, if it is.

        Counts for `FOLLOWS_FOR`; a later call for the same worker replaces it.
        """

    async def leave(self, worker: str) -> None:
        """Records that a worker follows no file any more; nothing if it did not."""

    async def in_force(self) -> HooksInForce:
        """Gives the hooks in force with whence they come, and the workers that follow a file."""

    async def begin(self, transition: Transition, phase: HookPhase, url: str) -> int | None:
        """Records that a hook is about to be called; gives the number of this attempt, from 1.

        None: do not call it. An After hook has been claimed before, whether or not it was called
        then; a Before hook has been skipped by a user.

        Raises:
            RunNotFound: the Run has been deleted.
            Superseded: it has been retried.
        """

    async def ended(
        self,
        transition: Transition,
        phase: HookPhase,
        url: str,
        answer: HookAnswer,
        *,
        attempt: int,
        next_in: timedelta | None = None,
    ) -> None:
        """Records how an attempt has ended, and when the hook is called again (None: it is not).

        Changes nothing if the delivery has been skipped or attempted again meanwhile (the worker of
        the first attempt was taken for dead), or is gone with its Run.
        """

    async def keep_environment(
        self, transition: Transition, environment: Mapping[str, str]
    ) -> None:
        """Keeps what the Before hooks want in the container's environment until its pod is there.

        Replaces what was kept before. Changes nothing if the Run has gone on meanwhile. A Run that
        ends without a pod keeps nothing either.
        """

    async def find(
        self, query: DeliveryQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[HookDelivery]:
        """Lists deliveries by the time of their last call, newest first, then id.

        At most `limit`, after the cursor `after`.

        Raises:
            InvalidRequest: `after` is not a cursor.
            RunNotFound: there is no Run of the id in the query.
        """

    async def skip(self, delivery_id: str, *, actor: str, reason: str) -> HookDelivery:
        """Lets a transition go on without this Before hook; recorded in the Run's history too.

        A second call changes nothing.

        Raises:
            DeliveryNotFound: there is no such delivery.
            IllegalMove: it is an After hook's, or it has succeeded, or its transition is over.
        """
