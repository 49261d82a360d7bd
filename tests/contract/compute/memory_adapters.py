"""The in-memory back-end under the contract suite: pods are shell commands of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from knit_workflows.compute.base import ComputeBackend, RunPod
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.domain.runs.run import SUCCEEDED, Exit
from knit_workflows.domain.volumes import Volume
from tests.contract.compute.adapter import ComputeAdapter, bind_socket, read_folder, write_folder


class MemoryAdapter(ComputeAdapter):
    """Nothing outlives the object."""

    def __init__(self, folder: Path) -> None:
        shell = Shell()
        shell.backend = self._backend = MemoryBackend(shell.run, folder=folder)

    @property
    def backend(self) -> ComputeBackend:
        """The back-end under test."""
        return self._backend

    def another(self) -> AbstractAsyncContextManager[ComputeBackend]:
        """There is none."""
        raise AssertionError("see `abilities.LACKS`")

    async def write_volume(self, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Writes to the volume's folder."""
        write_folder(self._backend.folder(volume), files)

    @asynccontextmanager
    async def foreign_volume(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        """Makes a temporary folder."""
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made, "theirs").resolve()
            folder.mkdir()
            write_folder(folder, files)
            yield str(folder)

    async def leave_socket(self, volume: Volume, name: str) -> None:
        """Makes it in the volume's folder."""
        bind_socket(self._backend.folder(volume) / name)

    async def read_volume(self, volume: Volume) -> dict[str, bytes]:
        """Reads the volume's folder."""
        return read_folder(self._backend.folder(volume))


class Shell:
    """A behaviour that runs a pod's command here, its mountpoints replaced by folders."""

    backend: MemoryBackend

    async def run(self, pod: RunPod) -> Exit:
        """Runs the command to its end; cancelled, kills it with all its children."""
        log = self.backend.folder(pod.log) / "log" if pod.log else Path(os.devnull)
        words = [self._localized(pod, word) for word in (*pod.entrypoint, *pod.args)]
        with log.open("ab") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env={"PATH": os.defpath, **pod.env},
                )
            except FileNotFoundError as error:
                return Exit(127, f"(container main) {error}")
        try:
            code = await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if code < 0:
            return Exit(128 - code, f"(container main) killed by {signal.Signals(-code).name}")
        return Exit(code, "(container main) Error") if code else SUCCEEDED

    def _localized(self, pod: RunPod, word: str) -> str:
        for mount in (*pod.inputs, *pod.outputs):
            word = word.replace(mount.path, str(self.backend.folder(mount.volume)))
        return word
