"""An API whose database has been upgraded beyond it says so, and ends."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import psycopg
import pytest

from knit_api.schema_watch import SchemaWatch
from knit_workflows.domain.errors import StoreIsNewer, StoreMismatch, StoreUnavailable
from knit_workflows.store.migrations import REVISION
from tests.api.test_processes import NOBODY, api
from tests.postgres import Databases
from tests.waiting import PATIENCE

TOLD = (
    f"the database has its tables in revision 9999, this knit needs revision {REVISION}; "
    "this knit is older than its database: start the newer one"
)


class Scripted:
    """A store whose `open` raises one error after the other."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    async def open(self) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error

    async def get(self) -> Scripted:
        return self


async def test_only_a_newer_database_ends_it(monkeypatch) -> None:
    """Not one that is away, nor one that is to be migrated still."""
    monkeypatch.setattr("knit_api.schema_watch.LOOKS_EVERY", 0)
    newer = StoreIsNewer("it is newer", advice="start another")
    store = Scripted(None, StoreUnavailable(), StoreMismatch("it is older"), None, newer)
    watch = SchemaWatch()
    await watch.follow(store.get)  # type: ignore[arg-type]
    assert watch.reason == "it is newer; start another"
    assert store.errors == []


async def test_probes_fail_in_words_before_it_leaves(client, deps) -> None:
    """Both, so that nobody is sent here any more."""
    deps.schema.reason = "the database is newer"
    for path in ("/healthz", "/readyz"):
        answer = await client.get(f"http://api.test{path}")
        assert answer.status_code == 503
        assert answer.json()["message"]["reason"] == (
            "this process is ending: the database is newer"
        )
        assert answer.headers["Retry-After"]


@pytest.mark.patient
async def test_it_ends_when_its_database_has_been_upgraded(
    databases: Databases, tmp_path: Path
) -> None:
    """Another one that starts then ends at once, whatever else is away."""
    url = await databases.migrated()
    try:
        await asyncio.to_thread(upgrade_beneath, url, tmp_path)
    finally:
        databases.drop(url)


def upgrade_beneath(url: str, folder: Path) -> None:
    environment = {**NOBODY, "KNIT_STORE__URL": url}
    with (
        api(folder, **environment) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client,
    ):
        running.waits_for("store")
        assert client.get("/healthz").status_code == 200
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "COMMENT ON TABLE alembic_version IS 'serves programs from revision 9999 on'"
            )
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        until = time.monotonic() + PATIENCE
        while client.get("/healthz").status_code == 200 and time.monotonic() < until:
            time.sleep(0.2)
        assert TOLD in client.get("/readyz").json()["message"]["reason"]
        assert running.process.wait(PATIENCE) == 1
        said = [json.loads(line) for line in running.log.read_text().splitlines()]
        assert [one["message"] for one in said if one.get("action") == "api_ended"] == [
            f"API ended: {TOLD}"
        ]
    with api(folder, **environment) as again:
        assert again.process.wait(PATIENCE) == 1
