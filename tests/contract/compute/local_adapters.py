"""The local back-end under the contract suite: sandboxes of bubblewrap, containers of an engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from knit_workflows.compute.base import ComputeBackend
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import LocalSettings
from tests.contract.compute.adapter import ComputeAdapter, bind_socket, read_folder, write_folder

TOOLS = Path(__file__).parents[3] / "tools"
_APPLETS = ("sh", "cat", "dd", "echo", "env", "mkdir", "printf", "seq", "sleep", "touch", "true")


class LocalHostAdapter(ComputeAdapter):
    """Commands of this machine under bubblewrap."""

    image: ClassVar[str] = "host/contract:1"

    def __init__(self, state: Path) -> None:
        self._state = state
        self._backend = LocalBackend(self._settings())

    def _settings(self) -> LocalSettings:
        return LocalSettings(state=self._state, engine="none")

    @property
    def backend(self) -> ComputeBackend:
        """The back-end under test."""
        return self._backend

    @asynccontextmanager
    async def another(self) -> AsyncIterator[ComputeBackend]:
        """Gives a second object on the state folder."""
        backend = LocalBackend(self._settings())
        await backend.open()
        try:
            yield backend
        finally:
            await backend.aclose()

    async def write_volume(self, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Writes to the volume's folder."""
        write_folder(self._state / "volumes" / volume.name, files)

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
        bind_socket(self._state / "volumes" / volume.name / name)

    async def read_volume(self, volume: Volume) -> dict[str, bytes]:
        """Reads the volume's folder."""
        return read_folder(self._state / "volumes" / volume.name)

    def crash_recipe(self) -> dict[str, object]:
        """The killed process uses the same state folder."""
        return {"state": str(self._state), "engine": "none"}


class LocalEngineAdapter(LocalHostAdapter):
    """Containers of the machine's engine, or of a podman that the tests set up."""

    image: ClassVar[str] = "localhost/knit-contract:1"
    missing_image: ClassVar[str] = "localhost/Knit-Contract/never-made:1"
    kills: ClassVar[int] = 10

    def __init__(self, state: Path, engine: Engine) -> None:
        self._engine = engine
        old_cgroups = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        if old_cgroups and "podman" in engine.command:
            # It does not say OOMKilled there.
            self.out_of_memory = "(container main) killed by signal SIGKILL"
        super().__init__(state)

    def _settings(self) -> LocalSettings:
        return LocalSettings(
            state=self._state,
            engine=self._engine.command,
            environment=self._engine.environment,
            # The tests' machine need not be able to set up networks of containers.
            network=False,
        )

    def crash_recipe(self) -> dict[str, object]:
        """The killed process uses the same state folder and engine."""
        return {
            "state": str(self._state),
            "engine": self._engine.command,
            "environment": dict(self._engine.environment),
            "network": False,
        }


@dataclass(frozen=True)
class Engine:
    """A container engine that runs containers, and the environment it needs."""

    command: str
    environment: Mapping[str, str]


def need_bubblewrap() -> None:
    """Skips when this machine has no bubblewrap and cannot get it."""
    if shutil.which("bwrap") is None:
        _sandbox_tool()
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")


async def need_engine() -> Engine:
    """Gives an engine that has the suite's image; skips, saying why, when there is none."""
    found = await asyncio.to_thread(_sandbox_tool)
    command = found.pop("KNIT_TEST_ENGINE", None)
    if command is None:
        pytest.skip("no container engine answers")
    engine = Engine(command, {**os.environ, **found})
    await asyncio.to_thread(_make_image, engine)
    return engine


def _sandbox_tool() -> dict[str, str]:
    """Has the repository's tool install what it can; gives the environment of an engine."""
    done = subprocess.run(
        [sys.executable, str(TOOLS / "sandbox.py"), "--for-tests"], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tools/sandbox.py failed").splitlines()[-1])
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def _make_image(engine: Engine) -> None:
    """Makes the suite's image of a static busybox, without any registry."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed, so there is no image to run")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [engine.command, *arguments], env=engine.environment, capture_output=True, text=True
        )

    image = LocalEngineAdapter.image
    if run("image", "inspect", image).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "image.tar")
        with tarfile.open(archive, "w") as tar:
            tar.add(busybox, "bin/busybox")
            for applet in _APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            temporary = tarfile.TarInfo("tmp")
            temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(temporary)
        done = run("import", str(archive), image)
    if done.returncode != 0:
        pytest.skip(f"{engine.command} cannot import an image: {done.stderr.strip()[-200:]}")
