"""`Idempotency-Key` of POST /api/data: one key, one Data at most, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from knit_api.deps import Deps, Lazy
from knit_workflows import names
from knit_workflows.client import upload_for_key
from knit_workflows.domain.data import DataQuery
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import KnitEnvironment, knit_environment
from tests.api.access import nobody_asks
from tests.api.archives import HELLO, files_in, tar_of
from tests.api.live_server import chunk, serving, talk
from tests.api.test_processes import api as api_process
from tests.api.test_real_parts import environment_of
from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient  # it needs a Temporal server

TAR = {"Content-Type": "application/x-tar"}
OTHER = {"b.txt": b"other"}


@dataclass
class Api:
    """The API on the real store and Temporal, in process and behind a socket."""

    knit: KnitEnvironment
    client: httpx.AsyncClient
    port: int
    before: int = 0
    """Data that other tests have made."""

    async def push(
        self, key: object, files: dict[str, bytes] = HELLO, tag: str = "type:keyed"
    ) -> httpx.Response:
        headers = TAR | {"Idempotency-Key": str(key)}
        return await self.client.post(f"/data?tag={tag}", content=tar_of(files), headers=headers)

    async def data_of(self, key: UUID) -> list[str]:
        """Statuses of the Data with this key: one or none."""
        found = await self.knit.store.data.find(DataQuery(tags=()))
        wanted = upload_for_key(key).knit_id
        return [str(one.upstream.run.status) for one in found if one.knit_id == wanted]

    async def all_data(self) -> int:
        """How many Data this test has made."""
        return len(await self.knit.store.data.find(DataQuery(tags=()))) - self.before


@pytest.fixture(scope="module")
async def knit(postgres: EmbeddedPostgres) -> AsyncIterator[KnitEnvironment]:
    async with knit_environment(postgres=postgres) as environment:
        yield environment


@pytest.fixture
async def api(one_app: FastAPI, knit: KnitEnvironment) -> AsyncIterator[Api]:
    deps = Deps(Lazy.of(knit.store), Lazy.of(knit.knit), nobody_asks())
    one_app.state.deps = deps
    async with serving(one_app, linger_timeout=PATIENCE) as port:
        base = f"http://127.0.0.1:{port}/api"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=PATIENCE) as client:
            api = Api(knit, client, port)
            api.before = await api.all_data()
            yield api
    await deps.aclose()


async def test_the_second_request_gets_the_data_of_the_first(api: Api):
    """As it is now: the key decides, whatever body and tags the second has."""
    key = uuid4()
    first = await api.push(key)
    assert first.status_code == 200, first.text
    knit_id = first.json()["knitId"]
    await api.client.put(f"/data/{knit_id}", json={"remove": ["type:keyed"], "add": ["now:this"]})
    for again in (await api.push(key), await api.push(str(key).upper(), OTHER, "type:other")):
        assert again.status_code == 200
        assert again.json()["knitId"] == knit_id
        tags = [tag for tag in again.json()["tags"] if not tag.startswith("knit#")]
        assert tags == ["now:this"]
    assert await api.all_data() == 1
    pulled = await api.client.get(f"/data/{knit_id}", headers={"Accept": TAR["Content-Type"]})
    assert files_in(pulled.content) == HELLO


async def test_without_a_key_each_request_makes_a_data(api: Api):
    for _ in range(2):
        answer = await api.client.post("/data", content=tar_of(HELLO), headers=TAR)
        assert answer.status_code == 200
    await api.push(uuid4())
    assert await api.all_data() == 3


async def test_many_at_once_make_one_data(api: Api):
    """One goes through; the others get its Data, or learn that it is in progress."""
    key = uuid4()
    answers = await asyncio.gather(*(api.push(key) for _ in range(8)))
    done = [one.json()["knitId"] for one in answers if one.status_code == 200]
    others = [one for one in answers if one.status_code != 200]
    assert set(done) == {upload_for_key(key).knit_id}
    assert {(one.status_code, one.headers["Retry-After"]) for one in others} <= {(409, "2")}
    assert await api.data_of(key) == ["done"]
    assert await api.all_data() == 1


async def test_while_the_first_is_under_way_the_second_is_told_to_wait(api: Api):
    key, go_on = uuid4(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield tar_of(HELLO)[:600]
        await go_on.wait()
        yield tar_of(HELLO)[600:]

    headers = TAR | {"Idempotency-Key": str(key)}
    first = asyncio.create_task(api.client.post("/data", content=slowly(), headers=headers))
    while not await api.data_of(key):
        await asyncio.sleep(0.01)
    second = await api.push(key)
    assert second.status_code == 409
    assert second.headers["Retry-After"]
    assert "wait" in second.json()["message"]["advice"]
    assert second.json()["message"]["see"] == upload_for_key(key).run_id
    go_on.set()
    assert (await first).status_code == 200
    assert (await api.push(key)).json()["knitId"] == (await first).json()["knitId"]


async def test_between_the_start_and_the_rows_the_second_is_told_to_wait(
    postgres: EmbeddedPostgres, one_app: FastAPI
):
    """Temporal has the workflow, but no worker has begun: still nobody else gets the transfer."""
    async with knit_environment(postgres=postgres, work=False) as knit:
        one_app.state.deps = Deps(Lazy.of(knit.store), Lazy.of(knit.knit), nobody_asks())
        key = uuid4()
        opening = asyncio.create_task(knit.knit.open_upload(key))
        workflow_id = names.transfer_workflow(upload_for_key(key).transfer_id)
        workflow = knit.temporal.get_workflow_handle(workflow_id)
        while not await is_there(workflow):
            await asyncio.sleep(0.02)
        transport = httpx.ASGITransport(one_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x/api") as client:
            headers = TAR | {"Idempotency-Key": str(key)}
            answer = await client.post("/data", content=tar_of(HELLO), headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (409, "2")
        opening.cancel()
        await workflow.terminate("end of the test")


async def test_a_key_whose_upload_failed_is_spent(api: Api):
    """What failed stays so, and the next key works; nothing matches in between."""
    key = uuid4()
    refused = await api.client.post(
        "/data", content=b"no archive", headers=TAR | {"Idempotency-Key": str(key)}
    )
    assert refused.status_code == 400
    for _ in range(2):
        again = await api.push(key)
        assert again.status_code == 409
        assert "Retry-After" not in again.headers
        assert "another key" in again.json()["message"]["advice"]
        assert again.json()["message"]["see"] == upload_for_key(key).run_id
    assert await api.data_of(key) == ["failed"]
    assert (await api.push(uuid4())).status_code == 200


async def test_a_key_whose_data_was_deleted_is_spent(api: Api):
    """Who deleted it does not find it again because a client was slow."""
    key = uuid4()
    run_id = (await api.push(key)).json()["upstream"]["run"]["runId"]
    while (await api.client.delete(f"/runs/{run_id}")).status_code != 204:
        await asyncio.sleep(0.02)  # its transfer is still being closed
    again = await api.push(key)
    assert again.status_code == 409
    assert "Retry-After" not in again.headers
    assert await api.all_data() == 0


async def test_a_volume_that_is_to_be_deleted_is_not_filled_again(api: Api):
    """Temporal may have forgotten the key; what deletes the volume has not run yet."""
    key = uuid4()
    upload = upload_for_key(key)
    with psycopg.connect(api.knit.url) as database:
        database.execute(
            "INSERT INTO discarded (knit_id, volume, at) VALUES (%s, %s, now())",
            (upload.knit_id, names.volume(upload.knit_id)),
        )
    answer = await api.push(key)
    assert answer.status_code == 409
    assert await api.all_data() == 0


async def test_an_id_of_something_else_is_only_a_key(api: Api):
    """A key that is the id of a Data, or of its Run, has nothing to do with it."""
    first = (await api.push(uuid4())).json()
    for key in (first["knitId"], first["upstream"]["run"]["runId"]):
        made = await api.push(key)
        assert made.status_code == 200
        assert made.json()["knitId"] != first["knitId"]
    assert await api.all_data() == 3


@pytest.mark.parametrize(
    "values", [[""], ["abc"], ["1" * 32], [str(uuid4()) + "x"], [str(uuid4()), str(uuid4())]]
)
async def test_a_malformed_key_is_refused_before_anything_is_made(api: Api, values: list[str]):
    headers = [*TAR.items(), *(("Idempotency-Key", value) for value in values)]
    answer = await api.client.post("/data", content=tar_of(HELLO), headers=headers)
    assert answer.status_code == 400
    assert "UUID" in answer.json()["message"]["advice"]
    assert await api.all_data() == 0


async def test_an_answer_that_was_lost_is_given_to_who_asks_again(api: Api):
    """The client is gone when the Data is done."""
    key = uuid4()
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head_of(key) + chunk(tar_of(HELLO)) + b"0\r\n\r\n")
    await writer.drain()
    writer.close()
    while (again := await api.push(key)).status_code == 409:
        assert again.headers["Retry-After"]
        await asyncio.sleep(0.02)
    assert again.json()["knitId"] == upload_for_key(key).knit_id
    assert await api.data_of(key) == ["done"]
    assert await api.all_data() == 1


async def test_who_sends_all_before_looking_gets_the_answer_too(api: Api):
    """The body is longer than what the network holds, and nobody wants it."""
    key = uuid4()
    await api.push(key)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head_of(key))
    block = chunk(bytes(1 << 20))
    for _ in range(32):
        writer.write(block)
        await writer.drain()
    # Before the end of the body.
    answer = await asyncio.wait_for(reader.readuntil(b"}\n"), PATIENCE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    writer.write(b"0\r\n\r\n")
    # And the connection goes on.
    writer.write(b"GET /api/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    version = await asyncio.wait_for(reader.read(), PATIENCE)
    assert version.startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_who_waits_for_leave_to_send_sends_nothing(api: Api):
    key = uuid4()
    await api.push(key)
    head = head_of(key, "Expect: 100-continue\r\nConnection: close\r\n")
    answer = await talk(api.port, head)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_process_killed_within_the_body_spends_the_key(api: Api, tmp_path: Path):
    """Who asks another one is told to wait while it may still come to something, then no more."""
    key = uuid4()
    settings = environment_of(api.knit) | {"KNIT_ENGINE__TRANSFER_LEASE": "PT20S"}
    with api_process(tmp_path, **settings) as running:
        await asyncio.to_thread(running.waits_for, "store", "engine")

        async def deadly() -> AsyncIterator[bytes]:
            yield tar_of(HELLO)[:600]
            while not await api.data_of(key):
                await asyncio.sleep(0.02)
            running.process.kill()
            yield tar_of(HELLO)[600:]

        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                headers = TAR | {"Idempotency-Key": str(key)}
                await client.post(f"{running.url}/api/data", content=deadly(), headers=headers)
    told_to_wait = 0
    while "Retry-After" in (answer := await api.push(key)).headers:
        assert answer.status_code == 409
        told_to_wait += 1
        await asyncio.sleep(0.1)
    assert told_to_wait
    assert answer.status_code == 409
    assert await api.data_of(key) == ["failed"]


async def is_there(workflow: WorkflowHandle[Any, Any]) -> bool:
    try:
        await workflow.describe()
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND
        return False
    return True


def head_of(key: UUID, more: str = "") -> bytes:
    return (
        f"POST /api/data HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
        f"Idempotency-Key: {key}\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
    ).encode()
