"""`CompletionStore`: by how things begin, the newest first, deleted things never."""

from __future__ import annotations

import pytest

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from tests.contract.catalogue.conftest import AnyStore
from tests.store.build import drain, end, register, spec, upload


async def waiting(store: AnyStore) -> RunKey:
    (run,) = await store.runs.find(RunQuery(statuses=frozenset({RunStatus.WAITING})))
    return RunKey(run.summary.run_id, 1)


async def values(store: AnyStore, noun: Noun, prefix: str = "", limit: int = 100) -> list[str]:
    return [one.value for one in await store.completions.find(noun, prefix, limit=limit)]


@pytest.mark.patient
async def test_ids_by_how_they_begin(store: AnyStore) -> None:
    made = [await upload(store, f"k:{number} project:x") for number in range(20)]
    assert sorted(await values(store, Noun.DATA)) == sorted(made)
    assert len(await values(store, Noun.DATA, limit=3)) == 3
    for length in (1, 2, 8, 9, 13, 14, 35, 36):
        for one in made:
            begun = one[:length]
            found = await values(store, Noun.DATA, begun)
            assert found == sorted(other for other in made if other.startswith(begun))
            assert await values(store, Noun.DATA, begun.upper()) == found
    (told,) = await store.completions.find(Noun.DATA, made[3], limit=9)
    assert told == Completion(made[3], "k:3 project:x")


async def test_runs_with_their_status_and_plan(store: AnyStore) -> None:
    plan_id = await register(store, spec({"/in": "k:1"}, {"/out": "k:2"}, image="work:v1"))
    await upload(store, "k:1")
    await drain(store)
    key = await waiting(store)
    await end(store, key)
    run_id = key.run_id
    told = {one.value: one.words for one in await store.completions.find(Noun.RUNS, "", limit=9)}
    assert len(told) == 2  # the upload is one, too
    assert told[run_id] == "done image = work:v1"
    assert next(iter(told)) == run_id
    (one,) = await store.completions.find(Noun.RUNS, run_id[:20], limit=9)
    assert one == Completion(run_id, "done image = work:v1")
    assert Completion(plan_id, "image = work:v1") in await store.completions.find(
        Noun.PLANS, plan_id[:4], limit=9
    )


@pytest.mark.parametrize("image", ["work:v1@sha256:abc", "work@sha256:abc"])
async def test_an_image_is_named_with_its_digest(store: AnyStore, image: str) -> None:
    plan_id = await register(store, spec({"/in": "k:1"}, {"/out": "k:2"}, image=image))
    await upload(store, "k:1")
    await drain(store)
    key = await waiting(store)
    for begun in ("", key.run_id):
        told = {
            one.value: one.words for one in await store.completions.find(Noun.RUNS, begun, limit=9)
        }
        assert told[key.run_id] == f"waiting image = {image}"
    (plan,) = await store.completions.find(Noun.PLANS, plan_id, limit=9)
    assert plan.words == f"image = {image}"


async def test_deleted_runs_are_not_offered(store: AnyStore) -> None:
    await register(store, spec({"/in": "k:1"}))
    await upload(store, "k:1")
    await drain(store)
    run_id = (await waiting(store)).run_id
    assert await values(store, Noun.RUNS, run_id) == [run_id]
    await store.runs.delete(run_id)
    assert await values(store, Noun.RUNS, run_id) == []
    assert run_id not in await values(store, Noun.RUNS)


async def test_tags_and_keys(store: AnyStore) -> None:
    await upload(store, "type:b type:a owner:a%b owner:a_b long:" + "x" * 3000)
    assert await values(store, Noun.TAGS, "type:") == ["type:a", "type:b"]
    assert await values(store, Noun.TAGS, "owner:a%") == ["owner:a%b"]
    assert await values(store, Noun.TAGS, "long") == []  # nobody types that
    assert await values(store, Noun.KEYS) == ["long", "owner", "type"]
    assert await values(store, Noun.KEYS, "t") == ["type"]
    assert await values(store, Noun.TAGS, limit=1) == ["owner:a%b"]


@pytest.mark.parametrize("noun", [Noun.DATA, Noun.RUNS, Noun.PLANS])
@pytest.mark.parametrize("prefix", ["x", "0-", "0000000000", "é", "'", "%", "0" * 37, "-"])
async def test_what_no_id_begins_with(store: AnyStore, noun: Noun, prefix: str) -> None:
    await upload(store, "k:1")
    assert await values(store, noun, prefix) == []
