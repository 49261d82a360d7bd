"""Pauses sandboxes while the disk is full, or they would use up what the reserve releases.

Most programs fail when the disk is full. Those that keep trying would leave no space for the very
stop or deletion that makes space. They resume once there is enough: nothing of theirs is lost.
Containers belong to their engine and are not paused.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from knit_workflows.compute.local import pod_folder, stopping
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.compute.local.processes import Process, descendants, send
from knit_workflows.disk import ALMOST_FULL, DiskSpace

log = logging.getLogger(__name__)

CHECK_INTERVAL: Final = 2.0
PAUSE_AFTER_CHECKS: Final = 3
"""Checks in a row that find the disk full: programs that fail because of it have failed by then."""


class Pauser:
    """Checks the disk of a state folder; paused Runs resume with `min_free_bytes` free."""

    def __init__(
        self,
        state: StateFolder,
        min_free_bytes: int,
        *,
        space_of: Callable[[Path], DiskSpace] = DiskSpace.of,
    ) -> None:
        self._state = state
        self._min_free_bytes = min_free_bytes
        self._space_of = space_of
        self._full = 0
        # An earlier process may have died while they were paused.
        self._paused = True

    async def run(self) -> None:
        """Checks regularly, without end; errors are logged and tried again."""
        while True:
            try:
                await asyncio.to_thread(self.check)
            except OSError as error:
                log.warning("cannot pause: %s", error, extra={"action": "pause_failed"})
            await asyncio.sleep(CHECK_INTERVAL)

    def check(self) -> None:
        """Pauses or resumes what runs, if it is time; blocks."""
        space = self._space_of(self._state.path)
        if space.is_almost_full:
            self._full += 1
            if self._full >= PAUSE_AFTER_CHECKS:
                self._pause(space)
            return
        self._full = 0
        if self._paused and space.free >= max(space.share(self._min_free_bytes), 2 * ALMOST_FULL):
            self._paused = False
            self._signal(signal.SIGCONT, "resume", space)

    def _pause(self, space: DiskSpace) -> None:
        # Twice: the second pass finds what a process has started just before it stopped.
        send(signal.SIGSTOP, self._running())
        self._paused = True
        self._signal(signal.SIGSTOP, "pause", space)

    def _signal(self, number: signal.Signals, what: str, space: DiskSpace) -> None:
        processes = list(self._running())
        send(number, processes)
        if processes:
            log.info(
                "%s: %d processes of Runs %s",
                space.left(),
                len(processes),
                what,
                extra={"action": f"runs_{what}", "processes": len(processes)},
            )

    def _running(self) -> Iterator[Process]:
        for name in self._state.pod_names():
            reported = pod_folder.read_state(self._state.pod(name))
            if reported is not None and reported.running and not reported.ended:
                sandbox = stopping.sandbox_of(reported)
                yield from descendants(sandbox.pid) if sandbox else ()
