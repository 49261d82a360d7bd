"""How long `knit admin verify` takes for 100,000 Data: as many rows, volumes and hashed edges."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psycopg

from knit_workflows import names
from knit_workflows.store import migrate
from knit_workflows.testing import embedded_postgres, temporal
from tests.bench.figures import figure

DATA: Final = 100_000
"""Half of them uploads, each of which one Run has used that made one of the other half."""

_FILL: Final = """
CREATE TEMP TABLE bulk AS
SELECT n, gen_random_uuid() AS upload, gen_random_uuid() AS given,
       gen_random_uuid() AS run, gen_random_uuid() AS made
  FROM generate_series(1, %(half)s) n;
INSERT INTO plan (plan_id, identity_hash, repository, image_tag, created_at)
VALUES (gen_random_uuid(), 'bench', 'registry.example/team/stage', 'v1', now());
INSERT INTO plan_input (plan_id, position, path, tag_count)
SELECT plan_id, 0, '/in', 1 FROM plan WHERE identity_hash = 'bench';
INSERT INTO plan_output (plan_id, position, path)
SELECT plan_id, 1, '/out' FROM plan WHERE identity_hash = 'bench';
INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
SELECT upload, plan_id, 'done', now() - interval '1 h', now() - interval '1 h'
  FROM bulk, plan WHERE name = 'knit#uploaded';
INSERT INTO run (run_id, plan_id, assignment_hash, status, created_at, updated_at)
SELECT run, plan_id, sha256(convert_to('[[0, "' || given || '"]]', 'UTF8')), 'done',
       now() - interval '1 h', now() - interval '1 h'
  FROM bulk, plan WHERE identity_hash = 'bench';
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT given, upload, output_id, 'data-knitid-' || given, now()
  FROM bulk, plan_output WHERE path = '/upload' UNION ALL
SELECT made, run, output_id, 'data-knitid-' || made, now()
  FROM bulk, plan_output WHERE path = '/out';
INSERT INTO run_input (run_id, input_id, knit_id)
SELECT run, input_id, given FROM bulk, plan_input WHERE path = '/in';
ANALYZE;
"""


def _fill(url: str, volumes: Path) -> None:
    volumes.mkdir(parents=True)
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(_FILL, {"half": DATA // 2})
        for (knit_id,) in connection.execute("SELECT knit_id FROM data"):
            (volumes / names.volume(str(knit_id))).mkdir()


async def verify() -> None:
    """Fills a database and a folder of volumes, and verifies them as the command does."""
    with embedded_postgres() as server, tempfile.TemporaryDirectory() as folder:
        url = server.url("knit")
        await migrate(url)
        await asyncio.to_thread(_fill, url, Path(folder) / "volumes")
        async with temporal() as client:
            environment = {
                **os.environ,
                "KNIT_STORE__URL": url,
                "KNIT_COMPUTE__KIND": "local",
                "KNIT_COMPUTE__LOCAL__STATE": folder,
                "TEMPORAL_ADDRESS": client.service_client.config.target_host,
                "TEMPORAL_NAMESPACE": client.namespace,
            }
            for _ in range(3):
                await asyncio.to_thread(_measure, environment)


def _measure(environment: dict[str, str]) -> None:
    began = time.monotonic()
    read, write = os.pipe()
    command = [sys.executable, "-m", "knit_workflows.inspection.verify"]
    pid = os.posix_spawn(
        command[0], command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with os.fdopen(read) as printed:
        lines = [json.loads(line) for line in printed]
    _, _, used = os.wait4(pid, 0)
    findings = [one["finding"]["subject"] for one in lines if "finding" in one]
    figure(
        f"verify of {DATA:,} Data",
        time.monotonic() - began,
        "s",
        "<= 60",
        cpu_seconds=round(used.ru_utime + used.ru_stime, 2),
        peak_mib=round(used.ru_maxrss / 1024),
        counted=lines[-1].get("counted"),
        findings=findings,
    )
