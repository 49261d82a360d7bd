"""Every test runs over each store that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from knit_workflows.store import PostgresStore
from tests.memory_store import MemoryStore
from tests.postgres import Databases

AnyStore = PostgresStore | MemoryStore


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AnyStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    databases: Databases = request.getfixturevalue("databases")
    async with databases.store() as (opened, _):
        yield opened
