"""Connections: what is retried, what is unavailable, what is a bug; nothing is left half done."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from knit_workflows.disk import RESERVE_BYTES, DiskSpace, Reserve
from knit_workflows.domain.errors import StoreFull, StoreUnavailable
from knit_workflows.metrics.instruments import (
    DATABASE_CONNECTIONS,
    DATABASE_LIMIT,
    DATABASE_WAITING,
)
from knit_workflows.store import connection
from knit_workflows.store.connection import Database, Session, unavailable
from tests.chaos.campaign.links import Link, to_socket
from tests.postgres import Databases
from tests.store.build import fetch
from tests.waiting import PATIENCE, until

KILL_OTHERS = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"  # waits until they are gone
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def url(databases: Databases) -> Iterator[str]:
    """An empty database: its tables are the tests' own."""
    one = databases.empty()
    yield one
    databases.drop(one)


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    fetch(url, "CREATE TABLE count (id int PRIMARY KEY, n int NOT NULL CHECK (n >= 0))")
    fetch(url, "INSERT INTO count VALUES (1, 0), (2, 0)")
    database = Database(url, 4)
    yield database
    await database.aclose()


async def bump(session: Session, number: int = 1) -> None:
    await session.do("UPDATE count SET n = n + 1 WHERE id = %(id)s", {"id": number})


def counts(url: str) -> list[int]:
    return [row["n"] for row in fetch(url, "SELECT n FROM count ORDER BY id")]


@pytest.mark.patient
async def test_a_connection_that_died_idle_is_replaced(db: Database, url: str) -> None:
    await asyncio.gather(*(db.row("SELECT pg_sleep(0.05)") for _ in range(4)))
    fetch(url, KILL_OTHERS)
    await db.transaction(bump)
    assert counts(url) == [1, 0]
    fetch(url, KILL_OTHERS)
    assert (await db.row("SELECT 1 AS one")).one == 1


ADD_ONE = "UPDATE count SET n = n + 1 WHERE id = %(id)s RETURNING n"


async def test_what_is_read_in_several_statements_is_of_one_instant(db: Database, url: str) -> None:
    """So nothing that is there is missed because it moves, and nothing fits not together."""

    async def read(session: Session) -> list[int]:
        first = await session.row("SELECT n FROM count WHERE id = 1")
        fetch(url, "UPDATE count SET n = n + 1")
        second = await session.row("SELECT n FROM count WHERE id = 2")
        return [first.n, second.n]

    assert await db.reading(read) == [0, 0]
    assert await db.reading(read) == [1, 1]
    await db.transaction(bump)  # the next work sees the present again
    assert counts(url) == [3, 2]


async def test_statements_that_are_sent_together_are_one_transaction(
    db: Database, url: str
) -> None:
    """Each sees what those before it have done; one that fails takes all back."""
    both = "SELECT sum(n) AS n FROM count"
    one, other, none, total = await db.together(
        [
            (ADD_ONE, {"id": 1}),
            (ADD_ONE, {"id": 2}),
            ("DELETE FROM count WHERE id = 3", None),
            (both, None),
        ]
    )
    assert [one[0].n, other[0].n, none, total[0].n] == [1, 1, [], 2]
    with pytest.raises(psycopg.errors.CheckViolation):
        await db.together([(ADD_ONE, {"id": 1}), ("UPDATE count SET n = -1 WHERE id = 2", None)])
    assert counts(url) == [1, 1]
    for _ in range(10):  # prepared by then
        await db.together([(ADD_ONE, {"id": 1}), (ADD_ONE, {"id": 2})])
    assert counts(url) == [11, 11]


@pytest.fixture
async def narrow(db: Database, url: str) -> AsyncIterator[Database]:
    """One connection, on which `ADD_ONE` will be prepared the next time."""
    database = Database(url, 1)
    for _ in range(5):
        await database.do(ADD_ONE, {"id": 2})
    yield database
    await database.aclose()


@pytest.mark.patient
async def test_a_statement_that_was_passed_over_is_not_taken_for_prepared(
    url: str, narrow: Database
) -> None:
    """After one that fails the server passes over the rest, which psycopg has counted already."""
    fails = ("SELECT 1 / n FROM count WHERE id = 1", None)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await narrow.together([fails, (ADD_ONE, {"id": 2})])
    await narrow.do(ADD_ONE, {"id": 2})
    assert counts(url) == [0, 6]


@pytest.mark.patient
async def test_nor_is_one_of_a_call_that_was_cancelled(url: str, narrow: Database) -> None:
    waits = ("SELECT pg_sleep(1000)", None)
    at_work = "SELECT 1 FROM pg_stat_activity WHERE query = %s AND state = 'active'"
    cancelled = asyncio.create_task(narrow.together([waits, (ADD_ONE, {"id": 2})]))
    await until(lambda: fetch(url, at_work, waits[0]))
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await narrow.do(ADD_ONE, {"id": 2})
    assert counts(url) == [0, 6]


