"""Migrations: they arrive at `tables`, may be repeated, and are asked for when missing."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import create_engine

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, migrate, migrations
from knit_workflows.store.tables import metadata
from tests.postgres import Databases


def opened(url: str) -> PostgresStore:
    return PostgresStore(StoreSettings(url=SecretStr(url)))


def test_the_migrations_arrive_at_the_tables(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_revision_a_store_asks_for_is_the_newest() -> None:
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0])
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.REVISION


async def test_migrating_at_once_and_again_is_fine(databases: Databases) -> None:
    url = databases.empty()
    await asyncio.gather(*(migrate(url) for _ in range(3)))
    await migrate(url)
    with psycopg.connect(url) as connection:
        plans = connection.execute("SELECT name FROM plan ORDER BY name").fetchall()
    assert plans == [("knit#imported",), ("knit#uploaded",)]
    databases.drop(url)


async def test_a_store_on_an_empty_database_asks_for_the_migrations(databases: Databases) -> None:
    url = databases.empty()
    store = opened(url)
    with pytest.raises(StoreUnavailable) as failure:
        await store.open()
    assert "migrations" in failure.value.advice
    await store.aclose()
    databases.drop(url)


async def test_a_store_refuses_tables_of_another_revision(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    store = opened(url)
    with pytest.raises(StoreUnavailable, match="9999"):
        await store.open()
    await store.aclose()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    store = opened("postgresql://127.0.0.1:1/nowhere")
    with pytest.raises(StoreUnavailable):
        await store.open()
    with pytest.raises(StoreUnavailable):
        await migrate("postgresql://127.0.0.1:1/nowhere")
