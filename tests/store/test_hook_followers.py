"""Workers that follow a hooks file count for a while after they were seen, by whatever clock."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from knit_workflows.domain.hooks import FOLLOWS_FOR, HooksSource
from knit_workflows.store import PostgresStore

ONE = HooksSource("1@one", "/etc/hooks.yaml", "ab" * 32)
TWO = HooksSource("2@two", "/etc/hooks.yaml", "cd" * 32)


@pytest.mark.parametrize(
    ("ago", "counts"),
    [
        (FOLLOWS_FOR / 2, True),
        (2 * FOLLOWS_FOR, False),
        (timedelta(hours=-1), False),  # the clock of the database was set back
    ],
)
async def test_one_that_is_not_seen_any_more(
    store: PostgresStore, url: str, ago: timedelta, counts: bool
) -> None:
    await store.hooks.follow(ONE)
    await store.hooks.follow(TWO)
    move = "UPDATE hook_follower SET seen_at = seen_at - %s WHERE worker = %s"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(move, (ago, TWO.worker))
    found = await store.hooks.in_force()
    assert [one.source for one in found.followers] == ([ONE, TWO] if counts else [ONE])
    assert bool(found.problem) is counts
    await store.hooks.follow(TWO)
    assert len((await store.hooks.in_force()).followers) == 2


async def test_one_that_was_not_seen_for_an_hour_is_forgotten(
    store: PostgresStore, url: str
) -> None:
    await store.hooks.follow(TWO)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("UPDATE hook_follower SET seen_at = seen_at - interval '2 hours'")
        await store.hooks.follow(ONE)
        found = await connection.execute("SELECT worker FROM hook_follower")
        assert await found.fetchall() == [(ONE.worker,)]
