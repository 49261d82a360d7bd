"""Connections to PostgreSQL: the pool, transactions, what is retried, and what an error means.

psycopg is used directly: its own overhead is a third of that of an ORM's engine, and most calls
are one statement, which needs no transaction around it. READ COMMITTED throughout.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from pydantic_core import from_json

from knit_workflows.disk import DiskSpace, Reserve
from knit_workflows.domain.errors import StoreFull, StoreUnavailable

T = TypeVar("T")
Params = Mapping[str, Any]

SERIALIZATION_FAILURE: Final = "40001"
DEADLOCK_DETECTED: Final = "40P01"
FOREIGN_KEY_VIOLATION: Final = "23503"
"""A row it refers to was deleted after it had been seen: looking again tells."""
_TRANSIENT: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED, FOREIGN_KEY_VIOLATION})
_ATTEMPTS: Final = 10
_UNAVAILABLE_CLASSES: Final = ("08", "28", "53", "57", "58", "3D")
"""SQLSTATE classes: connection, authorization, resources, operator, system, no such database."""
_READ_ONLY: Final = "25006"
"""A stand-by answers during a failover."""
_DISK_FULL: Final = "53100"
_NO_SPACE: Final = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_AFTER_GIVING_SECONDS: Final = (0.1, 0.3, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0)
"""How long to wait after each slice of the reserve."""
_PATIENCE_SECONDS: Final = 30.0
"""How long a call waits for a free connection, and for a new one to be made."""


class Session:
    """One connection in use; every method is one statement and one round trip.

    `memory` is this database's: what modules have read and need not read again, by names of theirs.
    """

    __slots__ = ("_connection", "memory")

    def __init__(self, connection: AsyncConnection[Any], memory: dict[str, Any]) -> None:
        self._connection = connection
        self.memory = memory

    async def rows(self, query: str, params: Params | None = None) -> list[Any]:
        """Runs a statement, returns its rows as named tuples."""
        cursor = await self._connection.execute(query.encode(), params)
        return await cursor.fetchall()

    async def row(self, query: str, params: Params | None = None) -> Any:
        """Runs a statement, returns its first row or None."""
        cursor = await self._connection.execute(query.encode(), params)
        return await cursor.fetchone()

    async def do(self, query: str, params: Params | None = None) -> int:
        """Runs a statement, returns how many rows it changed."""
        cursor = await self._connection.execute(query.encode(), params)
        return cursor.rowcount


class Database:
    """A pool of at most `size` connections, and the only way to use them."""

    def __init__(
        self, url: str, size: int, *, folder: Path | None = None, reserve: Path | None = None
    ) -> None:
        """See `StoreSettings` for folder and reserve."""
        self._url = url
        self._folder = folder
        self._reserve = Reserve(reserve) if reserve else None
        self._slots = asyncio.Semaphore(size)
        self._idle: list[AsyncConnection[Any]] = []
        self._memory: dict[str, Any] = {}
        self._closed = False

    async def aclose(self) -> None:
        """Closes the idle connections; those in use are closed when they are given back."""
        self._closed = True
        await self.drop_idle()

    async def drop_idle(self) -> None:
        """Closes the idle connections: others of the same age are likely to be dead too."""
        while self._idle:
            await self._idle.pop().close()

    async def rows(self, query: str, params: Params | None = None) -> list[Any]:
        """Runs one statement by itself; repeated when it lost a race or found a dead connection."""
        return await self._attempt(lambda session: session.rows(query, params), bare=True)

    async def row(self, query: str, params: Params | None = None) -> Any:
        """Runs one statement by itself as `rows` does; returns its first row or None."""
        return await self._attempt(lambda session: session.row(query, params), bare=True)

    async def do(self, query: str, params: Params | None = None) -> int:
        """Runs one statement by itself as `rows` does; returns how many rows it changed."""
        return await self._attempt(lambda session: session.do(query, params), bare=True)

    async def reading(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs several reading statements on one connection, without a transaction.

        Each sees its own snapshot: `work` must bear with rows that have gone in between.
        """
        return await self._attempt(work, bare=True)

    async def transaction(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs `work` in a transaction; it is run again from the start when it lost a race.

        `work` must therefore change nothing but the database.
        """
        return await self._attempt(work, bare=False)

    async def freeing(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs `work`, of which room comes, as `transaction` does; it may use the reserve for it.

        Not in a hurry: programs that eat what is given back pause after some seconds, and a server
        that died of the full disk comes back.
        """
        for pause in _AFTER_GIVING_SECONDS:
            try:
                return await self.transaction(work)
            except StoreFull:
                if self._reserve is None or not self._reserve.give():
                    raise
                await asyncio.sleep(pause)
        return await self.transaction(work)

    async def _attempt(self, work: Callable[[Session], Awaitable[T]], *, bare: bool) -> T:
        stale = False
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(work, bare=bare)
            except _Lost as lost:
                # A pooled connection may have died while idle: one more try on a new one. A lost
                # COMMIT is not tried again: it may have worked.
                if stale or lost.committing or is_disk_full(lost.cause):
                    raise unavailable(lost.cause, self._folder) from lost.cause
                stale = True
            except psycopg.Error as cause:
                if is_outage(cause):
                    raise unavailable(cause, self._folder) from cause
                if cause.sqlstate not in _TRANSIENT or attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 5)))
        raise AssertionError("unreachable")

    async def _once(self, work: Callable[[Session], Awaitable[T]], *, bare: bool) -> T:
        committing = False
        async with self._connection() as connection:
            session = Session(connection, self._memory)
            try:
                if bare:
                    return await work(session)
                async with connection.transaction():
                    result = await work(session)
                    committing = True
                return result
            except psycopg.Error as cause:
                if connection.closed or is_outage(cause):
                    await connection.close()
                    await self.drop_idle()
                    raise _Lost(cause, committing) from cause
                raise

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._slots.acquire()
        except TimeoutError as cause:
            raise StoreUnavailable("all connections to the database are busy") from cause
        try:
            connection = await self._take()
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._slots.release()

    async def _take(self) -> AsyncConnection[Any]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await connect(self._url, self._folder)

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        # Anything but idle means that a call was torn out of the middle of a transaction.
        sound = connection.info.transaction_status == TransactionStatus.IDLE
        if sound and not self._closed:
            self._idle.append(connection)
        else:
            await connection.close()


