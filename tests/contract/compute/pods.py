"""Makes run pods for the contract suite, waits for them, and cleans up after them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Self

from knit_workflows import names
from knit_workflows.compute.base import (
    ENDED,
    ComputeBackend,
    Observation,
    Phase,
    RunPod,
    Transfer,
    TransferMode,
)
from knit_workflows.domain.volumes import Mount, Volume
from tests.contract.compute.adapter import ComputeAdapter

INPUT = "/in/data"
OUTPUT = "/out/model"
OTHER_OUTPUT = "/out/report"
NO_GRACE = timedelta()


class Pods:
    """Run pods of one test."""

    def __init__(self, adapter: ComputeAdapter) -> None:
        self.adapter = adapter
        self.backend = adapter.backend
        self._launched: list[str] = []
        self._volumes: list[Volume] = []
        self._transfers: list[Transfer] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in self._launched:
            await self.backend.stop(name, grace=NO_GRACE)
        for name in self._launched:
            await self.until(name, lambda seen: seen.phase is Phase.ABSENT)
        for transfer in self._transfers:
            await self.backend.close_transfer(transfer)
        for volume in self._volumes:
            await self.backend.delete_volume(volume)

    async def volume(self, files: Mapping[str, bytes] | None = None) -> Volume:
        """Makes a volume with these files."""
        knit_id = str(uuid.uuid4())
        volume = Volume(names.volume(knit_id), knit_id)
        self._volumes.append(volume)
        await self.backend.create_volume(volume)
        if files:
            await self.adapter.write_volume(volume, files)
        return volume

    async def make(
        self,
        *script: str,
        files: Mapping[str, bytes] | None = None,
        command: tuple[str, ...] | None = None,
        log: bool = True,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        memory: str = "256Mi",
    ) -> RunPod:
        """Makes a pod that runs lines of a shell script (or a command), and its volumes."""
        run_id = str(uuid.uuid4())
        pod = RunPod(
            name=names.run_pod(run_id, 1),
            run_id=run_id,
            generation=1,
            plan_id=str(uuid.uuid4()),
            image=image or self.adapter.image,
            inputs=(Mount(INPUT, await self.volume(files)),),
            outputs=(
                Mount(OUTPUT, await self.volume()),
                Mount(OTHER_OUTPUT, await self.volume()),
            ),
            log=await self.volume() if log else None,
            entrypoint=(command or ("sh", "-c", "\n".join(script)))[:1],
            args=(command or ("sh", "-c", "\n".join(script)))[1:],
            resources={"cpu": "1", "memory": memory},
            env=env or {},
        )
        self._launched.append(pod.name)
        return pod

    async def launched(self, *script: str) -> RunPod:
        """Makes and launches a pod."""
        pod = await self.make(*script)
        await self.backend.launch(pod)
        return pod

    async def ran(self, pod: RunPod) -> Observation:
        """Launches a pod and gives how it ended."""
        await self.backend.launch(pod)
        return await self.ended(pod.name)

    def transfer(self, volume: Volume, mode: TransferMode) -> Transfer:
        """Makes the value that describes a transfer."""
        name = names.transfer(volume.knit_id, mode, uuid.uuid4().hex)
        transfer = Transfer(name, volume, mode, token=uuid.uuid4().hex)
        self._transfers.append(transfer)
        return transfer

    async def ended(self, name: str, backend: ComputeBackend | None = None) -> Observation:
        """Waits until a pod has ended."""
        return await self.until(name, lambda seen: seen.phase in (*ENDED, Phase.ABSENT), backend)

    async def running(self, name: str) -> Observation:
        """Waits until a pod runs."""
        return await self.until(name, lambda seen: seen.phase is Phase.RUNNING)

    async def gone(self, name: str) -> Observation:
        """Waits until there is nothing of a pod any more."""
        return await self.until(name, lambda seen: seen.phase is Phase.ABSENT)

    async def until(
        self,
        name: str,
        wanted: Callable[[Observation], bool],
        backend: ComputeBackend | None = None,
    ) -> Observation:
        """Watches until an observation is as wanted."""
        last: Observation | None = None
        try:
            async with asyncio.timeout(self.adapter.patience.total_seconds()):
                async with aclosing((backend or self.backend).watch(name)) as watch:  # type: ignore[type-var]
                    async for seen in watch:
                        last = seen
                        if wanted(seen):
                            return seen
        except TimeoutError as error:
            raise AssertionError(f"the last that was seen is {last}") from error
        raise AssertionError("a watch never ends by itself")

    async def file(self, volume: Volume | None, name: str) -> str:
        """Gives a file of a volume as text; empty when there is none."""
        assert volume is not None
        return (await self.adapter.read_volume(volume)).get(name, b"").decode()

    async def output(self, pod: RunPod, name: str) -> str:
        """Gives a file of a pod's first output as text; empty when there is none."""
        return await self.file(pod.outputs[0].volume, name)

    async def until_output(self, pod: RunPod, name: str) -> str:
        """Waits until a pod has written a file."""
        async with asyncio.timeout(self.adapter.patience.total_seconds()):
            while not (text := await self.output(pod, name)):
                await asyncio.sleep(0.02)
        return text
