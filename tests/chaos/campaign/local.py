"""The local back-end of a site: its folder, its supervisors and sandboxes, and its own faults."""

from __future__ import annotations

import asyncio
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
from tests.chaos.campaign.invariants import Ledger

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

    def kinds(self, ledger: Ledger, random: Random) -> list[Kind]:
        """Gives the faults that only this back-end has."""
        faults = _LocalFaults(self.state, ledger, random)
        kinds = [
            Kind("kill -9 of a supervisor", ["pod"], 0.1, 1, faults.kill_supervisor),
            Kind("kill -9 of a program", ["pod"], 0.1, 1, faults.kill_program),
            Kind("SIGSTOP of a pod", ["supervisor", "sandbox"], 2.0, 1.5, faults.freeze_pod),
        ]
        if self._own_disk:
            kinds.append(Kind("disk full", ["volumes"], 3.0, 1, faults.fill_disk))
        return kinds


class _LocalFaults:
    def __init__(self, state: Path, ledger: Ledger, random: Random) -> None:
        self._state = state
        self._ledger = ledger
        self._random = random
        self._disk = asyncio.Lock()

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
            ballast = self._state / "ballast"
            space = DiskSpace.of(self._state)
            left = max(ALMOST_FULL + (2 << 20), 0)
            with ballast.open("wb") as file:
                chunk = bytes(1 << 20)
                for _ in range(max(0, (space.free - left) >> 20)):
                    file.write(chunk)
            await asyncio.sleep(fault.seconds)
            ballast.unlink()
        return "volumes"