class _Lost(Exception):  # a signal between two functions here, never seen outside
    def __init__(self, cause: psycopg.Error, committing: bool) -> None:
        super().__init__()
        self.cause = cause
        self.committing = committing


async def connect(url: str, folder: Path | None = None) -> AsyncConnection[Any]:
    """Opens one connection in autocommit mode, with ids as text; raises StoreUnavailable.

    `folder` is the database's, if it is on this machine.
    """
    url = url.replace("postgresql+psycopg:", "postgresql:", 1)
    try:
        connection = await AsyncConnection.connect(
            url,
            autocommit=True,
            row_factory=namedtuple_row,
            connect_timeout=int(_PATIENCE_SECONDS),
            # Who only listens would otherwise notice a vanished server after two hours.
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            **_session_options(url),
        )
    except psycopg.Error as cause:
        raise unavailable(cause, folder) from cause
    connection.adapters.register_loader("uuid", TextLoader)
    set_json_loads(from_json, connection)  # a page has hundreds of small values
    return connection


def _session_options(url: str) -> dict[str, Any]:
    """Gives the session parameters, unless the URL has some of its own."""
    if "options" in parse_qs(urlsplit(url).query):
        return {}
    # Compiling costs more than any of our statements; UTC makes instants comparable at sight.
    return {"options": "-c jit=off -c timezone=UTC"}


def is_outage(error: psycopg.Error) -> bool:
    """Says whether an error means that the database is away, rather than that we have a bug."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _UNAVAILABLE_CLASSES or state == _READ_ONLY


def is_disk_full(error: psycopg.Error) -> bool:
    """Says whether the server tells that its disk is full."""
    # A server that refuses a connection gives no code, only its words.
    return error.sqlstate == _DISK_FULL or bool(_NO_SPACE.search(str(error)))


def unavailable(cause: psycopg.Error, folder: Path | None = None) -> StoreUnavailable:
    """Makes the error that says that the database is away, or that its disk is full.

    A server that died of a full disk does not answer: with its `folder` we look for ourselves.
    """
    said = " ".join(str(cause).split()) or type(cause).__name__
    if is_disk_full(cause) or DiskSpace.if_almost_full(folder):
        disk = f" of {folder}" if folder else ""
        return StoreFull(
            f"the disk of the database is full: {said}",
            advice=f"make room on the disk{disk}, with `knit run rm` or by hand, then try again",
        )
    return StoreUnavailable(
        f"the database does not answer: {said}",
        advice="check the database's address, and that it is up",
    )


def violated(error: psycopg.Error) -> str | None:
    """Gives the name of the constraint an error is about, or None."""
    return error.diag.constraint_name
