"""The primary of two PostgreSQL servers dies while Runs are under way, and its standby is promoted.

knit has the addresses of both, as libpq takes them; the commits are replicated synchronously.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import pytest

from knit_workflows.store import migrate
from tests.chaos.test_outages import (
    Answers,
    all_end_by_themselves,
    assert_all_json,
    installation,
    under_way,
)
from tests.e2e.stack import dev_folder
from tests.standby import Standby

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

AWAY: Final = 5.0
"""Seconds until somebody promotes the standby."""


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
                with suppress(psutil.NoSuchProcess):
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
