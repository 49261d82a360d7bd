"""What the API takes on a store of a million Runs and Data: lists, single things, lineage.

A real process, asked over HTTP, one request after the other.
"""

from __future__ import annotations

import http.client
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import psycopg

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate
from knit_workflows.testing import embedded_postgres
from tests.api.test_processes import NOBODY, api
from tests.bench import million
from tests.bench.figures import figure, percentile

REQUESTS: Final = 200
WARM_UP: Final = 20
LIST: Final = "p99 <= 50"
LINEAGE: Final = "p99 <= 20"
CLOSURE: Final = "p50 <= 150"

# Runs are numbered in the order of time, ten seconds apart.
_NUMBERED: Final = """
WITH numbered AS (
    SELECT run_id, plan_id,
           1000000 - round(extract(epoch FROM max(created_at) OVER () - created_at) / 10) AS n
      FROM run
)
SELECT n::int, numbered.run_id::text, numbered.plan_id::text, data.knit_id::text
  FROM numbered
  JOIN data USING (run_id)
 WHERE n = ANY (%s)
"""


class Million:
    """Ways to ask for things of the data set, drawn by lot but always the same."""

    def __init__(self, url: str) -> None:
        self.dice = random.Random(7)
        wanted = [self.dice.randint(1, million.SIZE) for _ in range(3 * REQUESTS)]
        roots = [million.TREE + 5_000 * turn + 1 for turn in range(80)]
        self.chains = [
            million.CHAIN + 1000 * self.dice.randrange(300) + self.dice.randint(20, 980)
            for _ in range(REQUESTS)
        ]
        self.lattices = [
            million.LATTICE + 400 * self.dice.randrange(500) + self.dice.randint(60, 340)
            for _ in range(REQUESTS)
        ]
        everything = [*wanted, *roots, *self.chains, *self.lattices]
        with psycopg.connect(url) as connection:
            rows = connection.execute(_NUMBERED.encode(), [everything]).fetchall()
        self.runs: dict[int, str] = {row[0]: row[1] for row in rows}
        self.plans = {row[0]: row[2] for row in rows}
        self.data: dict[int, str] = {row[0]: row[3] for row in rows}
        self.numbers = [one for one in wanted if one in self.data]
        self.roots = roots

    def any_of(self, ids: Mapping[int, str]) -> str:
        """Gives the id of a thing drawn by lot."""
        return ids[self.dice.choice(self.numbers)]

    def lists(self) -> dict[str, Callable[[], str]]:
        """The lists: what the figure is called, and the next path to ask for."""
        data, runs, roll = "/api/data?limit=100", "/api/runs?limit=100", self.dice.randrange
        return {
            "page of Data": lambda: f"{data}&cursor={self.any_of(self.data)}",
            "page of Runs": lambda: f"{runs}&cursor={self.any_of(self.runs)}",
            "page of Plans": lambda: f"/api/plans?limit=100&cursor={self.any_of(self.plans)}",
            "Data by a rare tag": lambda: f"{data}&tag=release:r{roll(50_000)}",
            "Data by a common tag": lambda: (
                f"{data}&tag=type:model&cursor={self.any_of(self.data)}"
            ),
            "Data by a tag of one time": lambda: f"{data}&tag=project:p{roll(100, 200)}",
            "Data by two tags": lambda: f"{data}&tag=type:dataset&tag=project:p{roll(200)}",
            "Data by two tags, one rare": lambda: f"{data}&tag=type:model&tag=stage:s{roll(300)}",
            "Data by transient:processing": lambda: f"{data}&tag=knit%23transient:processing",
            "Runs by status": lambda: (
                f"{runs}&status={self.dice.choice(['waiting', 'failed', 'running', 'done'])}"
            ),
            "Runs by Plan": lambda: f"{runs}&plan={self.any_of(self.plans)}",
            "Runs by Plan and status": lambda: (
                f"{runs}&plan={self.any_of(self.plans)}&status=failed,running"
            ),
            "Runs by input": lambda: f"{runs}&knitIdInput={self.any_of(self.data)}",
        }

    def single(self) -> dict[str, Callable[[], str]]:
        """Single things."""
        return {
            "show a Run": lambda: f"/api/runs/{self.any_of(self.runs)}",
            "show a Data": lambda: f"/api/data?tag=knit%23id:{self.any_of(self.data)}",
            "show a Plan": lambda: f"/api/plans/{self.any_of(self.plans)}",
            "history of a Run": lambda: f"/api/runs/{self.any_of(self.runs)}/events",
        }

    def lineages(self) -> dict[str, Callable[[], str]]:
        """Ten hops: a chain both ways, and a lattice (two inputs each) one way; in both forms."""

        def asked(numbers: Sequence[int], way: str) -> Callable[[], str]:
            return lambda: f"/api/data/{self.data[self.dice.choice(numbers)]}/lineage?{way}"

        both = "upstream=10&downstream=10"
        return {
            "lineage of 10 hops, chain": asked(self.chains, both),
            "lineage of 10 hops, chain, ids": asked(self.chains, both + "&fields=ids"),
            "lineage of 10 hops, lattice": asked(self.lattices, "upstream=10"),
            "lineage of 10 hops, lattice, ids": asked(self.lattices, "upstream=10&fields=ids"),
        }

    def closures(self) -> dict[str, Callable[[], str]]:
        """All that came of the root of a tree: some 4,900 Data and as many Runs."""

        def asked(fields: str) -> Callable[[], str]:
            return lambda: (
                f"/api/data/{self.data[self.dice.choice(self.roots)]}/lineage"
                f"?downstream=all{fields}"
            )

        return {
            "closure of 10,000 nodes, ids": asked("&fields=ids"),
            "closure of 10,000 nodes": asked(""),
        }


