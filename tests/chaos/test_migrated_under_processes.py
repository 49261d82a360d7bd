"""Later releases migrate the database while workers and the API of this one are at work.

They serve this one: each adds a column to a table of it, the last one a table of its own. So
processes of this release go on, may be killed and started again, and whoever asks them hears
nothing of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
import yaml
from temporalio.client import Client

from knit_workflows.domain.accounts.tokens import digest_of, new_token
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrations
from knit_workflows.store.locks import AdvisoryLock
from knit_workflows.store.migrations import REVISION, SERVES
from knit_workflows.store.migrations.upgrade import upgrade
from tests.api.archives import tar_of
from tests.chaos.gates import API, WORKER
from tests.chaos.installation import Installation, eventually, installation
from tests.chaos.test_replicas import has, runs_of
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import command
from tests.processes import ApiProcess, WorkerProcess, bare_environment
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

LAST: Final = 9999
"""The revision after the last migration."""
UNHURRIED: Final = {"KNIT_ENGINE__STEP_TIMEOUT": "PT10S"}
"""The default: a step may wait for a table that a migration changes."""
SECOND: Final = f"{WORKER}-2"
HELD: Final = 3
"""Runs that begin before the migrations, and end after them."""
AHEAD: Final = 2
"""Data that are pushed before the Runs of an earlier one have ended."""
SOME: Final = 4
"""Data that go through both Plans before the migrations, after them, and after each restart."""
OFTEN: Final = 12
"""So many times that a connection, of the few which take turns, has prepared each statement: what
was prepared before a migration is where an earlier program may stumble."""
ASKED: Final = (
    *("data", "runs", "plans", "plans?active=true", "tokens", "audit", "whoami", "hooks"),
    *("status", "completions?of=runs", "completions?of=data"),
)
_COUNTED: Final = "echo x >> /out/counter; "
FIRST: Final = {
    "image": "host/sh:1",
    "entrypoint": [
        *("sh", "-c"),
        _COUNTED + "until test -e /in/go; do sleep 0.1; done; echo whole > /out/result",
    ],
    "inputs": [{"path": "/in", "tags": ["type:given"]}],
    "outputs": [{"path": "/out", "tags": ["type:first"]}],
    "log": {"tags": ["type:log"]},
}
THEN: Final = {
    "image": "host/sh:1",
    "entrypoint": ["sh", "-c", _COUNTED + "cp /in/result /out/result"],
    "inputs": [{"path": "/in", "tags": ["type:first"]}],
    "outputs": [{"path": "/out", "tags": ["type:last"]}],
}
_OWN_TABLE: Final = (
    "CREATE TABLE later (knit_id UUID PRIMARY KEY REFERENCES data ON DELETE CASCADE, note TEXT)"
)
_FILE: Final = '''
from alembic import op

revision, down_revision = "{revision}", "{before}"
branch_labels = depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("""{statement}""")
'''


@dataclass
class Work:
    """What is pushed through the API, and what becomes of it: a Run of each Plan per Data.

    `held`: the Data whose first Run waits for `let_go`.
    """

    knit: Installation
    api: httpx.AsyncClient
    first: PlanId
    then: PlanId
    pushed: int = 0
    held: list[KnitId] = field(default_factory=list)

    async def hold(self) -> None:
        """Has some Runs under way that will not end by themselves."""
        self.held = [await self.push({"word": b"given"}) for _ in range(HELD)]
        await eventually(lambda: has(self.knit, self.first, RunStatus.RUNNING, HELD))

    def let_go(self) -> None:
        """Lets them end."""
        for knit_id in self.held:
            (self.knit.volume(knit_id) / "go").touch()
        self.held = []

    async def push(self, files: dict[str, bytes]) -> KnitId:
        """Uploads a Data that both Plans are for."""
        answer = await self.api.post(
            "data",
            params={"tag": "type:given"},
            content=tar_of(files),
            headers={"Content-Type": "application/x-tar"},
        )
        assert answer.status_code == 200, answer.text
        self.pushed += 1
        return KnitId(answer.json()["knitId"])

    async def done(self) -> int:
        """Gives how many Data have gone through both Plans; no Run may have failed."""
        runs = [await runs_of(self.knit, plan) for plan in (self.first, self.then)]
        firsts, thens = ([run.summary.status for run in of_plan] for of_plan in runs)
        assert RunStatus.FAILED not in {*firsts, *thens}, (firsts, thens)
        return thens.count(RunStatus.DONE)

    async def is_done(self, wanted: int) -> bool:
        """Says whether so many have."""
        return await self.done() >= wanted

    async def goes_on(self) -> None:
        """Waits until some have that are pushed after the call."""
        wanted = self.pushed - len(self.held) + SOME
        await eventually(lambda: self.is_done(wanted))

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Pushes one Data after the other meanwhile; one that is refused ends it all."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flow(ending))
            yield
            ending.set()

    async def _flow(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            if self.pushed < len(self.held) + AHEAD + await self.done():
                await self.push({"word": b"given", "go": b""})
            await asyncio.sleep(0.5)

    async def ask_everything(self) -> None:
        """Reads each list that there is, often; all is answered."""
        for path in ASKED:
            for _ in range(OFTEN):
                answer = await self.api.get(path)
                assert answer.status_code == 200, (path, answer.text)


@dataclass
class Processes:
    """Beside the first worker: another one, the API, and an API that is started later."""

    knit: Installation
    second: WorkerProcess
    api: ApiProcess
    later_api: ApiProcess
    url: str
    token: str
    """The administrator's."""

    @asynccontextmanager
    async def client(self, api: ApiProcess) -> AsyncIterator[httpx.AsyncClient]:
        """Speaks with one of the APIs; it has reached all that it needs."""
        async with httpx.AsyncClient(
            base_url=f"{api.root}/",
            headers={"Authorization": f"Bearer {self.token}"},
            trust_env=False,
            timeout=PATIENCE,
            # One that is not used for five seconds may be closed at the moment when it is.
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            probe = f"{api.root.removesuffix('/api')}/readyz"

            async def is_ready() -> bool:
                return (await client.get(probe)).status_code == 200

            await eventually(is_ready)
            yield client

    def assert_well(self) -> None:
        """None of those that have been at work from the start has ended."""
        for process in (self.knit.worker, self.second, self.api):
            assert process.poll() is None, process.log.read_text()

    async def have_looked(self) -> None:
        """Waits until each has come to look at the database's revision, and lets them pass."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute("LOCK TABLE alembic_version")

            async def all_wait() -> bool:
                cursor = await connection.execute(
                    "SELECT application_name FROM pg_stat_activity"
                    " WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
                )
                self.assert_well()
                return {name for (name,) in await cursor.fetchall()} >= {WORKER, SECOND, API}

            await eventually(all_wait)


@asynccontextmanager
async def processes(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path
) -> AsyncIterator[Processes]:
    """Starts two workers and an API, which the database knows by names."""
    token = new_token()
    async with installation(postgres, temporal, folder, **UNHURRIED) as knit:
        url = knit.environment["KNIT_STORE__URL"]
        environment = {
            **knit.environment,
            "KNIT_ACCOUNTS__REQUIRED": "true",
            "KNIT_ACCOUNTS__BOOTSTRAP_TOKEN_SHA256": digest_of(token),
        }
        logs = [folder / name for name in ("second", "api", "later-api")]
        for place in logs:
            place.mkdir()
        second = WorkerProcess(environment | named(url, SECOND), logs[0])
        api = ApiProcess(environment | named(url, API), logs[1])
        later_api = ApiProcess(environment, logs[2])
        async with AsyncExitStack() as stack:
            for process in (second, api):
                process.start()
                stack.push_async_callback(asyncio.to_thread, process.end)
            await asyncio.gather(second.ready(), api.ready())
            stack.push_async_callback(asyncio.to_thread, later_api.end)
            yield Processes(knit, second, api, later_api, url, token)


async def test_processes_go_on_when_later_releases_migrate_that_serve_them(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    need_bubblewrap()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(processes(postgres, temporal_client, tmp_path))
        client = await stack.enter_async_context(running.client(running.api))
        knit = running.knit
        first, then = [(await knit.apply(one)).summary.plan_id for one in (FIRST, THEN)]
        work = Work(knit, client, first, then)
        stack.callback(work.let_go)
        await work.hold()
        async with work.flowing():
            await work.goes_on()
            await work.ask_everything()
            await asyncio.to_thread(migrate_on, running.url, tmp_path / "later")
            await running.have_looked()
            await running.have_looked()  # whoever looks once more was content the first time
            await work.ask_everything()
            await work.goes_on()
            work.let_go()
            await start_others(running)
            work.api = await stack.enter_async_context(running.client(running.later_api))
            await work.ask_everything()
            await work.goes_on()
            work.api = client
        await eventually(lambda: work.is_done(work.pushed))
        await assert_each_once(work)
        await assert_a_run_can_be_deleted(work)
        await asyncio.to_thread(assert_status_tells, running, tmp_path)
        running.assert_well()
        assert_nobody_complains(tmp_path)


async def start_others(running: Processes) -> None:
    """Starts a worker in the place of one that is killed, an API, and this release's migration."""
    running.second.kill()
    running.second.start()
    await running.second.ready()
    running.later_api.start()
    await running.later_api.ready()
    await asyncio.to_thread(migrate_as_this_release, running.url)


def named(url: str, application: str) -> dict[str, str]:
    """Gives what makes a process known to the database by a name of its own."""
    return {"KNIT_STORE__URL": f"{url}&application_name={application}"}


def migrate_on(url: str, folder: Path) -> None:
    """Migrates as so many releases after this one do, each with one change that serves it."""
    shutil.copytree(Path(migrations.__file__).parent, folder)
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename <> 'alembic_version' ORDER BY 1"
        ).fetchall()
    statements = [
        *(f"ALTER TABLE {name} ADD COLUMN later TEXT NOT NULL DEFAULT 'x'" for (name,) in tables),
        _OWN_TABLE,
    ]
    before = REVISION
    for number, statement in enumerate(statements, LAST + 1 - len(statements)):
        text = _FILE.format(revision=number, before=before, statement=statement)
        (folder / "versions" / f"rev_{number}_later.py").write_text(text)
        upgrade(url, lock=AdvisoryLock.MIGRATION, folder=folder)
        before = f"{number}"
    assert_migrated(url)


