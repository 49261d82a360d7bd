"""Pushes and pulls survive kill -9 of the worker at every event and commit of `knit.Transfer`.

The API is a process of its own, which stays; what becomes of a transfer when it is the API that
dies is here too. `make test` takes some moments of each sweep, `make soak` all: KNIT_SWEEP_MOMENTS.
"""

from __future__ import annotations

import asyncio
import io
import random
import tarfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from temporalio.client import Client, WorkflowHandle

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from tests.api.archives import tar_of
from tests.api.test_processes import Api, api
from tests.chaos.gates import Gate
from tests.chaos.installation import Facts, Installation, eventually, installation
from tests.chaos.moments import AtEvent, Moment, When, chosen, commits
from tests.chaos.test_projector_sweep import all_is_projected
from tests.waiting import PATIENCE, until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

FILES: Final = {"first": b"first", "large": random.Random(7).randbytes(12 << 20)}
"""More than all buffers between a volume and a client hold."""
TAR: Final = {"Content-Type": "application/x-tar", "Accept": "application/x-tar"}
BEGUN: Final = Gate("the rows of an upload", "transfer", "INSERT")
OPENED: Final = Gate("where a transfer leads", "transfer", "UPDATE")
COMPLETING: Final = Gate(
    "an upload completing", "run", "UPDATE", "OLD.status = 'running' AND NEW.status = 'completing'"
)
DONE: Final = Gate(
    "an upload done", "run", "UPDATE", "OLD.status <> 'done' AND NEW.status = 'done'"
)
CLOSED: Final = Gate("a transfer closed", "transfer", "DELETE")
READING: Final = (BEGUN, OPENED, CLOSED)
WRITING: Final = (BEGUN, OPENED, COMPLETING, DONE, CLOSED)


@dataclass
class Counter:
    """An installation with an API, and the transfers that went over it."""

    site: Installation
    api: Api
    http: httpx.AsyncClient
    seen: set[str] = field(default_factory=set)

    async def begun(self) -> WorkflowHandle[Any, Any]:
        """Waits for the workflow of the transfer that has just begun."""
        query = f"WorkflowType = '{names.TRANSFER_WORKFLOW}'"
        async with asyncio.timeout(PATIENCE):
            while True:
                async for one in self.site.temporal.list_workflows(query):
                    if one.id not in self.seen:
                        self.seen.add(one.id)
                        return self.site.temporal.get_workflow_handle(one.id)
                await asyncio.sleep(0.005)

    async def rows(self) -> dict[str, int]:
        """Counts the rows of what a transfer makes, and the volumes."""
        counted = {
            table: int((await self.site.gates.ask(f"SELECT count(*) FROM {table}"))[0][0])
            for table in ("run", "data", "transfer", "discarded", "outbox")
        }
        return counted | {"volume": len(self.site.left("volumes"))}

    async def data_with(self, tag: str) -> list[dict[str, Any]]:
        """Finds Data by a tag."""
        answer = await self.http.get("/data", params={"tag": tag})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def content(self, knit_id: str) -> dict[str, bytes]:
        """Gives the files in the volume of a Data."""
        folder = self.site.volume(KnitId(knit_id))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def half_arrived(self, before: set[str]) -> bool:
        """Says whether the first file of a push that is new since then is in its volume."""
        new = self.site.left("volumes") - before
        return any((self.site.state / "volumes" / one / "large").exists() for one in new)


