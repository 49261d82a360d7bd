"""A back-end whose volumes are folders behind real agents, as transfer pods run them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from knit_workflows.archive.volume import ServedVolume
from knit_workflows.compute.base import Endpoint, Transfer
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
