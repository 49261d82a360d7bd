"""Gates in the database: a commit of worker or API waits there until the test lets it through.

A gate is a deferred constraint trigger. It fires inside the COMMIT of a transaction that made a
certain change, and waits for an advisory lock that the test holds. So either can be killed
between a change and its hearing of that change, at will instead of by chance; and the test chooses
whether the change is there afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg

from tests.waiting import PATIENCE

_CLASS: Final = 4711
WORKER: Final = "knit-worker"
API: Final = "knit-api"
"""The application names of connections that gates are for; others pass."""

_FUNCTION: Final = f"""
CREATE FUNCTION test_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') = TG_ARGV[1] THEN
        PERFORM pg_advisory_xact_lock_shared({_CLASS}, TG_ARGV[0]::int);
    END IF;
    RETURN NULL;
END $$
"""


@dataclass(frozen=True)
class Gate:
    """The commit of a change (INSERT, UPDATE, DELETE) of a row of a table, for which `when` holds.

    `when` is SQL over OLD and NEW; `of` says in front of whom it stands.
    """

    name: str
    table: str
    change: str
    when: str = "true"
    of: str = WORKER


class Gates:
    """The gates of one database, all open at first."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], gates: Sequence[Gate]) -> None:
        self._connection = connection
        self._gates = gates

    @classmethod
    async def built(cls, url: str, gates: Sequence[Gate]) -> Self:
        """Builds them, before the worker starts."""
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        await connection.execute(_FUNCTION)
        for number, gate in enumerate(gates):
            statement = (
                f"CREATE CONSTRAINT TRIGGER test_gate_{number} AFTER {gate.change} ON {gate.table}"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
                f" WHEN ({gate.when}) EXECUTE FUNCTION test_gate('{number}', '{gate.of}')"
            )
            await connection.execute(statement.encode())
        return cls(connection, gates)

    async def aclose(self) -> None:
        """Lets go of the database; gates that were closed are open."""
        await self._connection.close()

    async def close(self, gate: Gate) -> None:
        """Lets nobody through."""
        await self._do("SELECT pg_advisory_lock(%s, %s)", _CLASS, self._gates.index(gate))

    async def open(self, gate: Gate) -> None:
        """Lets everybody through, who waits too. Open already: fine."""
        with_lock = "classid = %s AND objid = %s AND pid = pg_backend_pid() AND granted"
        number = self._gates.index(gate)
        await self._do(
            f"SELECT pg_advisory_unlock(%s, %s) FROM pg_locks WHERE {with_lock}",
            *(_CLASS, number),
            *(_CLASS, number),
        )

    async def arrived(self, gate: Gate) -> None:
        """Waits until somebody stands before it."""
        async with asyncio.timeout(PATIENCE):
            while not await self._waiting(gate):
                await asyncio.sleep(0.005)

    async def standing(self) -> list[Gate]:
        """Gives the gates before which somebody stands now."""
        rows = await self._do(
            "SELECT DISTINCT objid::int FROM pg_locks WHERE locktype = 'advisory'"
            " AND classid = %s AND NOT granted",
            _CLASS,
        )
        return [self._gates[number] for (number,) in rows]

    async def turn_back(self, gate: Gate) -> None:
        """Undoes what those before the gate were about to commit; they may be back at once."""
        ended = await self._waiting(gate)
        for pid in ended:
            await self._do("SELECT pg_terminate_backend(%s)", pid)
        async with asyncio.timeout(PATIENCE):
            while set(ended) & set(await self._waiting(gate)):
                await asyncio.sleep(0.005)

    async def ask(self, query: str, *parameters: object) -> list[Any]:
        """Asks the database anything, past knit; gives the rows."""
        return await self._do(query, *parameters)

    async def _waiting(self, gate: Gate) -> list[int]:
        rows = await self._do(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
            " AND NOT granted",
            _CLASS,
            self._gates.index(gate),
        )
        return [pid for (pid,) in rows]

    async def _do(self, query: str, *parameters: object) -> list[Any]:
        cursor = await self._connection.execute(query.encode(), parameters)
        return await cursor.fetchall()