@pytest.mark.patient
async def test_statements_sent_together_on_a_connection_that_died_idle_go_over_another(
    db: Database, url: str
) -> None:
    await db.together([(ADD_ONE, {"id": 1})])
    fetch(url, KILL_OTHERS)
    await db.together([(ADD_ONE, {"id": 1}), (ADD_ONE, {"id": 2})])
    assert counts(url) == [2, 1]


@asynccontextmanager
async def over_tcp(url: str) -> AsyncIterator[tuple[Link, str]]:
    """Gives a proxy in front of the server, and the URL of the same database behind it."""
    with psycopg.connect(url) as one:
        socket_file = f"{one.info.host}/.s.PGSQL.{one.info.port}"
    link = Link("store", to_socket(socket_file))
    await link.open()
    try:
        yield link, f"postgresql://postgres@127.0.0.1:{link.port}{urlsplit(url).path}"
    finally:
        await link.aclose()


async def test_a_server_that_vanishes_is_missed_soon(url: str) -> None:
    """Its machine is gone, or a router has forgotten the connection: nobody says so.

    The kernel finds out, by keepalives while nothing is sent, by their absent acknowledgement for
    a statement that is; left alone, it takes two hours and 15 minutes, respectively.
    """
    async with over_tcp(url) as (_, behind):
        opened = await connection.connect(behind)
        with socket.socket(fileno=os.dup(opened.fileno())) as tcp:
            options = {
                name: tcp.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            }
            assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await opened.close()
    minute = 60
    idle = options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"]
    assert idle <= minute
    assert 0 < options["TCP_USER_TIMEOUT"] <= minute * 1000


@pytest.mark.patient
async def test_connections_that_nobody_answers_do_not_use_up_the_pool(url: str) -> None:
    """A proxy takes in what is said on old connections, and nobody is behind it; new ones work."""
    async with over_tcp(url) as (link, behind):
        database = Database(behind, 2, answer_within=PATIENCE)
        await asyncio.gather(*(database.row("SELECT pg_sleep(0.05)") for _ in range(2)))
        link.swallows, database._answer_within = True, 1.0
        calls = (database.row("SELECT 1"), database.transaction(lambda one: one.row("SELECT 1")))
        async with asyncio.timeout(PATIENCE):
            refused = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in refused] == [StoreUnavailable] * 2
        link.swallows, database._answer_within = False, PATIENCE
        assert (await database.row("SELECT 1 AS one")).one == 1
        await database.aclose()


@pytest.mark.patient
async def test_a_connection_that_dies_in_a_transaction_is_tried_once_more(
    db: Database, url: str
) -> None:
    tries = 0

    async def work(session: Session) -> None:
        nonlocal tries
        tries += 1
        await bump(session)
        if tries == 1:
            await asyncio.to_thread(fetch, url, KILL_OTHERS)
        await bump(session, 2)

    await db.transaction(work)
    assert tries == 2
    assert counts(url) == [1, 1]


@pytest.mark.patient
async def test_a_database_that_stays_away_is_unavailable(db: Database, url: str) -> None:
    async def work(session: Session) -> None:
        await asyncio.to_thread(fetch, url, KILL_OTHERS)
        await bump(session)

    with pytest.raises(StoreUnavailable):
        await db.transaction(work)
    nowhere = Database("postgresql://127.0.0.1:1/x", 1)
    with pytest.raises(StoreUnavailable):
        await nowhere.row("SELECT 1")


FULL = "DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
"""What PostgreSQL says of a full disk, with its code."""


@pytest.mark.patient
async def test_a_full_disk_is_told_as_such(db: Database, tmp_path: Path) -> None:
    """By its code, in the words of a refused connection, or as we see it on a dead server's disk;
    never as a wrong address."""
    with pytest.raises(StoreFull) as failure:
        await db.transaction(lambda session: session.do(FULL))
    assert "the disk of the database is full: could not extend file" in failure.value.reason
    assert "knit run rm" in failure.value.advice
    assert "address" not in failure.value.advice
    words = "connection failed: FATAL:  could not write init file: No space left on device"
    assert isinstance(unavailable(psycopg.OperationalError(words)), StoreFull)
    away = psycopg.OperationalError("connection refused")
    assert not isinstance(unavailable(away, tmp_path), StoreFull)