@asynccontextmanager
async def counter(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path, *gates: Gate, **settings: str
) -> AsyncIterator[Counter]:
    """Starts everything."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            installation(postgres, temporal, folder, *gates, **settings)
        )
        yield await serving(stack, site)


async def serving(stack: AsyncExitStack, site: Installation) -> Counter:
    """Starts an API."""
    starting = api(site.folder, **site.environment)
    # In a thread: it waits, and meanwhile the worker must be heard.
    running = await asyncio.to_thread(stack.enter_context, starting)
    http = await stack.enter_async_context(
        httpx.AsyncClient(base_url=f"{running.url}/api", trust_env=False, timeout=PATIENCE)
    )
    return Counter(site, running, http)


async def push(counter: Counter, tag: str, go_on: asyncio.Event) -> httpx.Response:
    """Uploads the files with a tag; the second half of the archive not before `go_on`."""
    whole = tar_of(FILES)
    middle = len(whole) // 2

    async def halves() -> AsyncIterator[bytes]:
        yield whole[:middle]
        await go_on.wait()
        yield whole[middle:]

    return await counter.http.post("/data", params={"tag": tag}, content=halves(), headers=TAR)


async def pull(counter: Counter, knit_id: str, go_on: asyncio.Event) -> httpx.Response:
    """Downloads a Data; nothing after the first chunk is taken before `go_on`."""
    async with counter.http.stream("GET", f"/data/{knit_id}", headers=TAR) as answer:
        chunks = answer.aiter_raw(1 << 16)
        got = [await anext(chunks)]
        await go_on.wait()
        got += [chunk async for chunk in chunks]
    return httpx.Response(answer.status_code, content=b"".join(got))


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Gives the files in an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {one.name.removeprefix("./"): tar.extractfile(one).read()  # type: ignore[union-attr]
                for one in tar if one.isfile()}  # fmt: skip


# --- the worker dies ---------------------------------------------------------------------------


async def pushed(counter: Counter, moment: Moment | None) -> tuple[Facts, int]:
    """Pushes while the worker is killed; gives what is there then, and the number of events."""
    site, tag, go_on = counter.site, f"sweep:{uuid.uuid4().hex}", asyncio.Event()
    before, volumes = await counter.rows(), site.left("volumes")
    if isinstance(moment, When):
        moment = When(moment.name, lambda: counter.half_arrived(volumes))
    else:
        go_on.set()
    async with site.killed_at(moment) as followed:
        answering = asyncio.create_task(push(counter, tag, go_on))
        handle = await counter.begun()
        followed.set_result(handle)
    go_on.set()
    answer = await answering
    assert answer.status_code == 200, f"killed at {moment}: {answer.text}"
    await handle.result()
    (data,) = await counter.data_with(tag)
    run_id = RunId(data["upstream"]["run"]["runId"])
    after = await counter.rows()
    found: Facts = {
        "same": data["knitId"] == answer.json()["knitId"],
        "content": counter.content(data["knitId"]) == FILES,
        "history": [event.to_status for event in await site.store.runs.events(run_id)],
        "new": {key: after[key] - before[key] for key in after if key != "outbox"},
        "endpoints": site.left("transfers"),
    }
    return found, len((await handle.fetch_history()).events)


async def pulled(counter: Counter, knit_id: str, moment: Moment | None) -> tuple[Facts, int]:
    """Pulls while the worker is killed; gives what is there then, and the number of events."""
    site, go_on = counter.site, asyncio.Event()
    before = await counter.rows()
    if not isinstance(moment, When):
        go_on.set()
    async with site.killed_at(moment) as followed:
        answering = asyncio.create_task(pull(counter, knit_id, go_on))
        handle = await counter.begun()
        followed.set_result(handle)
    go_on.set()
    answer = await answering
    assert answer.status_code == 200, f"killed at {moment}: {answer.text}"
    await handle.result()
    after = await counter.rows()
    found: Facts = {
        "same": unpacked(answer.content) == FILES,
        "content": counter.content(knit_id) == FILES,
        "new": {key: after[key] - before[key] for key in after},
        "endpoints": site.left("transfers"),
    }
    return found, len((await handle.fetch_history()).events)


def in_the_middle(counter: Counter) -> When:
    """Gives the moment at which a transfer is open and half of the content has passed."""
    return When("half the content", lambda: bool(counter.site.left("transfers")))


async def test_a_push_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It succeeds once a worker is back: one Data, whole, with its tags, and no open transfer."""
    async with counter(postgres, temporal_client, tmp_path, *WRITING) as prepared:
        expected, events = await pushed(prepared, None)
        assert expected["content"]
        assert expected["history"] == ["running", "completing", "done"]
        assert expected["new"] == {"run": 1, "data": 1, "transfer": 0, "discarded": 0, "volume": 1}
        moments = [
            in_the_middle(prepared),
            *map(AtEvent, range(1, events + 1)),
            *commits(WRITING),
        ]
        for moment in chosen(moments):
            found, _ = await pushed(prepared, moment)
            assert found == expected, f"killed at {moment}"


async def test_a_pull_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It succeeds once a worker is back: the whole content, and no open transfer."""
    async with counter(postgres, temporal_client, tmp_path, *READING) as prepared:
        await pushed(prepared, None)
        # What the push means for Plans is found after it, and is no matter of the pull.
        await eventually(lambda: all_is_projected(prepared.site))
        knit_id = (await prepared.http.get("/data")).json()[0]["knitId"]
        expected, events = await pulled(prepared, knit_id, None)
        assert expected["same"]
        assert not expected["endpoints"]
        moments = [
            in_the_middle(prepared),
            *map(AtEvent, range(1, events + 1)),
            *commits(READING),
        ]
        for moment in chosen(moments):
            found, _ = await pulled(prepared, knit_id, moment)
            assert found == expected, f"killed at {moment}"


async def test_a_client_that_leaves_while_no_worker_is_there(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Its push leaves a failed Run, an empty volume and no open transfer."""
    async with counter(postgres, temporal_client, tmp_path) as prepared:
        site, tag = prepared.site, "sweep:left"
        volumes = site.left("volumes")
        answering = asyncio.create_task(push(prepared, tag, asyncio.Event()))
        handle = await prepared.begun()
        await until(lambda: prepared.half_arrived(volumes))
        site.kill()
        answering.cancel()
        await asyncio.wait({answering})
        (data,) = await prepared.data_with(tag)
        await until(lambda: not any(site.volume(KnitId(data["knitId"])).iterdir()))
        site.worker.start()
        await handle.result()
        await assert_failed(prepared, tag)


