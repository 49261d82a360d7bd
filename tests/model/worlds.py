"""The real systems that are compared with the model.

`FastWorld` is the API on a real store; the engine's steps are the test's to take, through the ports
and in the ways of `activities/`. `WholeWorld` is all of it: Temporal, the workflows, a back-end.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from fastapi import FastAPI
from pydantic import SecretStr

from knit_api.deps import Deps, Lazy
from knit_api.error_responses import STATUS, nearest
from knit_workflows import names
from knit_workflows.activities.transfers.transfer import BROKEN_CODE
from knit_workflows.client import KnitClient, TransferHandle
from knit_workflows.contracts.volumes import Question, VolumeAnswer
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunStatus
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import QueueSettings, StoreSettings
from knit_workflows.store import PostgresStore
from knit_workflows.testing import KnitEnvironment, MemoryBackend, knit_environment
from tests.api.access import nobody_asks
from tests.postgres import Databases

LATE = Exit(BROKEN_CODE, "the import was not ended in time")
WINDOW = timedelta(minutes=30)
FAILED = Exit(1, "(container main) Error")
EVERYTHING = AdmissionLimits(total=1_000_000)


class Api:
    """The app in process, without sockets."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        # The status of an error is the test's to judge; one that is no answer at all is a bug.
        token = {"content": body, "headers": {"Content-Type": "application/jwt"}}
        sent: dict[str, Any] = token if isinstance(body, str) else {"json": body}
        answer = await self._client.request(method, path, **sent)
        assert answer.status_code < 500, f"{method} {path}: {answer.text}"
        return answer

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()


class Volumes:
    """What the back-end of `FastWorld` says: all volumes of others are there, of knit's only some.

    Stands where the API has its client of the engine.
    """

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def ping(self) -> None:
        pass

    async def look_at_volumes(self, question: Question, volumes: list[str]) -> list[VolumeAnswer]:
        missing = set(volumes) - self.there if question == "bound" else set[str]()
        return [
            VolumeAnswer(name=one, reason="it is missing" if one in missing else "")
            for one in volumes
        ]


@asynccontextmanager
async def _api(
    app: FastAPI, store: PostgresStore, transfers: KnitClient | Volumes
) -> AsyncIterator[Api]:
    app.state.deps = Deps(Lazy.of(store), Lazy.of(transfers), nobody_asks())  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield Api(client)
    await app.state.deps.aclose()


class FastWorld:
    """The API and the store. Steps of the engine give the HTTP status of a refusal, or 200."""

    def __init__(self, api: Api, store: PostgresStore, volumes: Volumes, url: str) -> None:
        self.api = api
        self.store = store
        self._volumes = volumes
        self._url = url

    @classmethod
    @asynccontextmanager
    async def opened(cls, app: FastAPI, databases: Databases) -> AsyncIterator[FastWorld]:
        """One on a database of its own: a clone, so that examples cannot know of each other."""
        url = await databases.migrated()
        store = PostgresStore(StoreSettings(url=SecretStr(url)))
        await store.open()
        volumes = Volumes()
        async with _api(app, store, volumes) as api:
            yield cls(api, store, volumes, url)
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

    def foreign_volume(self, number: int) -> str:
        return f"/lab/{number}"

    async def make_volume(self, knit_id: str) -> None:
        """As an importer does it."""
        self._volumes.there.add(names.volume(knit_id))

    async def grow_old(self, run_id: str) -> None:
        """Lets the time of an import go by."""
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            older = "UPDATE run SET created_at = created_at - %s WHERE run_id = %s"
            await connection.execute(older, [WINDOW, run_id])

    async def end_late_imports(self) -> None:
        """As housekeeping does it."""
        for one in await self.store.housekeeping.unfinished_imports(
            window=WINDOW, older_than=timedelta(0), limit=100
        ):
            if one.status is RunStatus.RUNNING:
                aborting = RunStatus.ABORTING
                await self.store.execution.advance(one.key, aborting, cause="model", exit=LATE)
            await self.store.execution.finish(one.key, cause="model")

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

    async def relaunch(self, run_id: str, generation: int, limit: int) -> int:
        key = RunKey(RunId(run_id), generation)
        return await refused(self.store.execution.relaunch(key, cause="model", limit=limit))

    async def deliver_stops(self) -> None:
        """Stands for the Projector, and for the workflows that hear of a stop and end the pod."""
        await self.store.admission.finish_unstarted()
        for order in await self.store.admission.stop_requests():
            await self.store.execution.finalize(order.key, cause="model")
            await self.store.admission.close_event(order.event_id)


class WholeWorld:
    """All of knit; the only thing that a test has a hand in is when and how run pods end."""

    def __init__(self, api: Api, knit: KnitEnvironment, client: KnitClient, folder: Path) -> None:
        self.api = api
        self._folder = folder
        self._knit = knit
        self._client = client
        self._uploads: dict[str, TransferHandle] = {}

    @property
    def _backend(self) -> MemoryBackend:
        assert isinstance(self._knit.backend, MemoryBackend)
        return self._knit.backend

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
                with tempfile.TemporaryDirectory() as folder:
                    yield cls(api, knit, client, Path(folder).resolve())

    async def begin_upload(self) -> tuple[str, str]:
        opened = await self._client.open_upload()
        assert opened.run_id is not None
        self._uploads[opened.run_id] = opened
        return opened.run_id, opened.knit_id

    async def end_upload(self, run_id: str, ok: bool) -> None:
        await self._client.finish(self._uploads.pop(run_id), ok=ok, reason="" if ok else "broken")

    def foreign_volume(self, number: int) -> str:
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        return str(folder)

    async def make_volume(self, knit_id: str) -> None:
        """As an importer does it."""
        await self._backend.create_volume(Volume(names.volume(knit_id), knit_id))

    async def end_pod(self, run_id: str, generation: int, ok: bool) -> None:
        self._backend.finish(names.run_pod(run_id, generation), SUCCEEDED if ok else FAILED)


async def refused(attempt: Any) -> int:
    """Gives the HTTP status that a refusal of the store would have, 200 when it is none."""
    try:
        await attempt
    except KnitError as error:
        return nearest(STATUS, error, 500)
    return 200
