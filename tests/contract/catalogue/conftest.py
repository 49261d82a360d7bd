"""Every test runs over each store that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from knit_workflows.settings import StoreSettings
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
    url = await databases.migrated()
    opened = PostgresStore(StoreSettings(url=SecretStr(url), pool_size=16))
    await opened.open()
    yield opened
    await opened.aclose()
    databases.give_back(url)
