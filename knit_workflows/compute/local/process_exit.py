"""Notices the exit of processes without a thread that waits: our children and others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

from knit_workflows.compute.local.processes import open_process


class ProcessExitWatcher:
    """Calls back once when a process has ended; follows one process at a time."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = None
        self._followed: tuple[int, int] | None = None
        self.ended = False

    def follow(self, process: tuple[int, int] | None) -> None:
        """Follows this process (its number and start time); repeating it is fine."""
        if process is None or process == self._followed:
            return
        self.close()
        self._followed, self._descriptor = process, open_process(*process)
        self.ended = self._descriptor is None
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._on_end)

    def close(self) -> None:
        """Stops following."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _on_end(self) -> None:
        self.close()
        self.ended = True
        self._callback()


class ChildReaper:
    """Reaps our own child processes when they end, so that they do not stay as zombies."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptors: dict[int, int] = {}
        self._closed = False

    def adopt(self, pid: int) -> None:
        """Reaps this child once it has ended; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._adopt, pid)

    def close(self) -> None:
        """Leaves the children that still run to init."""
        self._closed = True
        for descriptor in self._descriptors.values():
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()

    def _adopt(self, pid: int) -> None:
        if self._closed:
            return
        with suppress(ProcessLookupError):
            self._descriptors[pid] = descriptor = os.pidfd_open(pid)
            self._loop.add_reader(descriptor, self._reap, pid)

    def _reap(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