class Client:
    """One connection that is kept, and little else: what is measured is the server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, (path, body[:500])
        return body

    def time(self, paths: Sequence[str]) -> tuple[list[float], int]:
        """Gives the milliseconds that each took, and the bytes of the largest answer."""
        took, largest = [], 0
        for path in paths:
            began = time.perf_counter()
            body = self.get(path)
            took.append((time.perf_counter() - began) * 1000)
            largest = max(largest, len(body))
        return took, largest


class Processors:
    """The processor time of the API and of its connections to the database.

    Unlike the time on the clock it says the same on a machine that others use too.
    """

    def __init__(self, pid: int, url: str) -> None:
        self._api = psutil.Process(pid)
        self._url = url

    def milliseconds(self) -> tuple[float, float]:
        """Gives the API's and the database's, since some time."""
        with psycopg.connect(self._url) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        backends = [psutil.Process(pid) for (pid,) in rows]
        return _spent([self._api]), _spent(backends)


def _spent(processes: Sequence[psutil.Process]) -> float:
    times = [one.cpu_times() for one in processes]
    return 1000 * sum(one.user + one.system for one in times)


def _measure(
    client: Client,
    processors: Processors,
    asked: Mapping[str, Callable[[], str]],
    target: str,
    requests: int = REQUESTS,
    **more: Any,
) -> None:
    for name, next_path in asked.items():
        client.time([next_path() for _ in range(min(WARM_UP, requests))])
        before = processors.milliseconds()
        took, largest = client.time([next_path() for _ in range(requests)])
        api_ms, database_ms = (
            (now - then) / requests
            for then, now in zip(before, processors.milliseconds(), strict=True)
        )
        figure(
            f"api at 1 M: {name}",
            percentile(took, 0.5),
            "ms",
            target,
            p99=round(percentile(took, 0.99), 1),
            api_cpu=round(api_ms, 1),
            database_cpu=round(database_ms, 1),
            requests=requests,
            largest_bytes=largest,
            **more,
        )


async def at_size() -> None:
    """Fills a store, starts the API on it, and asks."""
    with embedded_postgres() as server:
        _enlarge(server)
        url = server.url("million")
        await migrate(url)
        began = time.perf_counter()
        million.fill(url)
        figure("api at 1 M: the data set", time.perf_counter() - began, "s", "about 60")
        measure(url)


def _enlarge(server: EmbeddedPostgres) -> None:
    """Lets the server keep the data set in memory, as one of this size would."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET shared_buffers = '1GB'")
    server.stop()
    server.start()


def measure(url: str) -> None:
    """Asks an API of its own on this filled store."""
    asked = Million(url)
    environment = {**NOBODY, "KNIT_STORE__URL": url}
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), **environment) as running:
        client = Client(running.url)
        processors = Processors(running.pid, url)
        load = round(os.getloadavg()[0], 1)
        _measure(client, processors, asked.single(), LIST, load=load)
        _measure(client, processors, asked.lists(), LIST, load=load)
        _measure(client, processors, asked.lineages(), LINEAGE, load=load)
        _measure(client, processors, asked.closures(), CLOSURE, 20, load=load)
