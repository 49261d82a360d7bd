"""A database of some size, and work on it, by statements that were right at the first revision."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.errors import DeadlockDetected

from tests.waiting import wait_until

UPLOADED: Final = "00000000-0000-4000-8000-6b6e69740001"
_FILL: Final = """
CREATE TEMP TABLE bulk AS
SELECT n, gen_random_uuid() AS run_id, gen_random_uuid() AS knit_id,
       now() - n * interval '10s' AS at
  FROM generate_series(1, {size}) n;
INSERT INTO run (run_id, plan_id, status, exit_code, exit_message, created_at, updated_at)
SELECT run_id, '{plan}', CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'done' END, 0, '', at, at
  FROM bulk;
INSERT INTO run_event (run_id, generation, at, to_status, cause)
SELECT run_id, 1, at, status, 'test'
  FROM bulk CROSS JOIN (VALUES ('completing'), ('done')) s (status);
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT knit_id, run_id, output_id, 'volume-' || n, at
  FROM bulk, plan_output WHERE plan_id = '{plan}';
INSERT INTO tag (digest, key, value)
SELECT sha256(convert_to('bulk' || n, 'UTF8')), 'bulk', n::text FROM generate_series(0, 99) n;
INSERT INTO data_tag (tag_id, knit_id)
SELECT tag_id, knit_id FROM bulk JOIN tag ON key = 'bulk' AND value::int IN (n % 50, 50 + n % 50);
INSERT INTO transfer (transfer_id, knit_id, mode, token, created_at)
SELECT 'bulk' || n, knit_id, 'read', 'token', at FROM bulk WHERE n <= 50;
DROP TABLE bulk;
"""


def fill(url: str, size: int) -> None:
    """Makes so many Runs, each with a Data and two tags, in a database of any revision."""
    with psycopg.connect(url) as connection:
        connection.execute(_FILL.format(size=size, plan=UPLOADED).encode())
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")


class Traffic:
    """What a running installation does meanwhile, over and over, in a thread per kind.

    `longest`: the longest time of a statement by kind, in seconds; `problems`: what failed;
    `made`: the Runs that were made and finished, each with a Data and a tag.
    """

    def __init__(self, url: str) -> None:
        self.longest: dict[str, float] = {}
        self.problems: list[str] = []
        self.made: list[str] = []
        self._url = url
        self._stopping = threading.Event()
        kinds = (self._runs, self._tags, self._outbox, self._reads)
        self._done = dict.fromkeys((kind.__name__ for kind in kinds), 0)
        self._threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def is_flowing(self) -> None:
        """Returns when each thread has done all that it does, or has failed, once more."""
        before = dict(self._done)
        wait_until(lambda: self.problems or all(self._done[kind] > n for kind, n in before.items()))

    def waits(self) -> dict[str, str]:
        """Gives the longest times in words."""
        return {kind: f"{1000 * seconds:.0f} ms" for kind, seconds in self.longest.items()}

    def _repeat(self, kind: Callable[[_Timed], str | None]) -> None:
        with psycopg.connect(self._url) as connection:
            timed = _Timed(connection)
            try:
                while not self._stopping.is_set():
                    try:
                        with connection.transaction():
                            made = kind(timed)
                        self._done[kind.__name__] += 1
                        self.made += [made] if made else []
                    except DeadlockDetected:
                        continue  # as the store does
                    finally:
                        self.longest[kind.__name__.strip("_")] = timed.longest
                    time.sleep(0.002)
            except psycopg.Error as problem:
                self.problems.append(f"{kind.__name__}: {problem}")

    def _runs(self, do: _Timed) -> str:
        run_id, knit_id = str(uuid.uuid4()), str(uuid.uuid4())
        do(
            "INSERT INTO run (run_id, plan_id, status, created_at, updated_at)"
            " VALUES (%s, %s, 'waiting', now(), now())",
            *(run_id, UPLOADED),
        )
        do(
            "INSERT INTO data (knit_id, run_id, output_id, volume)"
            " SELECT %s, %s, output_id, %s FROM plan_output WHERE plan_id = %s",
            *(knit_id, run_id, run_id, UPLOADED),
        )
        do(
            "WITH cur AS MATERIALIZED (SELECT run_id FROM run WHERE run_id = %s"
            " AND status = 'waiting' AND generation = 1 FOR NO KEY UPDATE)"
            " UPDATE run SET status = 'done', exit_code = 0, exit_message = '', updated_at = now()"
            " FROM cur WHERE run.run_id = cur.run_id",
            run_id,
        )
        do(
            "INSERT INTO run_event (run_id, generation, at, from_status, to_status, cause)"
            " VALUES (%s, 1, now(), 'waiting', 'done', 'traffic')",
            run_id,
        )
        do("UPDATE data SET timestamp = now() WHERE knit_id = %s", knit_id)
        do(
            "INSERT INTO outbox (kind, subject, created_at) VALUES ('data_ready', %s, now())",
            run_id,
        )
        return run_id

    def _tags(self, do: _Timed) -> None:
        [knit_id] = do("SELECT knit_id FROM data ORDER BY timestamp DESC NULLS LAST LIMIT 1")
        do(
            "INSERT INTO tag (digest, key, value) VALUES (sha256('traffic'), 'traffic', '1')"
            " ON CONFLICT (digest) DO NOTHING"
        )
        do(
            "INSERT INTO data_tag (tag_id, knit_id) SELECT tag_id, %s FROM tag"
            " WHERE key = 'traffic' ON CONFLICT DO NOTHING",
            knit_id,
        )

    def _outbox(self, do: _Timed) -> None:
        found = do("SELECT event_id FROM outbox ORDER BY event_id FOR UPDATE SKIP LOCKED LIMIT 1")
        if found:
            do("DELETE FROM outbox WHERE event_id = %s", found[0])

    def _reads(self, do: _Timed) -> None:
        do("SELECT run_id, status, exit_code, updated_at FROM run ORDER BY run_id LIMIT 5")
        do(
            "SELECT data.knit_id, volume, key, value FROM tag JOIN data_tag USING (tag_id)"
            " JOIN data USING (knit_id) WHERE key = 'bulk' AND value = '7' LIMIT 20"
        )
        do("SELECT plan_id, name, repository, image_tag, active FROM plan LIMIT 5")
        do("SELECT transfer_id, knit_id, mode, token, endpoint FROM transfer LIMIT 5")
        do("SELECT at, from_status, to_status, cause FROM run_event ORDER BY event_id DESC LIMIT 5")


class _Timed:
    """Carries out statements; keeps the longest time that one has taken."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.longest = 0.0
        self._connection = connection

    def __call__(self, statement: str, *parameters: object) -> Any:
        begun = time.monotonic()
        cursor = self._connection.execute(statement.encode(), parameters)
        found = cursor.fetchone() if cursor.description else None
        self.longest = max(self.longest, time.monotonic() - begun)
        return found
