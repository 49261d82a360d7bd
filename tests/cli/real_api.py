"""The real API in process, on a store in memory and folders, behind httpx's transport seam.

What the real one never answers (proxies, login pages, cut streams) a test scripts: see
`RealApi.interrupt`.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_workflows.archive import WHOLE, iter_pack
from knit_workflows.archive.volume import LOG_FILE
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import parse_tag
from knit_workflows.wire.data import Data
from knit_workflows.wire.mapping import ToWire
from knit_workflows.wire.runs import Run
from tests.api.access import nobody_asks
from tests.api.fake_transfers import FakeTransfers
from tests.memory_store import MemoryStore
from tests.memory_store.memory import DataRow, PlanRow, RunRow
from tests.waiting import PATIENCE

HOST = "knit.test"
API_ROOT = f"http://{HOST}/api"
START = datetime(2025, 2, 1, 10, 0, 0, 120_000, tzinfo=UTC)

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]
T = TypeVar("T")


def files_of(archive: bytes) -> dict[str, bytes | str]:
    """The files (bytes) and links (their targets) in a plain tar."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            if member.issym():
                found[member.name] = member.linkname
            elif member.isfile():
                content = opened.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


def error(status: int, reason: str, advice: str | None = None, see: str | None = None):
    """An answer in the declared shape."""
    message = {"reason": reason, "advice": advice, "see": see}
    body = {"message": {key: value for key, value in message.items() if value}}
    return httpx.Response(status, json=body)


class Bridge:
    """The app in a loop of its own thread, for programs that block."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deps = Deps(Lazy.of(MemoryStore()), Lazy.of(None), nobody_asks())  # type: ignore[arg-type]
        self._app = create_app(self._deps)
        self._transport = httpx.ASGITransport(self._app)

    def send(
        self, request: httpx.Request, store: MemoryStore, transfers: FakeTransfers
    ) -> httpx.Response:
        """Gives the app's answer, framed as a server of HTTP/1.1 would."""
        self._app.state.deps = replace(
            self._deps, store=Lazy.of(store), transfers=Lazy.of(transfers)
        )
        asked = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.read()
        )

        async def answered() -> httpx.Response:
            answer = await self._transport.handle_async_request(asked)
            await answer.aread()
            return answer

        answer = asyncio.run_coroutine_threadsafe(answered(), self._loop).result(PATIENCE)
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=iter([answer.content])
        )

    async def aclose(self) -> None:
        await self._deps.aclose()


@contextmanager
def running_bridge() -> Iterator[Bridge]:
    """Runs the loop until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    bridge = Bridge(loop)
    try:
        yield bridge
    finally:
        asyncio.run_coroutine_threadsafe(bridge.aclose(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Gives what a coroutine returns that waits for nothing, as those of a store in memory."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


@dataclass
class RealApi:
    """What the API has, and what was asked of it.

    `interrupt[(method, path)]` answers instead of the API, once per item; `*` is any path.
    `elsewhere` answers for all other hosts.
    """

    bridge: Callable[[], Bridge]
    folder: Path
    requests: list[httpx.Request] = field(default_factory=list)
    interrupt: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    elsewhere: Callable[[httpx.Request], httpx.Response] | None = None

    def __post_init__(self) -> None:
        self.store = MemoryStore(START)
        self.transfers = FakeTransfers(self.store, self.folder, delay=0)

    def transport(self) -> httpx.MockTransport:
        """The seam."""
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answers one request, by the script if there is one for it."""
        if request.url.host != HOST and self.elsewhere is not None:
            return self.elsewhere(request)
        self.requests.append(request)
        path = request.url.path.removeprefix("/api")
        waiting = self.interrupt.get((request.method, path)) or self.interrupt.get(
            (request.method, "*")
        )
        if waiting:
            answer = waiting.pop(0)
            return answer(request) if callable(answer) else answer
        return self.forward(request)

    def forward(self, request: httpx.Request) -> httpx.Response:
        """Gives the real answer."""
        return self.bridge().send(request, self.store, self.transfers)

    def get(self, path: str) -> httpx.Response:
        """Asks the real API, unseen by the test."""
        answer = self.forward(httpx.Request("GET", f"{API_ROOT}{path}"))
        answer.read()
        return answer

    def asked(self) -> list[str]:
        """Method and path of every request so far."""
        return [f"{one.method} {one.url.path.removeprefix('/api')}" for one in self.requests]

    # ------------------------------------------------------------ what is there

    @property
    def data(self) -> dict[str, DataRow]:
        return self.store.memory.data

    @property
    def runs(self) -> dict[str, RunRow]:
        return self.store.memory.runs

    @property
    def plans(self) -> dict[str, PlanRow]:
        """Those of users."""
        plans = self.store.memory.plans
        return {plan_id: one for plan_id, one in plans.items() if one.name is None}

    def content(self, knit_id: str) -> Path:
        """Where the content of a Data is."""
        return self.transfers.folder(knit_id)

    def archive(self, knit_id: str) -> bytes:
        """The content of a Data as a plain tar."""
        return b"".join(iter_pack(self.content(knit_id), WHOLE))

    # ------------------------------------------------------------ what tests put in

    def add_data(self, *tags: str, archive: bytes = b"") -> Data:
        """An uploaded Data that is done."""
        upload = at_once(self.transfers.open_upload())
        assert upload.run_id is not None
        if tags:
            change = TagChange(add=frozenset(map(parse_tag, tags)))
            at_once(self.store.data.change_tags(upload.knit_id, change))
        if archive:
            with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                opened.extractall(self.content(upload.knit_id), filter="tar")
        at_once(self.transfers.finish(upload, ok=True))
        return self._data(upload.knit_id)

    def add_run(
        self,
        inputs: Mapping[str, Data],
        outputs: Mapping[str, str],
        *,
        status: str = "done",
        log: bool = False,
    ) -> tuple[Run, dict[str, Data]]:
        """A Run of a Plan of its own, and the Data it makes by path (the log is `/log`)."""
        made = self.store.add_run(
            RunStatus(status),
            inputs={path: KnitId(one.knit_id) for path, one in inputs.items()},
            outputs=outputs,
            log=log,
        )
        ids = {one.path: one.knit_id for one in made.outputs}
        if made.log is not None:
            ids["/log"] = made.log.knit_id
        run = Run.model_validate(ToWire().run(made))
        return run, {path: self._data(knit_id) for path, knit_id in ids.items() if knit_id}

    def end(self, run: Run, status: str = "done") -> None:
        """Brings a Run to its end."""
        self.store.set_status(run.run_id, RunStatus(status))

    def write_log(self, run: Run, content: bytes) -> None:
        """Lets the container of a Run have said this."""
        assert run.log is not None
        folder = self.content(run.log.knit_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG_FILE).write_bytes(content)

    def _data(self, knit_id: KnitId) -> Data:
        return Data.model_validate(ToWire().data(at_once(self.store.data.get(knit_id))))
