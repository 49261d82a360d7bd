"""Connections to PostgreSQL: the pool, transactions, what is retried, and what an error means.

psycopg is used directly: it has a third of the overhead of an ORM's engine, and most calls are a
single statement, which needs no transaction. The pool is ours because it is cheaper and fails at
once with the cause (docs/decisions/0015). The isolation level is READ COMMITTED, and REPEATABLE
READ for what several statements read together.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from psycopg.types.json import set_json_loads
from psycopg.types.string import TextLoader
from pydantic_core import from_json

from knit_workflows.backoff import Backoff
from knit_workflows.disk import DiskSpace, Reserve
from knit_workflows.domain.errors import StoreFull, StoreUnavailable
from knit_workflows.metrics.instruments import (
    DATABASE_CONNECTIONS,
    DATABASE_LIMIT,
    DATABASE_WAITING,
)

T = TypeVar("T")
Params = Mapping[str, Any]
Statement = tuple[str, Params | None]
_BEGIN: Final[Statement] = ("BEGIN", None)
_COMMIT: Final[Statement] = ("COMMIT", None)

SERIALIZATION_FAILURE: Final = "40001"
DEADLOCK_DETECTED: Final = "40P01"
FOREIGN_KEY_VIOLATION: Final = "23503"
"""A row was deleted between being read and being referred to; another attempt sees that."""
_TRANSIENT: Final = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED, FOREIGN_KEY_VIOLATION})
_ATTEMPTS: Final = 10
_UNAVAILABLE_CLASSES: Final = ("08", "28", "53", "57", "58", "3D")
"""SQLSTATE classes: connection, authorization, resources, operator, system, no such database."""
_READ_ONLY: Final = "25006"
"""A standby answered, during a failover."""
_DISK_FULL: Final = "53100"
_NO_SPACE: Final = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_RESERVE_PAUSES: Final = (0.1, 0.3, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0)
_TIMEOUT_SECONDS: Final = 30.0
"""How long a call waits for a free connection, and for a new one to be opened."""
_ANSWER_SECONDS: Final = 300.0
"""How long a call may take. What lies between may take in what we send although nobody is behind it
any more: without an end, each such call would keep one connection of the pool for ever."""
_VANISHED_AFTER_MS: Final = 60_000
"""How long what was sent may be without the other side's acknowledgement, which is the kernel's: a
server that is merely slow to answer gives it at once."""

_IN_USE: Final = DATABASE_CONNECTIONS.labels("in_use")
_IDLE: Final = DATABASE_CONNECTIONS.labels("idle")


class _Mode(Enum):
    """How statements are put together; the value is their isolation level."""

    BARE = None
    SNAPSHOT = IsolationLevel.REPEATABLE_READ
    TRANSACTION = IsolationLevel.READ_COMMITTED


class Session:
    """One connection in use; every method is one statement and one round trip.

    `memory` is a cache that all sessions of a `Database` share; modules use their own keys.
    `is_spoilt`: the connection must not be used by anybody else.
    """

    __slots__ = ("_connection", "is_spoilt", "memory")

    def __init__(self, connection: AsyncConnection[Any], memory: dict[str, Any]) -> None:
        self._connection = connection
        self.memory = memory
        self.is_spoilt = False

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

    async def together(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """Runs statements one after the other in one round trip; gives the rows of each.

        Outside a transaction they are one: what is sent before a sync is. Each has its own
        snapshot, as otherwise, so a lock that one waits for is held when the next one looks.
        """
        # After one that fails the server passes over the rest; psycopg may have counted them as
        # prepared when it sent them, and would go on to use what the server has never heard of.
        self.is_spoilt = True
        async with self._connection.pipeline():
            cursors = [
                await self._connection.execute(query.encode(), params)
                for query, params in statements
            ]
        self.is_spoilt = False
        return [[] if one.description is None else await one.fetchall() for one in cursors]


@dataclass(frozen=True, slots=True)
class FollowUp(Generic[T]):
    """The last statements of a transaction, and what their rows mean."""

    statements: Sequence[Statement]
    result: Callable[[Sequence[list[Any]]], T]


class Database:
    """A pool of at most `size` connections; the only way to use one."""

    def __init__(
        self,
        url: str,
        size: int,
        *,
        folder: Path | None = None,
        reserve: Path | None = None,
        reserve_pauses: Sequence[float] = _RESERVE_PAUSES,
        answer_within: float = _ANSWER_SECONDS,
    ) -> None:
        """`reserve_pauses`: seconds to wait after each slice; `answer_within`: the seconds that a

        call may take; for the rest see `StoreSettings`.
        """
        self._url = url
        self._folder = folder
        self._reserve = Reserve(reserve) if reserve else None
        self._reserve_pauses = reserve_pauses
        self._answer_within = answer_within
        self._slots = asyncio.Semaphore(size)
        DATABASE_LIMIT.set(size)
        self._idle: list[AsyncConnection[Any]] = []
        self._memory: dict[str, Any] = {}
        self._closed = False

    async def aclose(self) -> None:
        """Closes idle connections now, and those in use when they are returned."""
        self._closed = True
        await self.drop_idle()

    async def drop_idle(self) -> None:
        """Closes idle connections; after an outage they are likely to be dead too."""
        while self._idle:
            await self._popped().close()

    async def rows(self, query: str, params: Params | None = None) -> list[Any]:
        """Runs a single statement; retried after a lost race or on a dead connection."""
        return await self._attempt(lambda session: session.rows(query, params))

    async def row(self, query: str, params: Params | None = None) -> Any:
        """Runs a single statement as `rows` does; returns its first row or None."""
        return await self._attempt(lambda session: session.row(query, params))

    async def do(self, query: str, params: Params | None = None) -> int:
        """Runs a single statement as `rows` does; returns how many rows it changed."""
        return await self._attempt(lambda session: session.do(query, params))

    async def reading(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs several reading statements that see the database as it is at one instant.

        What one of them finds is there for the next: a page is whole, and a Run has its Data.
        """
        return await self._attempt(work, _Mode.SNAPSHOT)

    async def together(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """Runs several statements in one transaction and one round trip; gives the rows of each.

        For those that need nothing of each other's results. Like a single statement they may run
        again although they were committed, if the connection is lost at that moment.
        """
        return await self._attempt(lambda session: session.together(statements))

    async def transaction(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs `work` in a transaction, and again from its start after a lost race.

        So `work` must have no side effects outside the database.
        """
        return await self._attempt(work, _Mode.TRANSACTION)

    async def follow_up(
        self, first: Statement, work: Callable[[Session, list[Any]], Awaitable[FollowUp[T]]]
    ) -> T:
        """Runs a statement and what follows from its rows in one transaction of two round trips.

        `work` may run statements in between; what it gives is sent together with the commit. All of
        that may run again although it was committed, as with `together`.
        """

        async def step(session: Session) -> T:
            _, rows = await session.together([_BEGIN, first])
            following = await work(session, rows)
            *found, _ = await session.together([*following.statements, _COMMIT])
            return following.result(found)

        return await self._attempt(step)

    async def freeing(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Runs `work`, which frees disk space, as `transaction` does; it may use up the reserve.

        It pauses after each slice: programs that fill the disk are paused within seconds, and a
        server that crashed on the full disk restarts.
        """
        for pause in self._reserve_pauses:
            try:
                return await self.transaction(work)
            except StoreFull:
                if self._reserve is None or not self._reserve.give():
                    raise
                await asyncio.sleep(pause)
        return await self.transaction(work)

    async def _attempt(
        self, work: Callable[[Session], Awaitable[T]], mode: _Mode = _Mode.BARE
    ) -> T:
        stale = False
        backoff = Backoff(0.01, 0.32)
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(work, mode)
            except _Lost as lost:
                # A pooled connection may have died while idle: retry once, on a new one. A lost
                # COMMIT is not retried: it may have worked.
                if stale or lost.committing or is_disk_full(lost.cause):
                    raise unavailable(lost.cause, self._folder) from lost.cause
                stale = True
            except psycopg.Error as cause:
                if is_outage(cause):
                    raise unavailable(cause, self._folder) from cause
                if cause.sqlstate not in _TRANSIENT or attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(backoff.next())
        raise AssertionError("unreachable")

    async def _once(self, work: Callable[[Session], Awaitable[T]], mode: _Mode) -> T:
        async with self._connection() as connection:
            ending = asyncio.timeout(self._answer_within)
            try:
                async with ending:
                    return await self._carry_out(work, connection, mode)
            except TimeoutError as cause:
                if not ending.expired():
                    raise
                await connection.close()
                await self.drop_idle()
                raise StoreUnavailable(
                    f"the database has not answered within {self._answer_within:g} s",
                    advice="check that it is up, and what lies between: proxies, load balancers",
                ) from cause

    async def _carry_out(
        self,
        work: Callable[[Session], Awaitable[T]],
        connection: AsyncConnection[Any],
        mode: _Mode,
    ) -> T:
        committing = False
        session = Session(connection, self._memory)
        try:
            if mode is _Mode.BARE:
                return await work(session)
            await connection.set_isolation_level(mode.value)
            async with connection.transaction():
                result = await work(session)
                committing = mode is _Mode.TRANSACTION
            return result
        except psycopg.Error as cause:
            if connection.closed or is_outage(cause):
                await connection.close()
                await self.drop_idle()
                raise _Lost(cause, committing) from cause
            raise
        finally:
            if session.is_spoilt:
                await connection.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        await self._place()
        try:
            connection = await self._take()
            try:
                with _IN_USE.track_inprogress():
                    yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._slots.release()

    async def _place(self) -> None:
        """Waits until one more connection may be used."""
        if not self._slots.locked():  # then this does not wait
            await self._slots.acquire()
            return
        try:
            with DATABASE_WAITING.track_inprogress():
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await self._slots.acquire()
        except TimeoutError as cause:
            raise StoreUnavailable("all connections to the database are busy") from cause

    async def _take(self) -> AsyncConnection[Any]:
        while self._idle:
            connection = self._popped()
            if not connection.closed:
                return connection
        return await connect(self._url, self._folder)

    def _popped(self) -> AsyncConnection[Any]:
        _IDLE.dec()
        return self._idle.pop()

    async def _give_back(self, connection: AsyncConnection[Any]) -> None:
        # Not idle: a call was cancelled in the middle of a transaction.
        sound = connection.info.transaction_status == TransactionStatus.IDLE
        if sound and not self._closed:
            self._idle.append(connection)
            _IDLE.inc()
        else:
            await connection.close()


class _Lost(Exception):  # passed between two functions here, never seen outside
    def __init__(self, cause: psycopg.Error, committing: bool) -> None:
        super().__init__()
        self.cause = cause
        self.committing = committing


def libpq_address(url: str) -> str:
    """Gives an address as libpq reads it; SQLAlchemy's form of it is taken too."""
    return url.replace("postgresql+psycopg:", "postgresql:", 1)


async def connect(url: str, folder: Path | None = None) -> AsyncConnection[Any]:
    """Opens a connection in autocommit mode, with ids as text.

    `folder` is the database's, if it is on this machine.

    Raises:
        StoreUnavailable: it cannot be opened.
    """
    url = libpq_address(url)
    try:
        connection = await AsyncConnection.connect(
            url,
            autocommit=True,
            row_factory=namedtuple_row,
            connect_timeout=int(_TIMEOUT_SECONDS),
            # Without keepalives a listening connection notices a vanished server after two hours.
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            # They are not sent while a statement is: without this it takes a quarter of an hour.
            tcp_user_timeout=_VANISHED_AFTER_MS,
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
    # JIT compilation costs more than any of our statements saves.
    return {"options": "-c jit=off -c timezone=UTC"}


def is_outage(error: psycopg.Error) -> bool:
    """Says whether an error means that the database is unavailable, rather than a bug of ours."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _UNAVAILABLE_CLASSES or state == _READ_ONLY


def is_disk_full(error: psycopg.Error) -> bool:
    """Says whether the server reports that its disk is full."""
    # A refused connection has no SQLSTATE, only a message.
    return error.sqlstate == _DISK_FULL or bool(_NO_SPACE.search(str(error)))


def unavailable(cause: psycopg.Error, folder: Path | None = None) -> StoreUnavailable:
    """Makes the error that says that the database is unavailable, or that its disk is full.

    A server that crashed on a full disk cannot say so: given its `folder`, we look at the disk.
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
