"""Runs the compute contract suite over every back-end that can be had on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.contract.compute.abilities import is_lacking
from tests.contract.compute.adapter import ComputeAdapter
from tests.contract.compute.local_adapters import (
    LocalEngineAdapter,
    LocalHostAdapter,
    need_bubblewrap,
    need_engine,
)
from tests.contract.compute.memory_adapters import MemoryAdapter
from tests.contract.compute.pods import Pods

_KUBERNETES = "tests.contract.compute.kubernetes_adapter"


def _adapters() -> list[object]:
    engine = pytest.mark.engine
    found: list[object] = [
        "memory",
        pytest.param("local-host", marks=engine),
        pytest.param("local-engine", marks=engine),
    ]
    if importlib.util.find_spec(_KUBERNETES):
        found.append(pytest.param("kubernetes", marks=pytest.mark.cluster))
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what does not apply to a back-end: it is no gap that could be filled."""
    lacking = [item for item in items if is_lacking(item)]
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in set(lacking)]


@asynccontextmanager
async def _made(kind: str, folder: Path) -> AsyncIterator[ComputeAdapter]:
    if kind == "kubernetes":
        module = importlib.import_module(_KUBERNETES)
        # An async context manager that skips with a reason when there is no cluster.
        async with module.kubernetes_adapter(folder) as adapter:
            yield adapter
        return
    match kind:
        case "memory":
            adapter = MemoryAdapter(folder)
        case "local-host":
            need_bubblewrap()
            adapter = LocalHostAdapter(folder)
        case _:
            adapter = LocalEngineAdapter(folder, await need_engine())
    await adapter.backend.open()
    try:
        yield adapter
    finally:
        await adapter.backend.aclose()


@pytest.fixture(scope="module", params=_adapters())
async def adapter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ComputeAdapter]:
    """A back-end under test, opened; it is shared by the tests of a module."""
    async with _made(request.param, tmp_path_factory.mktemp("compute")) as adapter:
        yield adapter


@pytest.fixture
async def pods(adapter: ComputeAdapter) -> AsyncIterator[Pods]:
    """Makes run pods with fresh names and volumes; all are removed afterwards."""
    async with Pods(adapter) as pods:
        yield pods
