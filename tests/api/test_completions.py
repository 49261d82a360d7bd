"""`GET /api/completions`."""

from __future__ import annotations

import pytest


async def test_what_begins_like_this_is_offered(client, store):
    ids = [store.add_run().outputs[0].knit_id for _ in range(2)][::-1]
    found = await client.get("/completions", params={"of": "data"})
    assert [one["value"] for one in found.json()] == ids
    found = await client.get("/completions", params={"of": "data", "prefix": ids[1][:30]})
    assert found.json() == [{"value": ids[1], "words": ""}]
    found = await client.get("/completions", params={"of": "data", "limit": "1"})
    assert len(found.json()) == 1


@pytest.mark.parametrize(
    "query",
    [{}, {"of": "things"}, {"of": "data", "limit": "0"}, {"of": "data", "limit": "1001"},
     {"of": "tags", "prefix": "a\0b"}],
)  # fmt: skip
async def test_what_cannot_be_asked(client, query):
    answer = await client.get("/completions", params=query)
    assert answer.status_code == 400
    assert answer.json()["message"]["advice"]
