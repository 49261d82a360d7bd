"""Stores on real PostgreSQL, one database per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from tests.postgres import Databases


@pytest.fixture
async def url(databases: Databases) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    one = await databases.migrated()
    yield one
    databases.give_back(one)


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(StoreSettings(url=SecretStr(url), pool_size=16))
    await opened.open()
    yield opened
    await opened.aclose()
