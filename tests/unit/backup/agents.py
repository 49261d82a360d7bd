"""A back-end whose volumes are folders behind real agents, as transfer pods run them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from knit_workflows.archive.volume import ServedVolume
from knit_workflows.compute.base import Endpoint, Transfer
from knit_workflows.compute.kubernetes.transfers import deletion_of
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, TransferNotReady
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.pod.agent import AgentServer


class Agents:
    """A back-end whose transfers are agents in threads; each is ready at the second call only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: set[str] = set()
        self.open_names: list[str] = []
        self.made: dict[str, VolumeOptions] = {}
        self.most = 0
        self.refused: set[str] = set()
        """Volumes whose pods do not start."""
        self.refusals = 0
        self.outages = 0
        """So many calls that make a volume or open one are not answered."""
        self._servers: dict[str, AgentServer] = {}

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        assert not self._servers

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        self._answer()
        self.made[volume.name] = volume.options
        (self.root / volume.name).mkdir(exist_ok=True)
        return volume.options

    async def measure_volume(self, volume: Volume) -> int | None:
        return 1 << 30

    async def missing_volumes(self, volumes: Sequence[Volume]) -> list[Volume]:
        return [one for one in volumes if not (self.root / one.name).is_dir()]

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        self._answer()
        folder = self.root / transfer.volume.name
        if transfer.volume.name in self.refused:
            self.refusals += 1
            raise BackendRejected("the transfer pod cannot start: ErrImagePull")
        if not folder.is_dir():
            raise BackendRejected(f"the content of {transfer.volume.name} is gone")
        if transfer.name not in self.asked:
            self.asked.add(transfer.name)
            raise TransferNotReady("a pod takes a while")
        server = AgentServer(ServedVolume(folder), transfer.mode.value, transfer.token, 0, 60.0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._servers[transfer.name] = server
        self.open_names.append(transfer.name)
        self.most = max(self.most, len(self._servers))
        return Endpoint(f"http://127.0.0.1:{server.port}/")

    def _answer(self) -> None:
        if self.outages:
            self.outages -= 1
            raise BackendUnavailable("the API server does not answer: 429")

    def end_idle(self, transfer_name: str) -> None:
        """Ends an agent as it ends by itself when nobody connects for long."""
        server = self._servers.pop(transfer_name)
        server.shutdown()
        server.server_close()

    async def close_transfer(self, transfer: Transfer) -> None:
        server = self._servers.pop(transfer.name, None)
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()


SLOW = """
import os, runpy, sys, time
def unlink(*names, unlink=os.unlink, **options):
    time.sleep(0.1)
    unlink(*names, **options)
os.unlink = unlink
runpy.run_module("knit_workflows.pod.agent", run_name="__main__")
"""


class SlowAgents(Agents):
    """Agents that are processes and take long to undo what was cut.

    They are ended as the kubelet ends the containers of a pod that is deleted.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._ending: list[threading.Thread] = []

    async def aclose(self) -> None:
        for one in self._ending:
            await asyncio.to_thread(one.join)

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        if (former := self._processes.get(transfer.name)) is not None and former.poll() is None:
            raise TransferNotReady("an earlier transfer pod is being deleted")
        path = self.root / transfer.volume.name
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, "--path", path, "--mode", transfer.mode, "--port", "0"],
            env={**os.environ, "KNIT_TRANSFER_TOKEN": transfer.token},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        port = re.search(r"port (\d+)", await asyncio.to_thread(process.stderr.readline))
        assert port is not None
        self._processes[transfer.name] = process
        return Endpoint(f"http://127.0.0.1:{port[1]}/")

    async def close_transfer(self, transfer: Transfer) -> None:
        grace = deletion_of(transfer).get("gracePeriodSeconds", 40)
        process = self._processes[transfer.name]
        process.terminate()
        self._ending.append(threading.Thread(target=_end, args=(process, grace)))
        self._ending[-1].start()


def _end(process: subprocess.Popen[str], grace: float) -> None:
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stderr is not None
    process.stderr.close()
