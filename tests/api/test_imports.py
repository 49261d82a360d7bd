"""`/data/import/begin` and `end`: the statuses for every token that there may be."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from knit_workflows.domain.accounts import jws
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.imports import Import, ImportTimes, import_of
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.volumes import Volume
from tests.api.test_catalogue import refused

JWT = {"Content-Type": "application/jwt"}
PATHS = ["/data/import", "/backend/data/import"]


async def begin(client, path: str = PATHS[0]) -> tuple[str, Import]:
    answer = await client.post(f"{path}/begin")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jwt"
    return answer.text, import_of(jws.read(answer.text).claims)


async def make(transfers, begun: Import) -> None:
    """What the importer does."""
    await transfers.backend.create_volume(Volume(begun.volume, begun.knit_id))


def end(client, token: str, path: str = PATHS[0], **more):
    return client.post(f"{path}/end", content=token, headers=JWT, **more)


@pytest.mark.parametrize("path", PATHS)
async def test_a_volume_that_is_handed_over_is_data(client, store, transfers, path):
    token, begun = await begin(client, path)
    assert begun.volume == f"data-knitid-{begun.knit_id}"
    run = (await client.get(f"/runs/{begun.run_id}")).json()
    assert (run["status"], run["plan"]["name"]) == ("running", "knit#imported")
    await make(transfers, begun)
    answer = await end(client, token, path)
    assert answer.status_code == 200
    data = answer.json()
    assert data["knitId"] == begun.knit_id
    assert data["upstream"]["run"]["status"] == "done"
    assert data["upstream"]["mountpoint"]["path"] == "/imported"
    assert data == (await client.get(f"/data/{begun.knit_id}/metadata")).json()


async def test_each_import_is_another(client):
    tokens = [(await begin(client))[0] for _ in range(3)]
    claims = [jws.read(token).claims for token in tokens]
    for name in ("jti", "sub", "knitfab/knitId", "knitfab/runId"):
        assert len({one[name] for one in claims}) == 3
    assert len({jws.read(token).kid for token in tokens}) == 1


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "application/json"}, None),
        ({"Content-Type": "application/jwt; charset=utf-8"}, None),
        ({}, None),
        (JWT, ""),
        (JWT, " \n"),
    ],
)
async def test_what_is_no_request_for_an_end_is_400(client, transfers, headers, content):
    token, begun = await begin(client)
    await make(transfers, begun)
    body = token if content is None else content
    await refused(client.post("/data/import/end", content=body, headers=headers), 400)
    assert (await end(client, token)).status_code == 200


async def test_without_the_volume_it_is_400_and_may_be_ended_again(client, store, transfers):
    token, begun = await begin(client)
    message = await refused(end(client, token), 400)
    assert begun.volume in message["reason"]
    assert store.memory.runs[begun.run_id].status is RunStatus.RUNNING
    await make(transfers, begun)
    assert (await end(client, token)).status_code == 200


async def test_a_forged_token_is_401(client, store, transfers):
    """Signed with another key under that name, changed, unsigned, or no token at all."""
    token, begun = await begin(client)
    other, another = await begin(client)
    await make(transfers, begun)
    await make(transfers, another)
    kid = jws.read(token).kid
    head, claims, signature = token.split(".")
    for forged in (
        jws.sign(begun.claims(), kid=kid, secret=bytes(256)),
        f"{head}.{other.split('.')[1]}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{'A' * 43}",
        "no token",
        "ü",
        "a.b.c",
        token + "\0",
        *(jws.sign(begun.claims(), kid=one, secret=bytes(256)) for one in ("\ud800", "\0", "é")),
    ):
        await refused(end(client, forged), 401)
    assert store.memory.runs[begun.run_id].status is RunStatus.RUNNING


async def test_a_token_for_something_else_is_401(client, store):
    key = await store.imports.signing_key(ImportTimes())
    await refused(end(client, jws.sign({"sub": "x"}, kid=key.kid, secret=key.secret)), 401)


async def test_a_key_that_is_not_known_is_500(client):
    """As the contract has it."""
    _, begun = await begin(client)
    await refused(end(client, jws.sign(begun.claims(), kid="other", secret=b"x")), 500)


async def test_a_token_of_an_expired_key_is_401(client, store, transfers):
    token, begun = await begin(client)
    await make(transfers, begun)
    kid = jws.read(token).kid
    store.memory.keys[kid] = replace(store.memory.keys[kid], age=timedelta(hours=3, seconds=1))
    message = await refused(end(client, token), 401)
    assert "expired" in message["reason"]


async def test_a_token_works_once(client, transfers):
    token, begun = await begin(client)
    await make(transfers, begun)
    assert (await end(client, token)).status_code == 200
    await refused(end(client, token), 409)


async def test_an_import_that_is_over_is_409(client, store, transfers):
    """Stopped, not ended in time, deleted: whether there is a volume or not."""
    stopped, of_stopped = await begin(client)
    await client.put(f"/runs/{of_stopped.run_id}/abort")
    late, of_late = await begin(client)
    store.memory.runs[of_late.run_id].created_at -= timedelta(minutes=31)
    deleted, of_deleted = await begin(client)
    store.set_status(of_deleted.run_id, RunStatus.FAILED)
    assert (await client.delete(f"/runs/{of_deleted.run_id}")).status_code == 204
    await make(transfers, of_stopped)
    for token in (stopped, late, deleted):
        await refused(end(client, token), 409)


async def test_without_workers_it_may_be_ended_later(client, transfers):
    token, begun = await begin(client)
    await make(transfers, begun)
    transfers.broken = EngineUnavailable()
    await refused(end(client, token), 503)
    transfers.broken = None
    assert (await end(client, token)).status_code == 200


async def test_a_huge_body_is_refused(client):
    await refused(end(client, "x" * (5 << 20)), 413)


async def test_a_user_does_not_say_that_it_is_complete(client):
    _, begun = await begin(client)
    await refused(client.put(f"/runs/{begun.run_id}/tearoff"), 409)
