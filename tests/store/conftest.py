"""Stores on real PostgreSQL, one database per test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from knit_workflows.store import PostgresStore
from tests.postgres import Databases


@pytest.fixture
async def store_and_url(databases: Databases) -> AsyncIterator[tuple[PostgresStore, str]]:
    async with databases.store() as both:
        yield both


@pytest.fixture
def url(store_and_url: tuple[PostgresStore, str]) -> str:
    """A migrated database of the test's own."""
    return store_and_url[1]


@pytest.fixture
def store(store_and_url: tuple[PostgresStore, str]) -> PostgresStore:
    """The store on it."""
    return store_and_url[0]
