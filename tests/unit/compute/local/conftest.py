"""A local back-end on a fresh state folder, and pods for it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from knit_workflows.compute.base import Mount, Observation, RunPod, Volume
from knit_workflows.compute.local import LocalBackend
from knit_workflows.settings import LocalSettings

MakePod = Callable[..., RunPod]


@pytest.fixture
def make_pod() -> MakePod:
    """Makes a pod of a shell script, with an input, an output and a log named after it."""

    def make(script: str, name: str = "pod", **changes: object) -> RunPod:
        values: dict[str, object] = {
            "image": "host/sh:1",
            "inputs": (Mount("/in", Volume(f"{name}-in", "i")),),
            "outputs": (Mount("/out", Volume(f"{name}-out", "o")),),
            "log": Volume(f"{name}-log", "l"),
            "entrypoint": ("sh", "-c", script),
            "resources": {"cpu": "1", "memory": "64Mi"},
        }
        return RunPod(name, "run", 1, "plan", **{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    """Sandboxes only."""
    return LocalSettings(state=tmp_path / "state", engine="none")


@pytest.fixture
async def backend(settings: LocalSettings) -> AsyncIterator[LocalBackend]:
    """A back-end that starts sandboxes; skips where bubblewrap is missing."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")
    backend = LocalBackend(settings)
    await backend.open()
    yield backend
    await backend.aclose()


async def ended(backend: LocalBackend, pod: RunPod) -> Observation:
    """Launches a pod, with its volumes, and gives how it ended, or that it is gone."""
    for volume in (pod.inputs[0].volume, pod.outputs[0].volume, *([pod.log] if pod.log else [])):
        await backend.create_volume(volume)
    await backend.launch(pod)
    return await until(backend, pod.name, "succeeded", "failed", "absent")


async def until(backend: LocalBackend, name: str, *phases: str) -> Observation:
    """Watches a pod until it is in one of these phases."""
    async with aclosing(backend.watch(name)) as watch:
        async for seen in watch:
            if seen.phase in phases:
                return seen
    raise AssertionError("a watch never ends by itself")
