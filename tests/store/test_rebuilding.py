"""What is kept beside volumes is enough to write Plans, Runs and edges into an empty database."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from knit_workflows.compute.base import FoundVolume
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import EquivalentPlan
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.inspection.rebuild import lineage_of
from knit_workflows.inspection.remains import Remains
from knit_workflows.names import volume
from knit_workflows.store import PostgresStore
from knit_workflows.store.snapshot.rebuilding import (
    NotEmpty,
    held_volumes,
    look,
    write_lineage,
)
from tests.postgres import Databases
from tests.store.build import admit_all, begin, drain, end, register, spec, tags, upload

PLAN = spec(
    {"/a": "k:a", "/b": "k:b j:b"}, {"/out/1": "k:c", "/out/2": ""}, log="k:log",
    entrypoint=("run",), args=("-x", "1"),
)  # fmt: skip
KEPT = {
    "plan": "SELECT plan_id, identity_hash, repository, image_tag, image_digest, entrypoint, args,"
    " on_node, resources, service_account, priority, created_at, options"
    " FROM plan WHERE name IS NULL",
    "inputs": "SELECT plan_id, position, path, tag_count, pinned_knit_id, pinned_timestamp,"
    " (SELECT array_agg(key || ':' || value ORDER BY key)"
    "    FROM plan_input_tag JOIN tag USING (tag_id) WHERE plan_input_tag.input_id = i.input_id)"
    " FROM plan_input i ORDER BY 1, 2",
    "outputs": "SELECT plan_id, position, path, is_log FROM plan_output JOIN plan USING (plan_id)"
    " WHERE name IS NULL ORDER BY 1, 2",
    "runs": "SELECT run_id, plan_id, assignment_hash, generation, priority, created_at FROM run"
    " WHERE assignment_hash IS NOT NULL",
    "data": "SELECT knit_id, path, volume, owned,"
    " (SELECT array_agg(key || ':' || value ORDER BY key)"
    "   FROM data_tag JOIN tag USING (tag_id) WHERE data_tag.knit_id = data.knit_id)"
    " FROM data JOIN plan_output USING (output_id) ORDER BY knit_id",
    "edges": "SELECT run_id, path, knit_id FROM run_input JOIN plan_input USING (input_id)"
    " ORDER BY 1, 2",
}


def kept(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as connection:
        return {name: connection.execute(query).fetchall() for name, query in KEPT.items()}


async def volumes_of(store: PostgresStore, restored_in: str | None = None) -> list[FoundVolume]:
    """Has a Run admitted that uses two uploads; gives the volumes that there are at its launch.

    `restored_in`: the database in which volumes are named as a restore does while it waits.
    """
    await register(store, PLAN)
    uploads = [await upload(store, one) for one in ("k:a", "k:b j:b")]
    await drain(store)
    [key] = await admit_all(store)
    if restored_in is not None:
        with psycopg.connect(restored_in) as connection:
            connection.execute(
                "UPDATE data SET volume = 'data-knitid-' || gen_random_uuid()"
                "  FROM run WHERE run.run_id = data.run_id AND run.status = 'waiting'"
            )
    order = await store.execution.spec(key)
    assert order.log is not None
    made = [*(one.volume for one in order.outputs), order.log]
    assert all(one.origin for one in made)
    assert not any(one.volume.origin for one in order.inputs)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        *(FoundVolume(volume(one), at) for one in uploads),
        *(FoundVolume(one.name, at, one.origin) for one in made),
    ]


def rebuilt(url: str, volumes: list[FoundVolume]) -> Remains:
    remains = Remains()
    for one in volumes:
        remains.add(one)
    remains.leave_out(held_volumes(url))
    remains.settle(unknown_is_done=True)
    lineage = lineage_of(remains, remains.uploads())
    write_lineage(url, lineage, by="ann", cause="rebuilt", uploaded=UPLOADED, targets={"n": 1})
    return remains


@pytest.mark.patient
async def test_what_is_rebuilt_is_what_was(databases: Databases) -> None:
    async with databases.store() as (store, url), databases.store() as (_, new):
        volumes = await volumes_of(store)
        rebuilt(new, volumes)
        assert kept(new) == kept(url)
        assert look(new) == ({"Data": 5, "Runs": 3, "Plans": 1}, {"n": 1})
        with pytest.raises(NotEmpty):
            rebuilt(new, volumes)


@pytest.mark.patient
async def test_data_are_rebuilt_into_the_volumes_that_they_are_in(databases: Databases) -> None:
    """A restore gives those of Runs that wait other volumes than those called after them."""
    async with databases.store() as (store, url), databases.store() as (_, new):
        rebuilt(new, await volumes_of(store, restored_in=url))
        assert kept(new) == kept(url)
        assert look(new)[0]["Data"] == 5


@pytest.mark.patient
async def test_a_combination_that_was_executed_is_not_executed_again(databases: Databases) -> None:
    async with databases.store() as (store, _), databases.store() as (other, new):
        rebuilt(new, await volumes_of(store))
        with pytest.raises(EquivalentPlan) as known:
            await register(other, PLAN)
        plan_id = known.value.see
        await other.plans.set_active(plan_id, True)
        await drain(other)
        assert await admit_all(other) == []
        key, knit_id = await begin(other)
        await other.data.change_tags(knit_id, TagChange(add=tags("k:a")))
        await end(other, key)
        await drain(other)
        assert len(await admit_all(other)) == 1, "the new one with the earlier second upload"


@pytest.mark.patient
async def test_a_volume_may_have_been_adopted_twice(databases: Databases) -> None:
    """Once its Data was purged. The one that was used last has it."""
    async with databases.store() as (store, _), databases.store() as (_, new):
        first, second, later = (str(uuid.uuid4()) for _ in range(3))
        template = (await volumes_of(store))[2]
        rebuilt(
            new,
            [
                copied(template, [later], "2026-01-02T00:00:00+00:00", used=(second, "/srv/a")),
                copied(template, [], "2026-01-01T00:00:00+00:00", used=(first, "/srv/a")),
            ],
        )
        with psycopg.connect(new) as connection:
            kept = connection.execute(
                "SELECT knit_id::text, owned, purged_at IS NULL FROM data"
                " WHERE volume = '/srv/a' ORDER BY purged_at NULLS FIRST"
            ).fetchall()
        assert kept == [(second, False, True), (first, False, False)]


@pytest.mark.patient
async def test_a_combination_may_have_been_executed_twice(databases: Databases) -> None:
    """By a database that was restored to a time before. The newest is its Run."""
    async with databases.store() as (store, _), databases.store() as (_, new):
        old, again = str(uuid.uuid4()), str(uuid.uuid4())
        template = (await volumes_of(store))[2]
        remains = rebuilt(
            new,
            [
                copied(template, [again], "2026-01-02T00:00:00+00:00", digest="ab"),
                copied(template, [old], "2026-01-01T00:00:00+00:00", digest="ab"),
            ],
        )
        assert remains.missing["Runs of combinations that were executed once more"] == 1
        with psycopg.connect(new) as connection:
            query = "SELECT knit_id::text, assignment_hash FROM data JOIN run USING (run_id)"
            kept = dict(connection.execute(query + " WHERE owned").fetchall())
        assert kept[again] == b"\xab"
        assert kept[old] is None, "its Data is kept, without a Run"


def copied(
    one: FoundVolume,
    made: list[str],
    created: str,
    *,
    used: tuple[str, str] | None = None,
    digest: str | None = None,
) -> FoundVolume:
    """Gives the volume of another Run of the same Plan."""
    origin = json.loads(one.origin)
    run_id = str(uuid.uuid4())
    digest = digest or run_id.replace("-", "")
    origin["run"] |= {"run_id": run_id, "assignment_hash": digest, "created_at": created}
    origin["outputs"] = [[origin["outputs"][0][0], knit_id] for knit_id in made]
    if used is not None:
        origin["inputs"] = [[origin["inputs"][0][0], *used]]
    name = volume(made[0] if made else str(uuid.uuid4()))
    return FoundVolume(name, one.created_at, json.dumps(origin))


async def test_volumes_that_wait_for_uploads_are_no_data(databases: Databases) -> None:
    """A push takes such a volume: a Data of before must not have it too."""
    waits, doomed, lost = (f"{digit}0000000-0000-4000-8000-000000000000" for digit in range(1, 4))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    async with databases.store() as (_, new):
        with psycopg.connect(new) as connection:
            connection.execute(
                "INSERT INTO warm_volume VALUES (%s, %s, 'k', 't', 'ready', 'w', now(), now())",
                (volume(waits), waits),
            )
            connection.execute(
                "INSERT INTO discarded VALUES (%s, %s, now())", (doomed, volume(doomed))
            )
        rebuilt(new, [FoundVolume(volume(one), at) for one in (waits, doomed, lost)])
        with psycopg.connect(new) as connection:
            kept = connection.execute("SELECT knit_id::text, volume FROM data").fetchall()
        assert kept == [(lost, volume(lost))]


async def test_an_origin_that_is_too_long_is_left_out(databases: Databases) -> None:
    async with databases.store() as (store, _):
        await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}, args=("x" * 20_000,)))
        await upload(store, "k:a")
        await drain(store)
        [key] = await admit_all(store)
        order = await store.execution.spec(key)
        assert order.status is RunStatus.WAITING
        assert [one.volume.origin for one in order.outputs] == [""]
