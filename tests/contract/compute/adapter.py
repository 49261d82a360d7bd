"""What the compute contract suite needs of a back-end under test, besides the contract itself."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from knit_workflows.compute.base import ComputeBackend, Endpoint, RunPod, Transfer
from knit_workflows.domain.volumes import Volume
from tests.waiting import PATIENCE


class ComputeAdapter(ABC):
    """A back-end, opened, and ways around it to look at its volumes.

    An adapter is opened once per test module and used by many tests, which take fresh names.
    """

    image: ClassVar[str] = "knit/contract:1"
    """An image with a POSIX `sh` and the usual small commands."""
    missing_image: ClassVar[str] = ""
    """An image that is nowhere (with Ability.IMAGES)."""
    unreachable_image: ClassVar[str] = "127.0.0.1:9/knit/contract:1"
    """An image whose registry refuses connections (with Ability.IMAGES)."""
    patience: ClassVar[timedelta] = timedelta(seconds=PATIENCE)
    """The time in which a pod starts, or ends, or goes away, even on a busy machine."""
    kills: ClassVar[int] = 40
    """How many launches are killed at different lines."""
    out_of_memory: str = "(container main) OOMKilled"
    """What is told of a container that was killed for its memory (with Ability.MEMORY_LIMIT)."""

    @property
    @abstractmethod
    def backend(self) -> ComputeBackend:
        """The back-end under test."""

    @abstractmethod
    def another(self) -> AbstractAsyncContextManager[ComputeBackend]:
        """A second object on the same state, as a new process has it (with Ability.OUTLIVES)."""

    @abstractmethod
    async def write_volume(self, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Puts files into an existing volume, past the back-end."""

    @abstractmethod
    async def read_volume(self, volume: Volume) -> dict[str, bytes]:
        """Reads all files of a volume by relative path, past the back-end."""

    @abstractmethod
    def foreign_volume(self, files: Mapping[str, bytes]) -> AbstractAsyncContextManager[str]:
        """A volume with these files that somebody else has made, and removes; gives its name."""

    @abstractmethod
    async def leave_socket(self, volume: Volume, name: str) -> None:
        """Makes a socket in a volume, as a program does that ends without removing its own."""

    async def send(
        self, endpoint: Endpoint, transfer: Transfer, files: Mapping[str, bytes]
    ) -> None:
        """Writes files through the open endpoint of a transfer."""
        write_folder(_folder(endpoint), files)

    async def receive(self, endpoint: Endpoint, transfer: Transfer) -> dict[str, bytes]:
        """Reads all files through the open endpoint of a transfer."""
        return read_folder(_folder(endpoint))

    async def starts(self, pod: RunPod) -> int:
        """How often a pod was started that writes a line into `starts` of its first output."""
        return (await self.read_volume(pod.outputs[0].volume)).get("starts", b"").count(b"\n")

    def crash_recipe(self) -> dict[str, object]:
        """How `crashing_launch.py` builds this back-end in a process to be killed.

        With Ability.HALF_LAUNCHES.
        """
        raise AssertionError("see `abilities.LACKS`")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by relative path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def bind_socket(path: Path) -> None:
    """Makes a socket, and lets go of it; the path may be longer than an address."""
    folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Reads all files by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _folder(endpoint: Endpoint) -> Path:
    parts = urlsplit(endpoint.url)
    assert parts.scheme == "file"
    return Path(unquote(parts.path))