async def test_a_server_that_died_of_a_full_disk_is_told_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named: that is where room is to be made."""
    monkeypatch.setattr(DiskSpace, "of", lambda folder: DiskSpace(folder, 4096, 1 << 30))
    nowhere = Database("postgresql://127.0.0.1:1/x", 1, folder=tmp_path)
    with pytest.raises(StoreFull) as failure:
        await nowhere.row("SELECT 1")
    assert str(tmp_path) in failure.value.advice


@pytest.mark.patient
async def test_what_makes_room_may_use_the_reserve(url: str, db: Database, tmp_path: Path) -> None:
    """As much of it as it needs; others get an error; without any left, it gets one too."""
    reserve = Reserve(tmp_path / "reserve")
    reserve.fill(RESERVE_BYTES)

    async def work(session: Session) -> None:
        await bump(session)
        if reserve.size() > RESERVE_BYTES // 2:
            await session.do(FULL)

    other = Database(url, 1, reserve=tmp_path / "reserve", reserve_pauses=(0.0,) * 8)
    with pytest.raises(StoreFull):
        await other.transaction(work)
    assert reserve.size() == RESERVE_BYTES
    await other.freeing(work)
    assert reserve.size() == RESERVE_BYTES // 2
    assert counts(url) == [1, 0]
    with pytest.raises(StoreFull):
        await other.freeing(lambda session: session.do(FULL))
    assert reserve.size() == 0
    with pytest.raises(StoreFull):
        await db.freeing(lambda session: session.do(FULL))
    await other.aclose()


@pytest.mark.patient
async def test_a_bug_is_not_unavailable(db: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await db.row("SELECT * FROM nothing")
    with pytest.raises(psycopg.errors.CheckViolation):
        await db.do("INSERT INTO count VALUES (3, -1)")


@pytest.mark.patient
async def test_deadlocks_are_run_again(db: Database, url: str) -> None:
    both = asyncio.Barrier(2)
    tries = []

    def crossing(first: int, second: int) -> Callable[[Session], Awaitable[None]]:
        async def work(session: Session) -> None:
            tries.append(first)
            await bump(session, first)
            if len(tries) <= 2:
                await both.wait()
            await bump(session, second)

        return work

    await asyncio.gather(db.transaction(crossing(1, 2)), db.transaction(crossing(2, 1)))
    assert counts(url) == [2, 2]
    assert len(tries) >= 3  # the one that tries again may meet the other once more


@pytest.mark.patient
async def test_a_failure_rolls_back_and_frees_the_connection(db: Database, url: str) -> None:
    async def work(session: Session) -> None:
        await bump(session)
        raise LookupError

    for _ in range(10):
        with pytest.raises(LookupError):
            await db.transaction(work)
    assert counts(url) == [0, 0]


@pytest.mark.patient
async def test_a_cancelled_transaction_leaves_nothing(db: Database, url: str) -> None:
    async def work(session: Session) -> None:
        await bump(session)
        await session.row("SELECT pg_sleep(1000)")

    for _ in range(8):
        task = asyncio.create_task(db.transaction(work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert counts(url) == [0, 0]
    await db.transaction(bump)
    assert counts(url) == [1, 0]


@pytest.mark.patient
async def test_who_gets_no_connection_for_long_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_TIMEOUT_SECONDS", 0.2)
    narrow = Database(url, 1)

    async def work(session: Session) -> None:
        with pytest.raises(StoreUnavailable, match="all connections to the database are busy"):
            await narrow.row("SELECT 1")

    await narrow.transaction(work)
    await narrow.aclose()


@pytest.mark.patient
async def test_more_callers_than_connections_wait(db: Database, url: str) -> None:
    await asyncio.gather(*(db.transaction(bump) for _ in range(50)))
    assert counts(url) == [50, 0]

    def connections() -> int:
        count = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        return int(fetch(url, count)[0]["n"])

    await until(lambda: connections() <= 5)  # the server forgets others', here, after their end


@pytest.mark.patient
async def test_what_connections_do_is_measured(url: str) -> None:
    """In use, idle, waited for; nothing is left when all is over."""
    narrow, before = Database(url, 1), usage()
    go_on = asyncio.Event()

    async def work(session: Session) -> None:
        await go_on.wait()

    holding = asyncio.create_task(narrow.transaction(work))
    await until(lambda: usage() == (before[0] + 1, *before[1:]))
    waiting = asyncio.create_task(narrow.row("SELECT 1"))
    await until(lambda: usage() == (before[0] + 1, before[1], before[2] + 1))
    go_on.set()
    await asyncio.gather(holding, waiting)
    assert usage() == (before[0], before[1] + 1, before[2])
    await narrow.aclose()
    assert usage() == before
    assert DATABASE_LIMIT._value.get() == 1


def usage() -> tuple[float, float, float]:
    """Connections in use and idle, and calls that wait for one."""
    [metric] = DATABASE_CONNECTIONS.collect()
    held = {one.labels["state"]: one.value for one in metric.samples}
    return held["in_use"], held["idle"], DATABASE_WAITING._value.get()


@pytest.mark.patient
async def test_ids_come_as_text_and_instants_in_utc(db: Database) -> None:
    row = await db.row(
        "SELECT gen_random_uuid() AS id, now() AS at, ARRAY[gen_random_uuid()] AS ids"
    )
    assert isinstance(row.id, str)
    assert isinstance(row.ids[0], str)
    assert row.at.utcoffset().total_seconds() == 0
