"""A second PostgreSQL server that follows a first one and takes its place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg

from knit_workflows.embedded import EmbeddedPostgres
from tests.waiting import wait_until


class Standby:
    """A hot standby of a running server, on a folder beside its own.

    It has a socket in that folder, and listens on `address` if there is one.
    """

    def __init__(self, folder: Path, *, address: str = "", port: int = 5432) -> None:
        self.folder = folder
        self._address = address
        self._port = port
        self._server: EmbeddedPostgres | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def follow(self, primary: EmbeddedPostgres, port: int = 5432) -> None:
        """Copies the primary, follows it, and has it wait for each commit to arrive here."""
        program, _, data, *_, sockets = primary.command()
        self.folder.mkdir(mode=0o700)
        owner = Path(data).stat()
        os.chown(self.folder, owner.st_uid, owner.st_gid)
        as_server = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        copy = Path(program).with_name("pg_basebackup")
        source = ("-h", sockets, "-p", str(port), "-U", "postgres")
        subprocess.run(
            [copy, "-D", self.folder, "-R", *source, "-c", "fast"],
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
        *_, folder = self._server.command()
        assert Path(folder) == self.folder
        listening = [self._address if word == "" else word for word in self._server.command()]
        self._process = subprocess.Popen(
            [*listening, "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **(as_server if os.geteuid() == 0 else {}),
        )
        address = primary.address("postgres")
        with psycopg.connect(address, port=port, autocommit=True) as connection:
            streaming = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"
            wait_until(lambda: connection.execute(streaming).rowcount == 1)
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            synced = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: connection.execute(synced).rowcount == 1)

    def promote(self) -> None:
        """Makes it the primary."""
        assert self._server is not None
        address = self._server.address("postgres")
        with psycopg.connect(address, port=self._port, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    def end(self) -> None:
        """Ends it; never started: fine."""
        if self._server is not None:
            self._server.clear()
        if self._process is not None:
            self._process.wait()
