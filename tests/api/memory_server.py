"""The app on fakes in a process of its own: `python -m tests.api.memory_server FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from tests.api.access import nobody_asks
from tests.api.fake_transfers import FakeTransfers
from tests.api.live_server import serving
from tests.memory_store import MemoryStore
from tests.waiting import PATIENCE


async def main() -> None:
    store = MemoryStore()
    transfers = FakeTransfers(store, Path(sys.argv[1]))
    app = create_app(Deps(Lazy.of(store), Lazy.of(transfers), nobody_asks()))
    # Otherwise a client that is slow to send might miss its response.
    async with serving(app, linger_timeout=PATIENCE) as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
