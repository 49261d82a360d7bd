"""The real systems that are compared with the model.

`FastWorld` is the API on a real store; the engine's steps are the test's to take, through the ports
and in the ways of `activities/`. `WholeWorld` is all of it: Temporal, the workflows, a back-end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from knit_api.deps import Deps, Lazy
from knit_api.error_responses import STATUS, nearest
from knit_workflows import names
from knit_workflows.client import KnitClient, TransferHandle
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs import SUCCEEDED, Exit, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from tests.api.access import nobody_asks
from tests.postgres import Databases

FAILED = Exit(1, "(container main) Error")
EVERYTHING = AdmissionLimits(total=1_000_000)


class Api:
    """The app in process, without sockets."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        # The status of an error is the test's to judge; one that is no answer at all is a bug.
        answer = await self._client.request(method, path, json=body)
        assert answer.status_code < 500, f"{method} {path}: {answer.text}"
        return answer

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()


@asynccontextmanager
async def _api(
    app: FastAPI, store: PostgresStore, transfers: KnitClient | None
) -> AsyncIterator[Api]:
    app.state.deps = Deps(Lazy.of(store), Lazy.of(transfers), nobody_asks())  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield Api(client)
    await app.state.deps.aclose()


class FastWorld:
    """The API and the store. Steps of the engine give the HTTP status of a refusal, or 200."""

    def __init__(self, api: Api, store: PostgresStore) -> None:
        self.api = api
        self.store = store

    @classmethod
    @asynccontextmanager
    async def opened(cls, app: FastAPI, databases: Databases) -> AsyncIterator[FastWorld]:
        """One on a database of its own: a clone, so that examples cannot know of each other."""
        url = await databases.migrated()
        store = PostgresStore(StoreSettings(url=SecretStr(url)))
        await store.open()
        async with _api(app, store, None) as api:
            yield cls(api, store)
        await store.aclose()
        databases.give_back(url)

    async def begin_upload(self) -> tuple[str, str]:
        run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
        await self.store.transfers.begin_upload(f"upload-{run_id}", run_id, knit_id)
        return run_id, knit_id

    async def end_upload(self, run_id: str, ok: bool) -> None:
        """As `knit.close_transfer` does it."""
        key = RunKey(RunId(run_id), 1)
        target = RunStatus.COMPLETING if ok else RunStatus.ABORTING
        await self.store.execution.advance(key, target, cause="model", exit=None if ok else FAILED)
        await self.store.execution.finalize(key, cause="model")
        await self.store.transfers.closed(f"upload-{run_id}")

    async def open_download(self, knit_id: str) -> int:
        return await refused(
            self.store.transfers.begin_download(f"download-{knit_id}", KnitId(knit_id))
        )

    async def close_download(self, knit_id: str) -> None:
        await self.store.transfers.closed(f"download-{knit_id}")

    async def project(self, page_size: int) -> None:
        while await self.store.projection.project(page_size=page_size) is not None:
            pass

    async def admit(self, start: bool) -> list[tuple[str, int]]:
        """Gives what is to be started; without `start` the engine dies before it has noted that.

        The store admits so many at once; what is not started yet, it gives again.
        """
        keys: list[RunKey] = []
        while len(found := await self.store.admission.admit(EVERYTHING)) > len(keys):
            keys = [run.key for run in found]
        if start:
            await self.store.admission.started(keys)
        return [(key.run_id, key.generation) for key in keys]

    async def advance(self, run_id: str, generation: int, target: str, exit: int | None) -> int:
        key = RunKey(RunId(run_id), generation)
        ending = {None: None, 0: SUCCEEDED}.get(exit, FAILED)
        return await refused(
            self.store.execution.advance(key, RunStatus(target), cause="model", exit=ending)
        )

    async def finalize(self, run_id: str, generation: int) -> int:
        return await refused(
            self.store.execution.finalize(RunKey(RunId(run_id), generation), cause="model")
        )

    async def deliver_stops(self) -> None:
        """Stands for the Projector, and for the workflows that hear of a stop and end the pod."""
        await self.store.admission.finish_unstarted()
        for order in await self.store.admission.stop_requests():
            await self.store.execution.finalize(order.key, cause="model")
            await self.store.admission.close_event(order.event_id)


class WholeWorld:
    """All of knit; the only thing that a test has a hand in is when and how run pods end."""

    def __init__(self, api: Api, knit: KnitEnvironment, client: KnitClient) -> None:
        self.api = api
        self._knit = knit
        self._client = client
        self._uploads: dict[str, TransferHandle] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, app: FastAPI, postgres: EmbeddedPostgres) -> AsyncIterator[WholeWorld]:
        backend = MemoryBackend()
        backend.hold()
        async with knit_environment(postgres=postgres, backend=backend) as knit:
            # Uploads stay open while the test looks elsewhere.
            client = KnitClient(
                knit.temporal, lease=timedelta(minutes=30), queues=QueueSettings(compute="knit")
            )
            assert isinstance(knit.store, PostgresStore)
            async with _api(app, knit.store, client) as api:
                yield cls(api, knit, client)

    async def begin_upload(self) -> tuple[str, str]:
        opened = await self._client.open_upload()
        assert opened.run_id is not None
        self._uploads[opened.run_id] = opened
        return opened.run_id, opened.knit_id

    async def end_upload(self, run_id: str, ok: bool) -> None:
        await self._client.finish(self._uploads.pop(run_id), ok=ok, reason="" if ok else "broken")

    async def end_pod(self, run_id: str, generation: int, ok: bool) -> None:
        backend = self._knit.backend
        assert isinstance(backend, MemoryBackend)
        backend.finish(names.run_pod(run_id, generation), SUCCEEDED if ok else FAILED)


async def refused(attempt: Any) -> int:
    """Gives the HTTP status that a refusal of the store would have, 200 when it is none."""
    try:
        await attempt
    except KnitError as error:
        return nearest(STATUS, error, 500)
    return 200
