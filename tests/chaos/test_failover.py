"""The primary of two PostgreSQL servers dies while Runs are under way, and its standby is promoted.

knit has the addresses of both, as libpq takes them; the commits are replicated synchronously.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate
from tests.chaos.test_outages import (
    Answers,
    all_end_by_themselves,
    assert_all_json,
    installation,
    under_way,
)
from tests.e2e.stack import dev_folder
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

AWAY: Final = 5.0
"""Seconds until somebody promotes the standby."""


class Standby:
    """A hot standby of a running server, on a folder beside its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: EmbeddedPostgres | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self, primary: EmbeddedPostgres) -> None:
        """Copies the primary, follows it, and has it wait for each commit to arrive here."""
        program, _, data, *_, sockets = primary.command()
        self.folder.mkdir(mode=0o700)
        owner = Path(data).stat()
        os.chown(self.folder, owner.st_uid, owner.st_gid)
        as_server = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        copy = Path(program).with_name("pg_basebackup")
        subprocess.run(
            [copy, "-D", self.folder, "-R", "-h", sockets, "-U", "postgres", "-c", "fast"],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **(as_server if os.geteuid() == 0 else {}),
        )
        # The primary has its sockets in its folder: their lock, which names it, is copied too.
        for lock in self.folder.glob(".s.PGSQL.*.lock"):
            lock.unlink()
        self._server = EmbeddedPostgres(self.folder)
        self._server.prepare()
        self._server.before_start()
        assert Path(self._server.command()[-1]) == self.folder
        self._process = subprocess.Popen(
            self._server.command(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **(as_server if os.geteuid() == 0 else {}),
        )
        with psycopg.connect(primary.address("postgres"), autocommit=True) as connection:
            streaming = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"
            wait_until(lambda: connection.execute(streaming).rowcount == 1)
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            synced = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: connection.execute(synced).rowcount == 1)

    def promote(self) -> None:
        assert self._server is not None
        with psycopg.connect(self._server.address("postgres"), autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def end(self) -> None:
        if self._server is not None:
            self._server.clear()
        if self._process is not None:
            self._process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    with dev_folder() as found:
        yield found


async def test_runs_go_on_at_the_standby_that_is_promoted(folder: Path) -> None:
    """Nothing is restarted: worker and API find the new primary by themselves."""
    standby = Standby(folder / "standby")
    both = (
        f"postgresql://postgres@/knit?host={folder / 'pg'},{standby.folder}"
        "&target_session_attrs=read-write"
    )
    try:
        async with installation(folder, KNIT_STORE__URL=both) as knit:
            await asyncio.to_thread(standby.follow, knit.postgres)
            plan, after = await under_way(knit, "outage:failover")
            for process in knit.postgres.processes():
                process.kill()
            knit.let_go()  # their ends fall between the two
            answers = Answers(knit, "outage:failover")
            await answers.during(AWAY, all_refused=True)
            begun = time.monotonic()
            await asyncio.to_thread(standby.promote)
            await migrate(both)  # as an upgrade would: there is nothing to do
            await all_end_by_themselves(knit, plan, after)
            print(f"{time.monotonic() - begun:.1f} s from the promotion to the end of all Runs")
            await answers.nothing_came_of_refusals()
            assert (await knit.push("outage:after")).status_code == 200
            assert_all_json(knit.worker.log)
    finally:
        standby.end()
