"""What each revision of the database costs those who work with one of a million Runs.

The database is filled at the first revision and brought to the newest step by step, each as
`python -m knit_workflows.store` does it. Meanwhile one connection reads and another one writes rows
of the large tables, one after the other, and says for how long it was kept waiting.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory

from knit_workflows.store import migrations
from knit_workflows.store.migrations.upgrade import upgrade
from knit_workflows.testing import embedded_postgres
from tests.bench import million
from tests.bench.figures import figure

FOLDER: Final = Path(migrations.__file__).parent
TABLES: Final = {"run": "run_id", "data": "knit_id", "plan": "plan_id", "run_event": "run_id"}
_LOCKS: Final = """
SELECT c.relname, l.mode
  FROM pg_locks l
  JOIN pg_class c ON c.oid = l.relation
 WHERE l.granted AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock')
   AND l.pid <> pg_backend_pid()
"""


def all_revisions() -> list[str]:
    """Gives them, the oldest first."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    return [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]


class Probe:
    """Reads or writes a row of each table again and again; keeps the longest time of each."""

    def __init__(self, url: str, verb: str) -> None:
        self.longest = dict.fromkeys(TABLES, 0.0)
        self._url, self._verb = url, verb
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _work(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            keys = {
                table: connection.execute(f"SELECT {key} FROM {table} LIMIT 1").fetchone()
                for table, key in TABLES.items()
            }
            while not self._stopping.is_set():
                for table, key in TABLES.items():
                    read = f"SELECT 1 FROM {table} WHERE {key} = %s"
                    write = f"UPDATE {table} SET {key} = {key} WHERE {key} = %s"
                    begun = time.monotonic()
                    connection.execute(read if self._verb == "read" else write, keys[table])
                    taken = time.monotonic() - begun
                    self.longest[table] = max(self.longest[table], taken)
                time.sleep(0.002)


class Locks:
    """Looks which locks are held on tables, by the upgrade."""

    def __init__(self, url: str) -> None:
        self.seen: dict[str, str] = {}
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def _work(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stopping.is_set():
                for table, mode in connection.execute(_LOCKS):
                    if self.seen.get(table) != "AccessExclusiveLock":
                        self.seen[table] = mode
                time.sleep(0.005)


@dataclass(frozen=True)
class Cost:
    """What a revision took, in seconds, and for how long it kept others waiting, by table."""

    took: float
    reads: dict[str, float]
    writes: dict[str, float]
    locks: dict[str, str]
    """The strongest mode that was seen, by table."""

    @property
    def longest(self) -> float:
        """The longest that anybody waited."""
        return max(*self.reads.values(), *self.writes.values())

    def figure(self, revision: str) -> None:
        """Prints it."""
        figure(
            f"upgrade_to_{revision}",
            self.took,
            "s",
            "-",
            read_waited_ms={table: round(waited * 1000) for table, waited in self.reads.items()},
            write_waited_ms={table: round(waited * 1000) for table, waited in self.writes.items()},
            locks=self.locks,
        )


def step(url: str, revision: str) -> Cost:
    """Brings the database to the next revision, and measures what that costs."""
    reading, writing, locks = Probe(url, "read"), Probe(url, "write"), Locks(url)
    with reading.at_work(), writing.at_work(), locks.watched():
        time.sleep(0.3)  # so that the probes are at work
        begun = time.monotonic()
        upgrade(url, lock=1, folder=FOLDER, revision=revision)
        took = time.monotonic() - begun
    return Cost(took, reading.longest, writing.longest, dict(sorted(locks.seen.items())))


@contextmanager
def million_runs_at(revision: str) -> Iterator[str]:
    """Gives the URL of a database of that revision with a million Runs, on a server of its own."""
    with embedded_postgres() as server:
        url = server.url("bench_upgrades")
        upgrade(url, lock=1, folder=FOLDER, revision=revision)
        begun = time.monotonic()
        million.fill(url, stamped=False)
        sys.stderr.write(f"filled in {time.monotonic() - begun:.0f} s\n")
        yield url


async def upgrades() -> None:
    """Measures every revision after the first, on a million Runs."""
    first, *later = all_revisions()
    with million_runs_at(first) as url:
        for revision in later:
            step(url, revision).figure(revision)


if __name__ == "__main__":
    asyncio.run(upgrades())
