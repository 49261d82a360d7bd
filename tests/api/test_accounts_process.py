"""Accounts with real parts: a process on a database, as its application role, and its log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from knit_workflows.domain.tokens import digest_of, new_token
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
