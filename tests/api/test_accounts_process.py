"""Accounts with real parts: a process on a database, as its application role, and its log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from knit_workflows.domain.accounts.tokens import digest_of, new_token
from knit_workflows.store import migrate
from tests.api.test_processes import NOBODY, api
from tests.postgres import Databases
from tests.waiting import PATIENCE


@pytest.mark.patient
async def test_from_the_bootstrap_token_to_a_revoked_one(databases: Databases, tmp_path: Path):
    """Nothing that the process writes has a token in it, nor has the database."""
    owner, role = databases.empty(), f"app_{uuid4().hex[:8]}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'sesame'")
    await migrate(owner, application_role=role)
    parts = urlsplit(owner)
    host = parts.netloc.rpartition("@")[2]
    first = new_token()
    environment = {
        **NOBODY,
        "KNIT_STORE__URL": parts._replace(netloc=f"{role}:sesame@{host}").geturl(),
        "KNIT_ACCOUNTS__REQUIRED": "true",
        "KNIT_ACCOUNTS__BOOTSTRAP_TOKEN_SHA256": digest_of(first),
        "KNIT_LOG_LEVEL": "DEBUG",
    }
    second = await asyncio.to_thread(_use, tmp_path, environment, first)
    said = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert "token_made" in said
    with psycopg.connect(owner, autocommit=True) as connection:
        rows = connection.execute("SELECT t::text FROM token t").fetchall()
        rows += connection.execute("SELECT a::text FROM audit a").fetchall()
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")
    assert len(rows) > 4
    for secret in (first, second):
        assert secret[12:] not in said + str(rows)
    databases.drop(owner)


def _use(folder: Path, environment: dict[str, str], first: str) -> str:
    with (
        api(folder, **environment) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client,
    ):
        running.waits_for("store")
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/data").status_code == 401
        admin = {"Authorization": f"Bearer {first}"}
        asked = {"name": "ci", "role": "editor"}
        made = client.post("/api/tokens", json=asked, headers=admin).json()
        second: str = made["token"]
        mine = {"Authorization": f"Bearer {second}"}
        assert client.get("/api/whoami", headers=mine).json()["name"] == "ci"
        assert client.delete(f"/api/runs/{uuid4()}", headers=mine).status_code == 404
        assert client.get("/api/audit", headers=mine).status_code == 403
        client.delete(f"/api/tokens/{made['tokenId']}", headers=admin)
        assert client.get("/api/whoami", headers=mine).status_code == 401
        seen = client.get("/api/audit", headers=admin).json()
        assert [(one["actor"], one["method"], one["status"]) for one in seen] == [
            ("bootstrap", "DELETE", 200),
            ("ci", "DELETE", 404),
            ("bootstrap", "POST", 200),
        ]
        assert seen[2]["targets"] == {"token_id": made["tokenId"], "name": "ci"}
        return second


@pytest.mark.patient
async def test_an_old_and_a_new_process_side_by_side(databases: Databases, tmp_path: Path):
    """As in a rolling upgrade in which the first token is replaced, too."""
    url = await databases.migrated()
    try:
        await asyncio.to_thread(_side_by_side, url, tmp_path)
    finally:
        databases.drop(url)


def _side_by_side(url: str, folder: Path) -> None:
    first, replaced = new_token(), new_token()
    common = {**NOBODY, "KNIT_STORE__URL": url, "KNIT_ACCOUNTS__REQUIRED": "true"}
    setting = "KNIT_ACCOUNTS__BOOTSTRAP_TOKEN_SHA256"
    for name in ("old", "new"):
        (folder / name).mkdir()
    # A connection that is not used for five seconds may be closed at the moment when it is.
    few = httpx.Limits(max_keepalive_connections=0)
    asking: Any = {"trust_env": False, "timeout": PATIENCE, "limits": few}
    with (
        api(folder / "old", **common, **{setting: digest_of(replaced)}) as old,
        api(folder / "new", **common, **{setting: digest_of(first)}) as new,
        httpx.Client(base_url=f"{old.url}/api", **asking) as of_old,
        httpx.Client(base_url=f"{new.url}/api", **asking) as of_new,
    ):
        old.waits_for("store")
        new.waits_for("store")
        before, after = ({"Authorization": f"Bearer {one}"} for one in (replaced, first))
        # The first token belongs to a process, and not to the database.
        assert of_old.get("/whoami", headers=after).status_code == 401
        assert of_new.get("/whoami", headers=before).status_code == 401
        asked = {"name": "ci", "role": "editor"}
        made = of_old.post("/tokens", json=asked, headers=before).json()
        assert of_new.post("/tokens", json=asked, headers=after).status_code == 409
        mine = {"Authorization": f"Bearer {made['token']}"}
        for client in (of_old, of_new):
            assert client.get("/whoami", headers=mine).json()["name"] == "ci"
        assert of_new.delete(f"/tokens/{made['tokenId']}", headers=after).status_code == 200
        assert of_new.get("/whoami", headers=mine).status_code == 401
        until = time.monotonic() + PATIENCE
        while of_old.get("/whoami", headers=mine).status_code == 200:  # five seconds at most
            assert time.monotonic() < until
            time.sleep(0.2)
        for client, headers in ((of_old, before), (of_new, after)):
            seen = client.get("/audit", headers=headers).json()
            assert [(one["method"], one["status"]) for one in seen] == [
                ("DELETE", 200),
                ("POST", 409),
                ("POST", 200),
            ]
