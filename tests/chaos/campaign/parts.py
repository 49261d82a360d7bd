"""The processes of a site, each of which can be frozen, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Final, Protocol

import psutil

from knit_workflows.embedded import EmbeddedPostgres
from tests.chaos.servers import Temporal
from tests.processes import ApiProcess, WorkerProcess

BACK: Final = 600.0
"""Seconds within which whatever is started works, on a machine that has other work."""


class Part(Protocol):
    """One of them. Whoever holds `lock` may do something to it."""

    name: str
    lock: asyncio.Lock
    ended_by_itself: list[str]
    """What it said last, each time that it ended without being killed."""

    def pids(self) -> list[int]:
        """Gives the processes that it consists of."""
        ...

    async def kill(self) -> None:
        """kill -9; it is gone afterwards."""
        ...

    async def start(self) -> None:
        """Starts it; it need not be ready."""
        ...

    async def ready(self) -> None:
        """Waits until it works; starts it again if it has ended."""
        ...


def signal_all(part: Part, number: signal.Signals) -> None:
    """Sends a signal to all that a part consists of."""
    for pid in part.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class KnitPart:
    """A worker or the API."""

    def __init__(self, name: str, process: WorkerProcess | ApiProcess) -> None:
        self.name = name
        self.process = process
        self.lock = asyncio.Lock()
        self.ended_by_itself: list[str] = []

    def pids(self) -> list[int]:
        """Gives its one process."""
        return [self.process.pid]

    async def kill(self) -> None:
        """kill -9, unless it has ended by itself."""
        if not self._has_ended():
            await asyncio.to_thread(self.process.kill)

    async def start(self) -> None:
        """Starts another."""
        self.process.start()

    async def ready(self) -> None:
        """Waits until it is; one that has ended is started again, as a supervisor does."""
        ends = time.monotonic() + BACK
        while True:
            if self._has_ended():
                await self.start()
            try:
                await self.process.ready()
            except AssertionError:
                if time.monotonic() > ends:
                    raise
            else:
                return

    def _has_ended(self) -> bool:
        code = self.process.poll()
        if code is None or code == -signal.SIGKILL:
            return code is not None
        said = f"{self.name} ended with {code}: {self.process.log.read_text()[-1500:]}"
        if said not in self.ended_by_itself:
            self.ended_by_itself.append(said)
        return True


class TemporalPart:
    """Temporal's dev server."""

    name = "temporal"

    def __init__(self, server: Temporal) -> None:
        self._server = server
        self.lock = asyncio.Lock()
        self.ended_by_itself: list[str] = []

    def pids(self) -> list[int]:
        """Gives its one process."""
        assert self._server.process is not None
        return [self._server.process.pid]

    async def kill(self) -> None:
        """kill -9."""
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        """Starts it on the same file, and waits until it takes connections."""
        await self._server.start()

    async def ready(self) -> None:
        """Is so once it is started."""
        assert self._server.process is not None
        if self._server.process.poll() is not None:
            self.ended_by_itself.append(f"temporal ended with {self._server.process.returncode}")
            await self.start()


class PostgresPart:
    """PostgreSQL: one process and its children."""

    name = "postgres"

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server
        self.lock = asyncio.Lock()
        self.ended_by_itself: list[str] = []

    def pids(self) -> list[int]:
        """Gives all of them."""
        return [process.pid for process in self._server.processes()]

    def backends(self) -> list[psutil.Process]:
        """Gives the children that serve connections."""
        found = []
        for one in self._server.processes():
            with suppress(psutil.NoSuchProcess):
                # Their titles; the command of the server itself may have the word in a path.
                title = " ".join(one.cmdline())
                if title.startswith("postgres: ") and "knit" in title:
                    found.append(one)
        return found

    async def kill(self) -> None:
        """kill -9 of the server; its children notice."""
        with suppress(psutil.NoSuchProcess, AssertionError):
            head = psutil.Process(self._server.pid())
            head.kill()
            await asyncio.to_thread(psutil.wait_procs, [head], 10)

    async def start(self) -> None:
        """Starts it on the same folder, and waits until it is ready."""
        await asyncio.to_thread(self._server.start)

    async def ready(self) -> None:
        """Is so once it is started."""
        await self.start()
