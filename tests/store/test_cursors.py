"""Paging goes on where it was, whatever has happened to the last item of the page before."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from knit_workflows.domain.cursors import Cursor, parse_cursor
from knit_workflows.domain.data import DataQuery
from knit_workflows.domain.errors import InvalidRequest
from knit_workflows.domain.runs import RunQuery
from knit_workflows.store import PostgresStore
from tests.store.build import fetch, upload

ID = "0f0f0f0f-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    "cursor",
    [Cursor(ID), Cursor(ID, known=False), Cursor(ID, datetime(2026, 1, 2, 3, 4, 5, 678000, UTC))],
)
def test_a_cursor_survives_being_written(cursor: Cursor) -> None:
    assert parse_cursor(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["", ".", "x", f"9{ID}", f"99999999999999999.{ID}", f"-1.{ID}", f"{ID} ", f"1.{ID}\n"]
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no cursor"):
        parse_cursor(text)


async def test_a_run_that_changes_between_two_pages_hides_no_others(
    store: PostgresStore, url: str
) -> None:
    for _ in range(4):
        await upload(store)
    first = await store.runs.find(RunQuery(), limit=2)
    others = [run.summary.run_id for run in (await store.runs.find(RunQuery()))[2:]]
    last = first[-1].summary
    cursor = Cursor(last.run_id, last.updated_at)
    fetch(url, "UPDATE run SET updated_at = now() + interval '1h' WHERE run_id = %s", last.run_id)
    seen = [run.summary.run_id for run in await store.runs.find(RunQuery(), after=str(cursor))]
    assert seen == [*others, last.run_id]


async def test_a_data_that_is_deleted_between_two_pages_does_not_end_the_list(
    store: PostgresStore,
) -> None:
    for _ in range(3):
        await upload(store)
    everything = [one.knit_id for one in await store.data.find(DataQuery())]
    gone = str(Cursor(ID))
    assert await store.data.find(DataQuery(), after=gone) == []
    epoch = str(Cursor(ID, datetime(1970, 1, 1, tzinfo=UTC)))
    assert [one.knit_id for one in await store.data.find(DataQuery(), after=epoch)] == everything
