"""Has sandboxes pause while the disk is full, or they would eat what is given back of a reserve.

Most programs fail when they find no room. Those that try again and again would leave none for the
very stop or deletion that makes room. They go on when there is some: nothing of theirs is lost.
Containers are their engine's and are left alone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from typing import Final

from knit_workflows.compute.local import pod_folder, stopping
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.compute.local.processes import Process, descendants, send
from knit_workflows.disk import ALMOST_FULL, DiskSpace

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
PAUSE_AFTER: Final = 3
"""Looks in a row at a full disk: whoever fails of it has failed by then."""


class Pauser:
    """Looks at the disk of a state folder; `floor` is the room from which on all go on."""

    def __init__(self, state: StateFolder, floor: int) -> None:
        self._state = state
        self._floor = floor
        self._full = 0
        # An earlier process may have died while they paused.
        self._paused = True

    async def run(self) -> None:
        """Looks now and then, without end; what goes wrong is logged and tried again."""
        while True:
            try:
                await asyncio.to_thread(self.look)
            except OSError as error:
                log.warning("cannot pause: %s", error, extra={"action": "pause_failed"})
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Pauses what runs, or has it go on, if it is time; blocks."""
        room = DiskSpace.of(self._state.path)
        if room.is_almost_full:
            self._full += 1
            if self._full >= PAUSE_AFTER:
                self._pause(room)
            return
        self._full = 0
        if self._paused and room.free >= max(room.share(self._floor), 2 * ALMOST_FULL):
            self._paused = False
            self._tell(signal.SIGCONT, "go on", room)

    def _pause(self, room: DiskSpace) -> None:
        # Twice: what a process has just started when it stops is found by the second look.
        send(signal.SIGSTOP, self._running())
        self._paused = True
        self._tell(signal.SIGSTOP, "pause", room)

    def _tell(self, number: signal.Signals, what: str, room: DiskSpace) -> None:
        processes = list(self._running())
        send(number, processes)
        if processes:
            log.info(
                "%s: %d processes of Runs %s",
                room.left(),
                len(processes),
                what,
                extra={"action": "runs_" + what.replace(" ", "_"), "processes": len(processes)},
            )

    def _running(self) -> Iterator[Process]:
        for name in self._state.pod_names():
            account = pod_folder.read_account(self._state.pod(name))
            if account is not None and account.running and not account.ended:
                sandbox = stopping.sandbox_of(account)
                yield from descendants(sandbox.pid) if sandbox else ()
