"""The local back-end of a site: its folder, its supervisors and sandboxes, and its own faults."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import psutil

from knit_workflows import names
from knit_workflows.compute.local import pod_folder
from knit_workflows.disk import ALMOST_FULL, DiskSpace
from tests.chaos.campaign.faults import Fault, Kind, frozen, kill
from tests.chaos.campaign.invariants import Ledger, last_event, touched_since
from tests.chaos.campaign.site import Site

_POD_COMES: Final = 20.0
"""Seconds."""
DISK: Final = "256m"
"""Size of the volumes' disk, if a small file system can be mounted."""


class LocalCompute:
    """What is below the state folder."""

    image = "host/sh:1"

    def __init__(self, state: Path, *, own_disk: bool) -> None:
        self.state = state
        self._own_disk = own_disk

    def settings(self) -> dict[str, str]:
        """Gives the settings of knit's processes."""
        return {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": str(self.state)}

    async def volumes(self) -> Mapping[str, Path]:
        """Gives the folders of volumes."""
        return {path.name: path for path in (self.state / "volumes").iterdir()}

    async def remains(self) -> list[str]:
        """Gives folders of pods and transfers, and processes that work below the state folder."""
        kinds = ("pods", "transfers")
        left = [f"{kind}/{one.name}" for kind in kinds for one in (self.state / kind).iterdir()]
        return left or [f"process {pid}: {words[:200]}" for pid, words in self._processes()]

    def _processes(self) -> list[tuple[int, str]]:
        found = []
        for process in psutil.process_iter(["pid"]):
            with suppress(psutil.Error):
                words = process.cmdline()
                if any(str(self.state) in word for word in words):
                    found.append((process.pid, " ".join(words)))
        return found

    def clear(self) -> None:
        """Ends what outlives knit, if a campaign is interrupted in the middle of Runs."""
        for pid, _ in self._processes():
            kill(pid)

    async def relieve(self, site: Site, ledger: Ledger) -> None:
        """Does nothing: no fault here has anything wait for a user."""

    def kinds(self, site: Site, ledger: Ledger, random: Random) -> list[Kind]:
        """Gives the faults that only this back-end has."""
        faults = _LocalFaults(self.state, site, ledger, random)
        kinds = [
            Kind("kill -9 of a supervisor", ["pod"], 0.1, 1, faults.kill_supervisor),
            Kind("kill -9 of a program", ["pod"], 0.1, 1, faults.kill_program),
            Kind("SIGSTOP of a pod", ["supervisor", "sandbox"], 2.0, 1.5, faults.freeze_pod),
        ]
        if self._own_disk:
            kinds += [
                Kind("disk almost full", ["volumes"], 3.0, 1, faults.fill_disk),
                Kind("disk full to the last byte", ["volumes"], 7.0, 1, faults.fill_whole_disk),
            ]
        return kinds


class _LocalFaults:
    def __init__(self, state: Path, site: Site, ledger: Ledger, random: Random) -> None:
        self._state = state
        self._site = site
        self._ledger = ledger
        self._random = random
        self._disk = asyncio.Lock()
        self._ballast = state / "ballast"

    async def _some_pod(self) -> tuple[str, pod_folder.SupervisorState] | None:
        """Waits a little for a pod; gives its Run, and what its supervisor has reported."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_POD_COMES):
                while (found := self._pod_now()) is None:
                    await asyncio.sleep(0.02)
                return found
        return None

    def _pod_now(self) -> tuple[str, pod_folder.SupervisorState] | None:
        pods = sorted((self._state / "pods").iterdir())
        self._random.shuffle(pods)
        for folder in pods:
            reported = pod_folder.read_state(folder)
            of = names.run_of_pod(folder.name)
            if of and reported and reported.supervisor and not reported.ended:
                return of[0], reported
        return None

    async def kill_supervisor(self, fault: Fault) -> str:
        """The Run's end cannot be recorded any more: it fails, unless it has ended already."""
        if (found := await self._some_pod()) is None:
            return ""
        run_id, reported = found
        self._ledger.disturbed[run_id] = fault.kind
        assert reported.supervisor is not None
        return run_id if kill(reported.supervisor[0]) else ""

    async def kill_program(self, fault: Fault) -> str:
        """All that is in the sandbox dies with its first process."""
        found = await self._some_pod()
        if found is None or found[1].sandbox is None:
            return ""
        self._ledger.disturbed[found[0]] = fault.kind
        return found[0] if kill(found[1].sandbox) else ""

    async def freeze_pod(self, fault: Fault) -> str:
        """Its end comes later; nothing else."""
        if (found := await self._some_pod()) is None:
            return ""
        run_id, reported = found
        assert reported.supervisor is not None
        pid = reported.supervisor[0] if fault.target == "supervisor" else reported.sandbox
        if pid is None:
            return ""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(pid).children(recursive=True)
            with frozen([pid, *(one.pid for one in children)]):
                await asyncio.sleep(fault.seconds)
        return run_id

    async def fill_disk(self, fault: Fault) -> str:
        """Leaves less than knit wants to have free, but enough for what programs write here."""
        async with self._disk:
            space = DiskSpace.of(self._state)
            self._write_ballast(space.free - (ALMOST_FULL + (2 << 20)))
            await asyncio.sleep(fault.seconds)
            self._ballast.unlink()
        return fault.target

    async def fill_whole_disk(self, fault: Fault) -> str:
        """Leaves nothing: programs that write meanwhile may fail, and so may those who log."""
        async with self._disk:
            before = await last_event(self._site)
            try:
                self._write_ballast(sys.maxsize)
                await asyncio.sleep(fault.seconds)
            finally:
                self._ballast.unlink()
            for run_id in await touched_since(self._site, before):
                self._ledger.disturbed.setdefault(run_id, fault.kind)
        return fault.target

    def _write_ballast(self, size: int) -> None:
        chunk = bytes(1 << 20)
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):  # it is full
            while size > 0:
                size -= file.write(chunk[:size])
