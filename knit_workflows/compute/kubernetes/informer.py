"""One shared, lasting look at all objects of a kind: a list, then a watch, told to who listens.

```
   ┌──────── version gone ────────┐
   ▼                              │
 list ──► objects, version ──► watch ──► ended or broken ──┐
   ▲                              ▲                        │
   └─ failed: back off            └── from the last version, after a back-off if it broke
```
Listeners are only told *that* something about their key changed, never what: they read the state
(level-triggered), so nothing is lost when changes are folded.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Generic, TypeVar

from knit_workflows.compute.kubernetes.objects import JsonObject
from knit_workflows.compute.kubernetes.server import ApiServer, VersionGone
from knit_workflows.domain.errors import KnitError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 15.0
_STALE_AFTER: Final = 100.0
"""Seconds without a word from the server; bookmarks come about every 60."""


class Informer(Generic[T]):
    """Knows the objects of one kind that `query` selects.

    `read` turns an object into the part worth keeping, and `key` says under which name listeners
    look for it; several objects may have one key.
    """

    def __init__(
        self,
        server: ApiServer,
        kind: str,
        query: Mapping[str, str],
        *,
        key: Callable[[JsonObject], str],
        read: Callable[[JsonObject], T],
    ) -> None:
        self._server = server
        self._kind = kind
        self._query = query
        self._key = key
        self._read = read
        self._objects: dict[str, dict[str, T]] = {}
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self._version: str | None = None
        self._heard_at = float("-inf")
        self._pause = _FIRST_PAUSE

    def start(self) -> None:
        """Begins to look, if it does not look already. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._look(), name=f"informer of {self._kind}")

    async def aclose(self) -> None:
        """Stops looking and forgets everything."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._objects.clear()
        self._version, self._heard_at = None, float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether what it knows can be relied on: it listed once, and hears the server."""
        silence = asyncio.get_running_loop().time() - self._heard_at
        return self._version is not None and silence < _STALE_AFTER

    def get(self, key: str) -> list[T]:
        """Gives the objects with that key, oldest first; none before the first list."""
        return list(self._objects.get(key, {}).values())

    @contextmanager
    def listen(self, key: str) -> Iterator[asyncio.Event]:
        """Gives an event that is set at each change of an object with that key."""
        event = asyncio.Event()
        self._listeners.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            others = self._listeners[key]
            others.discard(event)
            if not others:
                del self._listeners[key]

    async def _look(self) -> None:
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._follow()
            except VersionGone:
                self._version = None
            except KnitError as error:
                _log.warning(
                    "cannot watch %s: %s", self._kind, error, extra={"action": "watch_broken"}
                )
            except Exception:  # noqa: BLE001 - a border: logged, and tried again
                # A bug or an answer nobody has seen: without this, all watches of the process
                # would fall back to slow re-reading for ever, silently.
                _log.exception("watch failed", extra={"action": "watch_failed"})
                self._version = None
            # Also after a watch that ended as it should, or a server that ends each at once would
            # be asked without pause. Its first word resets the pause.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> None:
        items, version = await self._server.list(self._kind, self._query)
        before = self._objects
        self._objects = {}
        for item in items:
            self._keep(item)
        self._version = version
        self._heard()
        for key in before.keys() | self._objects.keys():
            if before.get(key) != self._objects.get(key):
                self._tell(key)

    async def _follow(self) -> None:
        assert self._version is not None
        async for kind, thing in self._server.watch(self._kind, self._query, self._version):
            self._heard()
            self._pause = _FIRST_PAUSE
            self._version = thing["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                self._drop(thing)
            else:
                self._keep(thing)
            self._tell(self._key(thing))

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _keep(self, thing: JsonObject) -> None:
        uid = thing["metadata"]["uid"]
        self._objects.setdefault(self._key(thing), {})[uid] = self._read(thing)

    def _drop(self, thing: JsonObject) -> None:
        key = self._key(thing)
        same = self._objects.get(key, {})
        same.pop(thing["metadata"]["uid"], None)
        if not same:
            self._objects.pop(key, None)

    def _tell(self, key: str) -> None:
        for event in self._listeners.get(key, ()):
            event.set()
