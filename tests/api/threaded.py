"""The real API on fakes, behind a real socket, in a thread: for tests of programs that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_api.extra.in_force import ExtraApis
from knit_workflows.settings import ExtraApisSettings
from tests.api.access import nobody_asks
from tests.api.fake_transfers import FakeTransfers
from tests.api.live_server import serving
from tests.memory_store import MemoryStore
from tests.waiting import PATIENCE


@dataclass(frozen=True)
class LiveApi:
    """The API's port, and what it has; both sides may look at it and change it."""

    port: int
    store: MemoryStore
    transfers: FakeTransfers

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"


@contextmanager
def live_api(folder: Path, *, extra_apis: Path | None = None) -> Iterator[LiveApi]:
    """Serves, with volumes below the folder and a file of extra APIs, until the block ends."""
    slow = timedelta(seconds=PATIENCE)
    extra = ExtraApis(ExtraApisSettings(config=extra_apis, connect_timeout=slow))
    extra.load()
    started: list[tuple[LiveApi, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        store = MemoryStore()
        transfers = FakeTransfers(store, folder)
        deps = Deps(Lazy.of(store), Lazy.of(transfers), nobody_asks(), extra_apis=extra)
        ending = asyncio.Event()
        async with serving(create_app(deps), linger_timeout=PATIENCE) as port:
            api = LiveApi(port, store, transfers)
            started.append((api, asyncio.get_running_loop(), ending))
            ready.set()
            await ending.wait()
            deps.stopping.set()
        await deps.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        api, loop, ending = started[0]
        yield api
    finally:
        if started:
            loop.call_soon_threadsafe(ending.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()