def assert_migrated(url: str) -> None:
    """The database is of the last release, and says that it serves this one."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT version_num, obj_description('alembic_version'::regclass) FROM alembic_version"
        ).fetchall()
    assert found == [(f"{LAST}", f"serves programs from revision {SERVES} on")]


def migrate_as_this_release(url: str) -> None:
    """Starts the migration that an earlier release's Job is when one goes back to it."""
    module = [sys.executable, "-m", "knit_workflows.store"]
    environment = bare_environment(KNIT_STORE__URL=url)
    done = subprocess.run(module, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert_migrated(url)


async def assert_each_once(work: Work) -> None:
    """Every Data has a Run of each Plan, which is done, and whose container ran once."""
    for plan in (work.first, work.then):
        runs = await runs_of(work.knit, plan)
        assert len(runs) == work.pushed
        for run in runs:
            out = work.knit.volume(KnitId(run.outputs[0].knit_id))
            assert (out / "counter").read_text() == "x\n"
            assert (out / "result").read_text() == "whole\n"
            events = await work.knit.store.runs.events(run.summary.run_id)
            moves = [event.to_status for event in events]
            assert len(moves) == len(set(moves)), moves
            assert moves[-1] is RunStatus.DONE, moves


async def assert_a_run_can_be_deleted(work: Work) -> None:
    """What the later release keeps of its output, in a table unknown to this one, goes with it."""
    ask = work.knit.gates.ask
    known = await ask("INSERT INTO later SELECT knit_id FROM data WHERE later = 'x' RETURNING 1")
    assert len(known) == 4 * work.pushed  # two outputs, a log, and what was given
    run, *_ = await runs_of(work.knit, work.then)
    answer = await work.api.delete(f"runs/{run.summary.run_id}")
    assert answer.status_code == 204, answer.text
    assert await ask("SELECT count(*) FROM later") == [(len(known) - 1,)]


def assert_status_tells(running: Processes, folder: Path) -> None:
    """`knit status` finds nothing wrong, and says which revision the database has."""
    store = folder / "profiles"
    profile = {"apiRoot": running.api.root, "token": running.token}
    store.write_text(yaml.safe_dump({"here": profile}))
    asked = command("--profile-store", store, "--profile", "here", "status", "--json")
    environment = bare_environment(HOME=str(folder))

    def is_well() -> bool:  # Temporal's answer may be late
        done = subprocess.run(asked, env=environment, stdout=subprocess.PIPE, timeout=PATIENCE)
        status = json.loads(done.stdout)
        assert status["versions"]["database"] == f"{LAST}"
        return not done.returncode and not status["problems"]

    wait_until(is_well)


def assert_nobody_complains(folder: Path) -> None:
    """No process has logged an error, neither those that live nor one that was killed."""
    logs = [*folder.rglob("*Process-*.log")]
    assert len(logs) == 5
    for log in logs:
        whole, _, _ = log.read_text().rpartition("\n")  # the last line may be half written
        said = [json.loads(line) for line in whole.splitlines()]
        assert [one for one in said if one["level"] in ("error", "critical")] == [], log
