"""A whole knit of real processes, between any two of which there is a link that may fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from knit_workflows.domain.hooks import Hooks
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import Role
from knit_workflows.settings import StoreSettings
from knit_workflows.store import PostgresStore, migrate
from tests.chaos.campaign.clocks import Clocks
from tests.chaos.campaign.links import Link, Streams, to_port, to_socket
from tests.chaos.campaign.parts import BACK, KnitPart, Part, PostgresPart, TemporalPart
from tests.chaos.hook_record import in_force
from tests.chaos.servers import Temporal
from tests.chaos.sweep import RECOVERY_SETTINGS
from tests.processes import ApiProcess, WorkerProcess
from tests.receiver import Receiver, receiver

WORKERS: Final[Mapping[str, tuple[Role, ...]]] = {
    "worker-engine": (Role.ENGINE, Role.HOOKS),
    "worker-compute": (Role.COMPUTE, Role.WATCH),
    "worker-interactive": (Role.INTERACTIVE,),
}
PATIENT: Final = ("--patience", "3600")
"""As in the charts: a worker that is started in an outage waits."""
SETTINGS: Final[Mapping[str, str]] = {
    **{name: value for name, value in RECOVERY_SETTINGS.items() if "QUEUES" not in name},
    "KNIT_ENGINE__GC_INTERVAL": "PT2S",
    "KNIT_ENGINE__GC_GRACE_PERIOD": "PT5S",
    "KNIT_ENGINE__TRANSFER_LEASE": "PT6S",
    "KNIT_ENGINE__MAX_ACTIVE_RUNS": "8",
    "KNIT_HOOKS__ALLOW_LOOPBACK": "true",
    "KNIT_HOOKS__TIMEOUT": "PT1M",
}
"""What is lost is missed, and what is left is cleared away, within seconds. A hook may be slow to
answer, since it is in the process of the campaign."""


@dataclass
class Site:
    """What there is; `compute` is the back-end's side of it."""

    folder: Path
    postgres: EmbeddedPostgres
    url: str
    """Of the database, past every link."""
    temporal: Client
    store: PostgresStore
    parts: dict[str, Part]
    links: dict[str, Link]
    hooks: Receiver
    http: httpx.AsyncClient
    """A client of the API, through the link `client-api`."""
    clocks: Clocks
    calls_hooks: bool = field(default=False)

    async def ask(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Asks the database, past knit; gives the rows."""
        async with await psycopg.AsyncConnection.connect(
            self.url, autocommit=True, row_factory=dict_row
        ) as connection:
            return await (await connection.execute(query.encode(), parameters)).fetchall()

    async def ask_patiently(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Asks the database as soon as it answers: another fault may have it down."""
        async with asyncio.timeout(BACK):
            while True:
                with suppress(psycopg.OperationalError):
                    return await self.ask(query, *parameters)
                await asyncio.sleep(0.1)

    async def call_hooks(self, wanted: bool) -> None:
        """Puts hooks in force, or out of it; for times when nothing is under way."""
        await self.store.hooks.configure(in_force(self.hooks) if wanted else Hooks((), ()))
        self.calls_hooks = wanted

    async def recovered(self) -> None:
        """Waits until every process works again."""
        for name in ("postgres", "temporal", *WORKERS, "api"):
            part = self.parts[name]
            async with part.lock:
                await part.ready()


@asynccontextmanager
async def site(folder: Path, compute: Mapping[str, str]) -> AsyncIterator[Site]:
    """Starts one with these settings of the back-end; at the end all is ended."""
    async with AsyncExitStack() as stack:
        postgres, server = EmbeddedPostgres(folder / "pg"), Temporal(folder)
        stack.callback(postgres.stop)
        await asyncio.to_thread(postgres.start)
        stack.callback(_end, server)
        await server.start()
        url = postgres.url("knit")
        await migrate(url)
        port = int(server.address.rpartition(":")[2])
        [socket] = [str(path) for path in _sockets(url)]
        links = {}
        for who in ("workers", "api"):
            for link in (
                Link(f"{who}-postgres", to_socket(socket)),
                Link(f"{who}-temporal", to_port(port)),
            ):
                await link.open()
                stack.push_async_callback(link.aclose)
                links[link.name] = link
        clocks = Clocks(folder)
        parts: dict[str, Part] = {
            "postgres": PostgresPart(postgres),
            "temporal": TemporalPart(server),
        }
        for name, roles in WORKERS.items():
            (folder / name).mkdir()
            behind = {**_behind(links, "workers"), **clocks.environment(name)}
            environment = {**SETTINGS, **compute, **behind}
            worker = WorkerProcess(environment, folder / name, roles=roles, arguments=PATIENT)
            parts[name] = KnitPart(name, worker)
        (folder / "api").mkdir()
        behind = {**_behind(links, "api"), **clocks.environment("api")}
        api = ApiProcess({**SETTINGS, **compute, **behind}, folder / "api")
        parts["api"] = KnitPart("api", api)
        for name in (*WORKERS, "api"):
            part = parts[name]
            assert isinstance(part, KnitPart)
            await part.start()
            stack.push_async_callback(asyncio.to_thread, part.process.end)
        links["client-api"] = Link("client-api", _to_api(api))
        await links["client-api"].open()
        stack.push_async_callback(links["client-api"].aclose)
        store = PostgresStore(StoreSettings(url=SecretStr(url)))
        await store.open()
        stack.push_async_callback(store.aclose)
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{links['client-api'].port}/api",
                trust_env=False,
                timeout=60,
            )
        )
        hooks = stack.enter_context(receiver())
        built = Site(folder, postgres, url, client, store, parts, links, hooks, http, clocks)
        await built.recovered()
        yield built


def _behind(links: Mapping[str, Link], who: str) -> dict[str, str]:
    return {
        "KNIT_STORE__URL": f"postgresql://postgres@127.0.0.1:{links[f'{who}-postgres'].port}/knit",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{links[f'{who}-temporal'].port}",
    }


def _sockets(url: str) -> list[Path]:
    with psycopg.connect(url) as connection:
        return list(Path(connection.info.host).glob(f".s.PGSQL.{connection.info.port}"))


def _to_api(api: ApiProcess) -> Any:
    async def connect() -> Streams:
        # Between two processes nobody listens: the client is refused.
        try:
            port = httpx.URL(api.root).port
        except (AssertionError, FileNotFoundError) as missing:
            raise ConnectionRefusedError from missing
        return await asyncio.open_connection("127.0.0.1", port)

    return connect


def _end(server: Temporal) -> None:
    if server.process is not None:
        server.kill()
