"""Adoption, purge and import on a real Kubernetes node: claims come, are read, stay or go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from knit_workflows import names
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.imports import Import, import_of
from knit_workflows.domain.volumes import Volume
from tests.e2e.cluster_stack import WITHIN, Knit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COPIES = ["sh", "-c", "cat /in/word > /out/word; ! touch /in/new || echo x >> /out/word"]
"""A task that would leave its mark in what it reads, and say so."""


async def test_an_imported_claim_is_data_that_plans_run_with(knit: Knit) -> None:
    """The importer makes and fills the claim that the token names; nobody else can end it."""
    plan_id = await asyncio.to_thread(knit.apply, "import", COPIES)
    token = (await knit.ask("POST", "/data/import/begin")).text
    begun = import_of(jws.read(token).claims)
    assert (await _end(knit, token)).status_code == 400, "the claim is not there yet"
    await knit.adapter.cluster.create_claim(begun.volume)
    await knit.adapter.write_volume(_of(begun), {"word": b"imported"})
    answer = await _end(knit, token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["knitId"] == begun.knit_id
    assert (await _end(knit, token)).status_code == 409, "it has been used"
    await asyncio.to_thread(knit, "data", "tag", "--add", "type:import", begun.knit_id)
    assert await _result(knit, plan_id) == {"word": b"imported"}
    # The claim is knit's own from now on.
    await asyncio.to_thread(_delete_runs, knit, plan_id, begun.run_id)
    await _eventually(lambda: _is_gone(knit, begun.volume))


async def test_claims_are_adopted_and_stay(knit: Knit) -> None:
    """By a manifest, and by it again; a Run reads them; deleted, they are left as they are."""
    files = {"word": b"theirs"}
    foreign = knit.adapter.foreign_volume
    async with foreign(files) as one, foreign(files) as other:
        manifest = knit.folder / "claims.yaml"
        manifest.write_text(
            f"- volume: {one}\n  tags: ['type:adopt', 'n:1']\n- volume: {other}\n  tags: {{n: 2}}\n"
        )
        adopt = ("data", "adopt", "--manifest", str(manifest))
        found = await asyncio.to_thread(knit.json, *adopt)
        assert [(item["volume"], item["outcome"]) for item in found] == [
            (one, "new"),
            (other, "new"),
        ]
        again = await asyncio.to_thread(knit.json, *adopt)
        assert [item["outcome"] for item in again] == ["known", "known"]
        assert [item["data"] for item in again] == [item["data"] for item in found]
        plan_id = await asyncio.to_thread(knit.apply, "adopt", COPIES)
        assert await _result(knit, plan_id) == files
        data = found[0]["data"]
        await asyncio.to_thread(_delete_runs, knit, plan_id, data["upstream"]["run"]["runId"])
        unknown = await knit.ask("GET", f"/data/{data['knitId']}/metadata")
        assert unknown.status_code == 404
        purged = await asyncio.to_thread(knit.json, "data", "purge", found[1]["data"]["knitId"])
        assert purged[0]["kept_volume"] == other
        await _collects(knit)
        assert {one, other} <= await knit.adapter.cluster.claims()
        for name in (one, other):
            assert await knit.adapter.read_volume(Volume(name, name)) == files


async def test_a_claim_that_a_run_may_still_write_is_refused(knit: Knit) -> None:
    """And any other that is not there or that many cannot read; nothing of the rest is adopted."""
    endless = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    plan_id = await asyncio.to_thread(knit.apply, "busy", endless)
    await asyncio.to_thread(knit.push, "busy", word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "running")
    written = names.volume(run["outputs"][0]["knitId"])
    assert written in await knit.adapter.cluster.claims()
    async with knit.adapter.foreign_volume({"word": b"x"}) as fine:
        wanted = [{"volume": name, "tags": []} for name in (fine, written, "no-such-claim")]
        answer = await knit.ask("POST", "/adoptions", json={"volumes": wanted})
        assert answer.status_code == 400, answer.text
        reason = answer.json()["message"]["reason"]
        assert f"{written} is knit's own: a Run may still write it" in reason
        assert "there is no claim no-such-claim" in reason
        wanted = [{"volume": fine, "tags": []}]
        dry = await knit.ask("POST", "/adoptions", json={"volumes": wanted, "dry_run": True})
        assert [one["outcome"] for one in dry.json()] == ["new"]
    await asyncio.to_thread(knit, "run", "stop", "--fail", run["runId"])
    await asyncio.to_thread(knit.run_of, plan_id, "failed")


async def test_a_purge_frees_the_claim_and_keeps_the_lineage(knit: Knit) -> None:
    """The collection deletes it; what was made of it stays, and is known to be."""
    plan_id = await asyncio.to_thread(knit.apply, "purge", COPIES)
    pushed = await asyncio.to_thread(knit.push, "purge", word="bytes")
    assert await _result(knit, plan_id) == {"word": b"bytes"}
    run = await asyncio.to_thread(knit.run_of, plan_id, "done")
    made = run["outputs"][0]["knitId"]
    claim = names.volume(KnitId(pushed))
    [foreseen] = await asyncio.to_thread(knit.json, "data", "purge", "--dry-run", pushed)
    assert foreseen["volume"] == claim
    assert foreseen["bytes"] > 0
    [purged] = await asyncio.to_thread(knit.json, "data", "purge", pushed)
    assert (purged["outcome"], purged["volume"]) == ("purged", claim)
    await _eventually(lambda: _is_gone(knit, claim))
    tree = await asyncio.to_thread(knit, "data", "lineage", "--format", "tree", made)
    assert pushed in tree
    known = await asyncio.to_thread(knit.json, "data", "find", "-t", "knit#transient:purged")
    assert pushed in {one["knitId"] for one in known}
    retry = await knit.ask("PUT", f"/runs/{run['runId']}/retry")
    assert retry.status_code == 409
    assert pushed in retry.json()["message"]["reason"]
    [again] = await asyncio.to_thread(knit.json, "data", "purge", pushed)
    assert again["outcome"] == "known"
    assert (await asyncio.to_thread(knit.run_of, plan_id, "done"))["runId"] == run["runId"]


def _end(knit: Knit, token: str) -> Awaitable[httpx.Response]:
    headers = {"Content-Type": "application/jwt"}
    return knit.ask("POST", "/data/import/end", content=token, headers=headers)


def _of(begun: Import) -> Volume:
    return Volume(begun.volume, begun.knit_id)


async def _result(knit: Knit, plan_id: str) -> dict[str, bytes]:
    """Gives what the Plan's only Run has made."""
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "done", json.dumps(run)
    made = run["outputs"][0]["knitId"]
    await asyncio.to_thread(knit, "data", "pull", "-x", made, str(knit.folder))
    return {file.name: file.read_bytes() for file in Path(knit.folder, made).iterdir()}


def _delete_runs(knit: Knit, plan_id: str, source: str) -> None:
    """Deletes the Plan's only Run, then the one that its input is from."""
    knit("run", "rm", knit.run_of(plan_id, "done")["runId"])
    knit("run", "rm", source)


async def _collects(knit: Knit) -> None:
    """Waits until something that is discarded now is collected."""
    pushed = await asyncio.to_thread(knit.push, "collected", word="x")
    await asyncio.to_thread(knit, "data", "purge", pushed)
    await _eventually(lambda: _is_gone(knit, names.volume(KnitId(pushed))))


async def _is_gone(knit: Knit, claim: str) -> bool:
    return claim not in await knit.adapter.cluster.claims()


async def _eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN):
        while not await condition():
            await asyncio.sleep(0.2)