# --- the end of a push is cut off by hand ------------------------------------------------------


@pytest.mark.parametrize("how", ["terminate", "cancel"])
@pytest.mark.parametrize("kept", [True, False])
async def test_data_that_becomes_done_keeps_its_content(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path, how: str, kept: bool
) -> None:
    """Somebody ends the workflow in the very moment in which the Data is made done.

    The client hears that the transfer is over. Its Run is completing, so the Data becomes done, by
    this step or by housekeeping, and then it has to be whole.
    """
    housekeeping = {"KNIT_ENGINE__GC_INTERVAL": "PT1S", "KNIT_ENGINE__GC_GRACE_PERIOD": "PT1S"}
    async with counter(postgres, temporal_client, tmp_path, DONE, **housekeeping) as prepared:
        site, tag, go_on = prepared.site, "sweep:cut", asyncio.Event()
        go_on.set()
        await site.gates.close(DONE)
        answering = asyncio.create_task(push(prepared, tag, go_on))
        handle = await prepared.begun()
        await site.gates.arrived(DONE)
        await (handle.terminate("by hand") if how == "terminate" else handle.cancel())
        answer = await answering
        assert answer.status_code in (409, 503), answer.text
        assert answer.json()["message"]["advice"]
        if not kept:
            await site.gates.turn_back(DONE)
        await site.gates.open(DONE)
        (data,) = await prepared.data_with(tag)
        run_id = RunId(data["upstream"]["run"]["runId"])
        await eventually(lambda: is_final(site, run_id))
        run = await site.store.runs.get(run_id)
        assert run.summary.status is RunStatus.DONE
        assert prepared.content(data["knitId"]) == FILES
        await until(lambda: not site.left("transfers"))


async def is_final(site: Installation, run_id: RunId) -> bool:
    """Says whether a Run has ended."""
    return (await site.store.runs.get(run_id)).summary.status in (RunStatus.DONE, RunStatus.FAILED)


# --- the API dies ------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", ["", "the worker is killed", "the workflow is terminated"])
async def test_the_api_dies_in_the_middle(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path, meanwhile: str
) -> None:
    """The lease, or housekeeping, ends its transfers: the push fails and means no Run.

    The Data that was read is as it was; the same push succeeds at another API.
    """
    settings = {
        "KNIT_ENGINE__TRANSFER_LEASE": "PT10S",
        "KNIT_ENGINE__GC_INTERVAL": "PT1S",
        "KNIT_ENGINE__GC_GRACE_PERIOD": "PT1S",
    }
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            installation(postgres, temporal_client, tmp_path, **settings)
        )
        first, never = await serving(stack, site), asyncio.Event()
        await pushed(first, None)
        (given,) = (await first.http.get("/data")).json()
        plan = await first.http.post("/plans", json=PLAN)
        assert plan.status_code == 200, plan.text
        volumes = site.left("volumes")
        going = [
            asyncio.create_task(push(first, "sweep:api", never)),
            asyncio.create_task(pull(first, given["knitId"], never)),
        ]
        handles = [await first.begun(), await first.begun()]
        await until(lambda: first.half_arrived(volumes) and len(site.left("transfers")) == 2)
        first.api.process.kill()
        if meanwhile == "the worker is killed":
            site.kill()
            site.worker.start()
        elif meanwhile == "the workflow is terminated":
            for handle in handles:
                await handle.terminate("by hand")
        for one in going:
            one.cancel()
        await asyncio.wait(going)
        second = await serving(stack, site)
        await until(lambda: not site.left("transfers"))
        await eventually(lambda: no_transfer(second))
        await assert_failed(second, "sweep:api", empty=False)
        assert second.content(given["knitId"]) == FILES
        go_on = asyncio.Event()
        go_on.set()
        assert (await push(second, "sweep:api", go_on)).status_code == 200
        query = RunQuery(plan_ids=frozenset({plan.json()["planId"]}))

        async def has_run() -> bool:
            return bool(await site.store.runs.find(query))

        await eventually(has_run)
        assert len(await site.store.runs.find(query)) == 1


PLAN: Final = {
    "image": "host/sh:1",
    "entrypoint": ["true"],
    "inputs": [{"path": "/in", "tags": ["sweep:api"]}],
}


async def no_transfer(counter: Counter) -> bool:
    """Says whether every transfer is closed."""
    return (await counter.rows())["transfer"] == 0


async def assert_failed(counter: Counter, tag: str, *, empty: bool = True) -> None:
    """Looks that the one Data with a tag has failed, and that nothing is open any more."""
    (data,) = await counter.data_with(tag)
    assert "knit#transient:failed" in data["tags"]
    assert data["upstream"]["run"]["status"] == "failed"
    assert not (counter.content(data["knitId"]) if empty else counter.site.left("transfers"))
    assert (await counter.rows())["transfer"] == 0
