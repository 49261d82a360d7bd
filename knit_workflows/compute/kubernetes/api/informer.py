"""Lists and watches all objects of a kind, and notifies subscribers of changes.

```
   ┌──────── version gone ────────┐
   ▼                              │
 list ──► objects, version ──► watch ──► ended or failed ──┐
   ▲                              ▲                        │
   └─ failed: back off            └── back off, resume from the last version
```
Subscribers learn only *that* something with their key changed, and then read the state
(level-triggered), so nothing is lost when several changes become one notification.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Generic, TypeVar

from knit_workflows.backoff import Backoff
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.server import ApiServer, ResourceExpired
from knit_workflows.domain.errors import KnitError
from knit_workflows.metrics.instruments import WATCH_AGE

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STALE_AFTER: Final = 100.0
"""Seconds without an event from the server; bookmarks come about every 60."""
_QUIET_WATCH: Final = 30.0
"""Seconds after which the end of a watch is no sign of a proxy that ends each of them at once."""


class Informer(Generic[T]):
    """A cache of the objects of one kind that `query` selects.

    `read` turns an object into the part that is kept, `key` into the key under which it is found;
    several objects may share one key.
    """

    def __init__(
        self,
        server: ApiServer,
        kind: str,
        query: Mapping[str, str],
        *,
        key: Callable[[JsonObject], str],
        read: Callable[[JsonObject], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._kind = kind
        self._query = query
        self._key = key
        self._read = read
        self._clock = clock
        self._objects: dict[str, dict[str, T]] = {}
        self._subscribers: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._version: str | None = None
        self._last_event_at = float("-inf")
        self._started_at = float("-inf")
        self._backoff = Backoff(0.1, 15.0)

    def start(self) -> None:
        """Starts in the background, once; needs a running event loop."""
        if self._task is None:
            self._started_at = self._clock()
            WATCH_AGE.labels(self._kind).set_function(self._age)
            self._task = asyncio.create_task(self._run(), name=f"informer of {self._kind}")

    async def aclose(self) -> None:
        """Stops, and forgets everything."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
            WATCH_AGE.remove(self._kind)
        self._objects.clear()
        self._version, self._last_event_at = None, float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether the cache is up to date: it has been listed, and the server sends events."""
        idle = self._clock() - self._last_event_at
        return self._version is not None and idle < _STALE_AFTER

    def get(self, key: str) -> list[T]:
        """Gives the objects with that key, oldest first; none before the first list."""
        return list(self._objects.get(key, {}).values())

    @contextmanager
    def subscribe(self, key: str, event: asyncio.Event | None = None) -> Iterator[asyncio.Event]:
        """Subscribes to changes of objects with that key; each sets the event, or the given one."""
        event = event or asyncio.Event()
        self._subscribers.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            others = self._subscribers[key]
            others.discard(event)
            if not others:
                del self._subscribers[key]

    async def _run(self) -> None:
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._follow()
            except ResourceExpired:
                self._version = None
            except KnitError as error:
                _log.warning(
                    "cannot watch %s: %s", self._kind, error, extra={"action": "watch_broken"}
                )
            except Exception:  # noqa: BLE001 - a border: logged, and tried again
                # A bug, or a response nobody has seen before. If this ended the informer, all
                # watches of the process would silently fall back to slow polling for good.
                _log.exception("watch failed", extra={"action": "watch_failed"})
                self._version = None
            # Even after a watch that ended normally: a server that ends each at once must not be
            # called in a tight loop. The first event resets the back-off.
            await asyncio.sleep(self._backoff.next())

    async def _list(self) -> None:
        items, version = await self._server.list(self._kind, self._query)
        before = self._objects
        self._objects = {}
        for item in items:
            self._keep(item)
        self._version = version
        self._note_event()
        for key in before.keys() | self._objects.keys():
            if before.get(key) != self._objects.get(key):
                self._notify(key)

    async def _follow(self) -> None:
        assert self._version is not None
        begun = self._clock()
        async for kind, thing in self._server.watch(self._kind, self._query, self._version):
            self._note_event()
            self._backoff.reset()
            self._version = thing["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                self._drop(thing)
            else:
                self._keep(thing)
            self._notify(self._key(thing))
        if self._clock() - begun >= _QUIET_WATCH:
            self._note_event()  # the server has ended it as it was asked to
            self._backoff.reset()

    def _age(self) -> float:
        """Gives seconds without a sign of the server; before the first one, since the start."""
        return self._clock() - max(self._last_event_at, self._started_at)

    def _note_event(self) -> None:
        self._last_event_at = self._clock()

    def _keep(self, thing: JsonObject) -> None:
        uid = thing["metadata"]["uid"]
        self._objects.setdefault(self._key(thing), {})[uid] = self._read(thing)

    def _drop(self, thing: JsonObject) -> None:
        key = self._key(thing)
        same = self._objects.get(key, {})
        same.pop(thing["metadata"]["uid"], None)
        if not same:
            self._objects.pop(key, None)

    def _notify(self, key: str) -> None:
        for event in self._subscribers.get(key, ()):
            event.set()
