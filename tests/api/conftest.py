"""One app per test, on a store in memory and volumes that are folders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy, Timeouts
from knit_api.server.sockets import DetachableProtocol
from tests.api.access import enforced, nobody_asks, with_token
from tests.api.fake_transfers import FakeTransfers
from tests.api.live_server import serving
from tests.memory_store import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def transfers(store: MemoryStore, tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(store, tmp_path / "volumes")


@pytest.fixture
def timeouts() -> Timeouts:
    """Tests that wait for one of them override it, or are parametrized with another value."""
    return Timeouts()


@pytest.fixture
def linger_timeout() -> float:
    """As above, for the server behind `port`."""
    return DetachableProtocol.linger_timeout


@pytest.fixture
async def deps(
    store: MemoryStore, transfers: FakeTransfers, timeouts: Timeouts
) -> AsyncIterator[Deps]:
    deps = Deps(
        store=Lazy.of(store),
        transfers=Lazy.of(transfers),
        accounts=enforced(store),
        lease=timedelta(minutes=5),
        timeouts=timeouts,
    )
    yield deps
    await deps.aclose()


@pytest.fixture
def set_lease(deps: Deps) -> Callable[[float], None]:
    """Sets how many seconds a transfer may be silent; else no test comes near the end of it."""
    return lambda seconds: object.__setattr__(deps, "lease", timedelta(seconds=seconds))


@pytest.fixture(scope="session")
def one_app() -> FastAPI:
    """Made once, since that takes a quarter of a second; it holds nothing but its `deps`."""
    return create_app(Deps(Lazy.of(MemoryStore()), Lazy.of(None), nobody_asks()))


@pytest.fixture
def app(one_app: FastAPI, deps: Deps) -> FastAPI:
    one_app.state.deps = deps
    return one_app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(with_token(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield client


@pytest.fixture
async def port(app: FastAPI, linger_timeout: float) -> AsyncIterator[int]:
    """The same app behind a real socket."""
    async with serving(with_token(app), linger_timeout=linger_timeout) as port:
        yield port
