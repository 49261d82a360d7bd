"""From commits to Runs: every combination exactly once, in pages, whoever comes first."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from pydantic import SecretStr

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import KEY_TIMESTAMP
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.store.projection import projection_store
from tests.store.build import (
    begin,
    drain,
    end,
    fetch,
    only,
    register,
    runs_in,
    spec,
    tags,
    upload,
)


async def test_nothing_to_do_is_none(store: PostgresStore) -> None:
    assert await store.projection.project(page_size=10) is None


async def test_a_step_says_what_it_did(store: PostgresStore) -> None:
    await register(store, spec({"/in": "a:1"}))
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags("a:1")))
    await end(store, key)
    steps = [await store.projection.project(page_size=10) for _ in range(4)]
    assert [(one.event_kind, one.created) for one in steps if one is not None] == [
        ("plan_registered", 1),
        ("tags_changed", 0),
        ("data_ready", 0),
    ]


@pytest.mark.patient
async def test_two_inputs_give_the_cross_product(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    left = [await upload(store, "k:a") for _ in range(2)]
    await drain(store)
    assert runs_in(url) == {}
    right = [await upload(store, "k:b more:tags") for _ in range(3)]
    await drain(store)
    assert runs_in(url).keys() == {(plan, (a, b)) for a in left for b in right}
    left.append(await upload(store, "k:a"))
    assert await drain(store) == 3
    assert runs_in(url).keys() == {(plan, (a, b)) for a in left for b in right}


async def test_equal_inputs_give_the_square(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a", "/b": "k:a"}))
    for _ in range(3):
        await upload(store, "k:a")
        await drain(store)
    assert len(runs_in(url)) == 9


async def test_a_plan_that_comes_late_takes_all_data(store: PostgresStore, url: str) -> None:
    for _ in range(5):
        await upload(store, "k:a")
    await drain(store)
    await register(store, spec({"/a": "k:a"}))
    assert await drain(store) == 5


@pytest.mark.parametrize("page_size", [1, 3, 100])
@pytest.mark.patient
async def test_pages_leave_nothing_out(store: PostgresStore, url: str, page_size: int) -> None:
    for kind in "aaaabbbbb":
        await upload(store, f"k:{kind}")
    for turn in range(3):
        await register(store, spec({"/a": "k:a", "/b": "k:b"}, image=f"demo:{turn}"))
    await drain(store, page_size=page_size)
    assert len(runs_in(url)) == 3 * 20
    await upload(store, "k:a k:b")
    created = []
    while (step := await store.projection.project(page_size=page_size)) is not None:
        created.append(step.created)
    assert len(runs_in(url)) == 3 * 30
    assert sum(created) == 30
    assert max(created) <= page_size


@pytest.mark.patient
async def test_known_combinations_are_passed_over(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a", "/b": "k:a"}))
    data = [await upload(store, "k:a") for _ in range(4)]
    await drain(store)
    for one in data:
        await store.data.change_tags(one, TagChange(add=tags("k:a")))
    assert await drain(store, page_size=2) == 0
    assert len(runs_in(url)) == 16


async def test_a_failed_or_stopped_combination_does_not_come_again(
    store: PostgresStore, url: str
) -> None:
    await register(store, spec({"/a": "k:a"}))
    data = await upload(store, "k:a")
    await drain(store)
    fetch(url, "UPDATE run SET status = 'failed' WHERE assignment_hash IS NOT NULL")
    await store.data.change_tags(data, TagChange(remove=tags("k:a")))
    await store.data.change_tags(data, TagChange(add=tags("k:a")))
    assert await drain(store) == 0


async def test_data_of_failed_or_unfinished_runs_match_nothing(
    store: PostgresStore, url: str
) -> None:
    await register(store, spec({"/a": "k:a"}))
    key, knit_id = await begin(store)
    await store.data.change_tags(knit_id, TagChange(add=tags("k:a")))
    await drain(store)
    await end(store, key, fail=True)
    await store.data.change_tags(knit_id, TagChange(add=tags("x:y")))
    await drain(store)
    assert runs_in(url) == {}


async def test_every_tag_of_an_input_is_asked_for(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "p:demo k:a v:1", "/b": "p:demo"}))
    almost = await upload(store, "p:demo k:a")
    whole = await upload(store, "p:demo k:a v:1 x:y")
    await upload(store, "k:a v:1")
    await drain(store)
    assert runs_in(url).keys() == {(plan, (whole, whole)), (plan, (whole, almost))}


async def test_inputs_that_pin_an_id(store: PostgresStore, url: str) -> None:
    first, second = [await upload(store, "k:a") for _ in range(2)]
    only_id = await register(store, spec({"/a": f"knit#id:{first}"}))
    both = await register(store, spec({"/a": f"knit#id:{second} k:a"}))
    await register(store, spec({"/a": f"knit#id:{first} k:b"}))
    await register(store, spec({"/a": "knit#id:no-such-id"}))
    await drain(store)
    assert runs_in(url).keys() == {(only_id, (first,)), (both, (second,))}


@pytest.mark.parametrize("without", ["hashjoin", "seqscan", "nestloop", "material"])
@pytest.mark.patient
async def test_every_tag_is_asked_for_however_data_are_looked_up(
    store: PostgresStore, url: str, without: str
) -> None:
    """PostgreSQL 18 loses conditions in some plans, which it chooses as the statistics are."""
    data = [await upload(store, "k:a") for _ in range(4)]
    special = await upload(store, "k:a v:1")
    await upload(store, "v:1")
    _, unfinished = await begin(store)
    await store.data.change_tags(unfinished, TagChange(add=tags("k:a v:1")))
    unpinned = await register(store, spec({"/a": "k:a v:1"}))
    wanted = await register(store, spec({"/a": f"knit#id:{data[1]} k:a"}))
    await register(store, spec({"/a": f"knit#id:{data[1]} k:b"}))
    fetch(url, "ANALYZE")
    options = quote(f"-c enable_{without}=off -c jit=off -c timezone=UTC")
    planned = PostgresStore(StoreSettings(url=SecretStr(f"{url}&options={options}")))
    await drain(planned)
    await planned.aclose()
    assert runs_in(url).keys() == {(wanted, (data[1],)), (unpinned, (special,))}


async def test_inputs_that_pin_data_to_come(store: PostgresStore, url: str) -> None:
    key, knit_id = await begin(store)
    alone = await register(store, spec({"/a": f"knit#id:{knit_id}"}))
    tagged = await register(store, spec({"/a": f"knit#id:{knit_id} k:a"}))
    await drain(store)
    await end(store, key)
    await drain(store)
    assert runs_in(url).keys() == {(alone, (knit_id,))}
    await store.data.change_tags(knit_id, TagChange(add=tags("k:a")))
    await drain(store)
    assert runs_in(url).keys() == {(alone, (knit_id,)), (tagged, (knit_id,))}


async def test_inputs_that_pin_the_shown_time(store: PostgresStore, url: str) -> None:
    knit_id = await upload(store, "k:a")
    shown = only(
        tag.value for tag in (await store.data.get(knit_id)).tags if tag.key == KEY_TIMESTAMP
    )
    alone = await register(store, spec({"/a": f"knit#timestamp:{shown}"}))
    pinned = spec({"/a": f"knit#timestamp:{shown} knit#id:{knit_id} k:a"})
    finer = pinned.inputs[0].requirement.timestamp
    assert finer is not None
    both = await register(store, pinned)
    await register(store, spec({"/a": f"knit#timestamp:{shown} knit#id:{uuid4()}"}))
    await drain(store)
    assert runs_in(url).keys() == {(alone, (knit_id,)), (both, (knit_id,))}
    later = finer + timedelta(milliseconds=1)
    await register(store, spec({"/a": f"knit#timestamp:{later.isoformat()} k:a"}))
    assert await drain(store) == 0


async def test_a_pinned_time_is_met_by_data_to_come(store: PostgresStore, url: str) -> None:
    key, knit_id = await begin(store)
    await store.execution.advance(key, RunStatus.COMPLETING, cause="x")
    await store.execution.finalize(key, cause="x")
    row = only(fetch(url, "SELECT timestamp FROM data WHERE knit_id = %s", knit_id))
    fetch(url, "DELETE FROM outbox")
    stamp = row["timestamp"].isoformat()
    plan = await register(store, spec({"/a": f"knit#timestamp:{stamp}", "/b": "k:b"}))
    other = await upload(store, "k:b")
    await drain(store)
    assert runs_in(url).keys() == {(plan, (knit_id, other))}


async def test_runs_of_inactive_plans_are_deactivated(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}, active=False))
    await upload(store, "k:a")
    await drain(store)
    assert set(runs_in(url).values()) == {"deactivated"}


async def test_a_new_run_has_its_data_with_tags_and_no_time(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}, {"/out": "k:b x:y"}, log="k:log"))
    await upload(store, "k:a")
    await drain(store)
    run_id = only(fetch(url, "SELECT run_id::text FROM run WHERE assignment_hash IS NOT NULL"))
    run = await store.runs.get(run_id["run_id"])
    assert run.log is not None
    made = await store.data.get(run.outputs[0].knit_id)  # type: ignore[arg-type]
    log = await store.data.get(run.log.knit_id)  # type: ignore[arg-type]
    assert {str(tag) for tag in made.tags} == {
        "k:b", "x:y", f"knit#id:{made.knit_id}", "knit#transient:processing",
    }  # fmt: skip
    assert "k:log" in {str(tag) for tag in log.tags}
    assert log.upstream.path is None
    assert made.upstream.path == "/out"


async def test_outputs_and_logs_feed_further_plans(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}, {"/out": "k:b"}, log="k:log"))
    second = await register(store, spec({"/b": "k:b"}))
    third = await register(store, spec({"/log": "k:log"}))
    await upload(store, "k:a")
    await drain(store)
    run = only(runs_in(url))
    row = only(fetch(url, "SELECT run_id::text FROM run WHERE plan_id = %s", run[0]))
    await end(store, RunKey(row["run_id"], 1))
    await drain(store)
    assert {plan for plan, _ in runs_in(url)} == {run[0], second, third}


@pytest.mark.patient
async def test_consumers_take_different_events(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a", "/b": "k:a"}))
    for _ in range(8):
        await upload(store, "k:a")
    await asyncio.gather(*(drain(store) for _ in range(4)))
    assert len(runs_in(url)) == 64
    assert fetch(url, "SELECT * FROM outbox") == []


@pytest.mark.patient
async def test_a_failed_step_leaves_its_event(store: PostgresStore, url: str) -> None:
    await register(store, spec({"/a": "k:a"}))
    await upload(store, "k:a")
    before = fetch(url, "SELECT event_id, kind FROM outbox ORDER BY event_id")
    fetch(url, "ALTER TABLE run_input RENAME TO away")
    with pytest.raises(Exception, match="run_input"):
        await drain(store)
    assert fetch(url, "SELECT event_id, kind FROM outbox ORDER BY event_id") == before
    fetch(url, "ALTER TABLE away RENAME TO run_input")
    assert await drain(store) == 1


@pytest.mark.patient
async def test_removed_tags_do_not_match_any_more(store: PostgresStore, url: str) -> None:
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    old = await upload(store, "k:a")
    first = await upload(store, "k:b")
    await drain(store)
    await store.data.change_tags(old, TagChange(remove=tags("k:a")))
    new = await upload(store, "k:a")
    second = await upload(store, "k:b")
    await drain(store)
    assert runs_in(url).keys() == {
        (plan, (old, first)),
        (plan, (new, first)),
        (plan, (new, second)),
    }


async def test_a_large_event_does_not_keep_others_from_their_turn(
    store: PostgresStore, url: str
) -> None:
    """It is put back behind them, with its position, and goes on when its turn comes again."""
    for kind in "a" * 10 + "b" * 10:
        await upload(store, f"k:{kind}")
    await drain(store)
    small = await register(store, spec({"/c": "k:c"}))
    await drain(store)
    large = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    await upload(store, "k:c")
    for _ in range(3):
        await store.projection.project(page_size=1)
    assert [plan for plan, _ in runs_in(url)].count(small) == 1
    await drain(store, page_size=7)
    assert [plan for plan, _ in runs_in(url)].count(large) == 100


async def test_what_comes_while_a_large_event_waits_is_not_missed(
    store: PostgresStore, url: str
) -> None:
    """Data before and behind its position: their own events find them, in whatever order."""
    for kind in "aaabbb":
        await upload(store, f"k:{kind}")
    await drain(store)
    plan = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    for turn in range(12):
        await store.projection.project(page_size=1)
        if turn < 6:
            await upload(store, "k:a k:b")
    await drain(store, page_size=2)
    made = runs_in(url)
    assert {one for one, _ in made} == {plan}
    assert len(made) == 9 * 9


async def test_the_oldest_event_is_told_by_when_it_was_made(store: PostgresStore, url: str) -> None:
    """One that was put back is at the end of the queue, and no younger for that."""
    await register(store, spec({"/a": "k:a", "/b": "k:a"}))
    for _ in range(2):
        await upload(store, "k:a")
    fetch(
        url,
        "UPDATE outbox SET created_at = created_at - interval '1 hour'"
        " WHERE kind = 'plan_registered'",
    )
    await store.projection.project(page_size=1)
    rows = fetch(url, "SELECT kind, cursor IS NULL AS fresh FROM outbox ORDER BY event_id")
    assert [row["kind"] for row in rows][-1] == "plan_registered"
    assert not rows[-1]["fresh"]
    backlog = (await store.situation.look()).backlog
    assert backlog.oldest_event > timedelta(minutes=59)


def upload_many(url: str, like: str, count: int) -> None:
    """Makes so many Data like this one, of the same Run."""
    fetch(
        url,
        """WITH plan_of AS (
               SELECT r.plan_id, d.output_id FROM data d JOIN run r USING (run_id)
                WHERE d.knit_id = %s
           ), made AS (
               INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
               SELECT gen_random_uuid(), plan_id, 'done', now(), now()
                 FROM plan_of, generate_series(1, %s)
            RETURNING run_id
           ), new_data AS (
               INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
               SELECT gen_random_uuid(), run_id, output_id, '', now() FROM made, plan_of
            RETURNING knit_id
           )
           INSERT INTO data_tag (tag_id, knit_id)
           SELECT tag_id, new_data.knit_id
             FROM new_data, (SELECT tag_id FROM data_tag WHERE knit_id = %s) AS t""",
        like, count, like,
    )  # fmt: skip


@pytest.mark.patient
async def test_the_runs_of_a_late_plan_cost_what_they_are(
    store: PostgresStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many Data fill an input: a page reads of each what it can reach, no more."""
    await upload(store, "k:a")
    upload_many(url, await upload(store, "k:b"), 599)
    await drain(store)
    read = 0
    original = projection_store.candidates_of

    async def counted(*arguments: Any, **options: Any) -> list[list[str]]:
        nonlocal read
        found = await original(*arguments, **options)
        read += sum(map(len, found))
        return found

    monkeypatch.setattr(projection_store, "candidates_of", counted)
    plan_id = await register(store, spec({"/a": "k:a", "/b": "k:b"}))
    assert await drain(store, page_size=10) == 600
    assert len({knit_ids for plan, knit_ids in runs_in(url) if plan == plan_id}) == 600
    assert read < 600 * 25
