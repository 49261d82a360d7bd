"""Adoption, purge and import survive kill -9 of the API and of the worker at every commit and call.

Nothing is half made at any time, and the same request again completes it: what is left is what an
undisturbed one leaves. `make test` takes some moments of each sweep, `make soak` all:
KNIT_SWEEP_MOMENTS.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from temporalio.client import Client, WorkflowHandle

from knit_cli.config.profile import Profile, save_profile
from knit_workflows import names
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import Import, import_of
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from tests.chaos.gates import API, Gate
from tests.chaos.installation import Facts, Installation, eventually, installation
from tests.chaos.moments import AtCommit, AtEvent, Moment, chosen, commits
from tests.processes import ApiProcess, bare_environment
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

AT_ONCE: Final = {"KNIT_ENGINE__GC_INTERVAL": "PT1S", "KNIT_ENGINE__GC_GRACE_PERIOD": "PT0.3S"}
INTERNED: Final = Gate("new tags", "tag", "INSERT", of=API)
ADOPTED: Final = Gate("an adoption", "data", "INSERT", "NOT NEW.owned", of=API)
PURGED: Final = Gate("a purge", "data", "UPDATE", "NEW.purged_at IS NOT NULL", of=API)
COLLECTED: Final = Gate("a volume collected", "discarded", "DELETE")
SIGNED: Final = Gate("a key of imports", "import_key", "INSERT", of=API)
BEGUN: Final = Gate("an import begun", "run", "INSERT", "NEW.status = 'running'", of=API)
ENDED: Final = Gate("an import ended", "run", "UPDATE", "NEW.status = 'completing'", of=API)
FINISHED: Final = Gate("an import done", "run", "UPDATE", "NEW.status = 'done'", of=API)
FALLBACK: Final = timedelta(seconds=1)
COPIES: Final = {
    "image": "host/sh:1",
    "entrypoint": ["sh", "-c", "cat /in/word > /out/word"],
    "inputs": [{"path": "/in", "tags": ["sweep:volumes"]}],
    "outputs": [{"path": "/out", "tags": ["of:volumes"]}],
}


@dataclass(frozen=True)
class Death:
    """Who dies, and when."""

    who: str
    moment: Moment

    def __str__(self) -> str:
        return f"the {self.who} at {self.moment}"


@dataclass
class Place:
    """An installation with an API that may be killed, too."""

    site: Installation
    api: ApiProcess
    plan_id: str = ""
    looked: set[str] = field(default_factory=set)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Asks the API that runs now; it must answer."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            return await client.request(method, f"{self.api.root}{path}", **more)

    async def look(self) -> WorkflowHandle[Any, Any]:
        """Waits for the next workflow that looks at volumes."""
        async with asyncio.timeout(PATIENCE):
            while not (new := await self._looks() - self.looked):
                await asyncio.sleep(0.005)
        return self.site.temporal.get_workflow_handle(new.pop())

    async def note_looks(self) -> None:
        """Makes `look` wait for one that begins from now on."""
        self.looked |= await self._looks()

    async def _looks(self) -> set[str]:
        query = f"WorkflowType = '{names.VOLUMES_WORKFLOW}'"
        return {one.id async for one in self.site.temporal.list_workflows(query)}

    async def disturbed(
        self, request: Callable[[], Awaitable[httpx.Response]], death: Death | None
    ) -> httpx.Response | None:
        """Makes a request while somebody dies, who is there again then; None: nobody answered."""
        victim = self.api if death and death.who == "API" else None
        await self.note_looks()
        async with self.site.killed_at(death and death.moment, victim) as followed:
            answering = asyncio.create_task(_answer(request()))
            if death and isinstance(death.moment, AtEvent):
                followed.set_result(await self.look())
        answer = await answering
        await self.api.ready()
        return answer

    async def events_of_a_look(self) -> int:
        """Gives how many events the history has of a workflow that has looked at volumes."""
        handle = await self.look()
        await handle.result()
        return len((await handle.fetch_history()).events)

    async def count(self, sql: str, *parameters: object) -> int:
        """Counts rows."""
        return int((await self.site.gates.ask(f"SELECT count(*) FROM {sql}", *parameters))[0][0])

    async def assert_whole(self) -> None:
        """Looks that there is no Run of `knit#imported` without its Data and its history."""
        runs = "run r JOIN plan p USING (plan_id) WHERE p.name = 'knit#imported' AND "
        for table in ("data", "run_event"):
            without = f"NOT EXISTS (SELECT FROM {table} t WHERE t.run_id = r.run_id)"
            assert await self.count(runs + without) == 0

    async def runs_of(self, knit_id: str) -> list[str]:
        """Waits until the Runs of the Plan with this Data have ended; gives their statuses."""
        query = RunQuery(plan_ids=frozenset({self.plan_id}), input_knit_ids=frozenset({knit_id}))

        async def have_ended() -> bool:
            found = await self.site.store.runs.find(query)
            return bool(found) and all(one.summary.status.is_final for one in found)

        await eventually(have_ended)
        return [one.summary.status for one in await self.site.store.runs.find(query)]

    async def history(self, run_id: str) -> list[tuple[str, str]]:
        """Gives the statuses of a Run in order, with their causes."""
        events = await self.site.store.runs.events(RunId(run_id))
        return [(event.to_status, event.cause) for event in events]


async def _answer(request: Awaitable[httpx.Response]) -> httpx.Response | None:
    try:
        return await request
    except httpx.TransportError:
        return None


@asynccontextmanager
async def place(
    postgres: EmbeddedPostgres, temporal: Client, folder: Path, *gates: Gate
) -> AsyncIterator[Place]:
    """Starts everything, with a Plan on `sweep:volumes`."""
    async with installation(postgres, temporal, folder, *gates, **AT_ONCE) as site:
        url = site.environment["KNIT_STORE__URL"]
        api = ApiProcess(
            {**site.environment, "KNIT_STORE__URL": f"{url}&application_name={API}"}, folder
        )
        api.start()
        try:
            await api.ready()
            plan = await site.apply(COPIES)
            yield Place(site, api, plan.summary.plan_id)
        finally:
            await asyncio.to_thread(api.end)


def deaths(events: int, gates: Sequence[Gate]) -> list[Death]:
    """Gives every commit of the API, and some of the events at which either may die."""
    calls = [Death(who, AtEvent(one)) for one in range(1, events + 1) for who in ("API", "worker")]
    return [*(Death("API", moment) for moment in commits(gates)), *chosen(calls)]


# --- adoption ----------------------------------------------------------------------------------


async def adopted(place: Place, folder: Path, death: Death | None) -> Facts:
    """Adopts two folders with tags of their own; gives what is there then."""
    volumes = {}
    for _ in range(2):
        volume = folder / uuid.uuid4().hex
        volume.mkdir(parents=True)
        (volume / "word").write_text("theirs")
        volumes[str(volume)] = ["sweep:volumes", f"only:{volume.name}"]
    body = {"volumes": [{"volume": one, "tags": tags} for one, tags in volumes.items()]}
    mine = "data WHERE NOT owned AND volume = ANY (%s)"

    async def adopt() -> httpx.Response:
        return await place.ask("POST", "/adoptions", json=body)

    answer = await place.disturbed(adopt, death)
    assert await place.count(mine, list(volumes)) in (0, 2)
    await place.assert_whole()
    if answer is None or answer.status_code == 503:
        answer = await adopt()
    assert answer.status_code == 200, answer.text
    again = await adopt()
    data = [one["data"] for one in answer.json()]
    runs = [one["upstream"]["run"]["runId"] for one in data]
    return {
        "same": [one["data"]["knitId"] for one in again.json()] == [one["knitId"] for one in data],
        "known": {one["outcome"] for one in again.json()},
        "rows": await place.count(mine, list(volumes)),
        "tags": [
            {tag for tag in one["tags"] if not tag.startswith("knit#")} == set(tags)
            for one, tags in zip(data, volumes.values(), strict=True)
        ],
        "histories": [await place.history(run_id) for run_id in runs],
        "runs": [await place.runs_of(one["knitId"]) for one in data],
        "files": {(Path(one) / "word").read_text() for one in volumes},
    }


async def test_an_adoption_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """All volumes or none; each is one Data with all its tags, and starts one Run."""
    async with place(postgres, temporal_client, tmp_path, INTERNED, ADOPTED) as prepared:
        expected = await adopted(prepared, tmp_path / "lab", None)
        assert expected == {
            "same": True,
            "known": {"known"},
            "rows": 2,
            "tags": [True, True],
            "histories": [[("done", "volume adopted")]] * 2,
            "runs": [["done"]] * 2,
            "files": {"theirs"},
        }
        for death in deaths(await prepared.events_of_a_look(), [INTERNED, ADOPTED]):
            found = await adopted(prepared, tmp_path / "lab", death)
            assert found == expected, f"killed: {death}"


@pytest.mark.parametrize("kept", [True, False])
async def test_a_manifest_of_several_requests_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path, kept: bool
) -> None:
    """The command again adopts what is missing, and shows all."""
    volumes = [tmp_path / "lab" / f"{number:03}" for number in range(501)]
    for volume in volumes:
        volume.mkdir(parents=True)
    manifest = tmp_path / "volumes.yaml"
    manifest.write_text(json.dumps([{"volume": str(one), "tags": ["n:1"]} for one in volumes]))
    async with place(postgres, temporal_client, tmp_path, ADOPTED) as prepared:

        def adopt() -> subprocess.CompletedProcess[str]:
            store = tmp_path / ".knit" / "profile"
            save_profile(Profile(prepared.api.root), store=store, name=str(tmp_path))
            command = [sys.executable, "-m", "knit_cli", "data", "adopt", "-m", str(manifest)]
            environment = bare_environment(HOME=str(tmp_path))
            return subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True
            )

        async with prepared.site.killed_at(AtCommit(ADOPTED, kept), prepared.api):
            first = asyncio.create_task(asyncio.to_thread(adopt))
        failed = await first
        assert failed.returncode == 1, failed.stderr
        assert "Traceback" not in failed.stderr
        await prepared.api.ready()
        assert await prepared.count("data WHERE NOT owned") == (500 if kept else 0)
        done = await asyncio.to_thread(adopt)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [one["volume"] for one in found] == list(map(str, volumes))
        new = [one["outcome"] == "new" for one in found]
        assert new == [not kept] * 500 + [True]
        assert await prepared.count("data WHERE NOT owned") == 501


# --- purge -------------------------------------------------------------------------------------


async def purged(place: Place, death: Death | None) -> Facts:
    """Purges a Data that a Run was made with; gives what is there then."""
    run_id, knit_id = await place.site.made(Tag("sweep", "volumes"))
    await place.runs_of(knit_id)
    state = "data d LEFT JOIN discarded USING (knit_id) WHERE d.knit_id = %s AND "

    async def purge() -> httpx.Response:
        return await place.ask("POST", f"/data/{knit_id}/purge")

    answer = await place.disturbed(purge, death)
    # As long as it is not purged, its volume is whole, and nobody is about to delete it.
    kept = place.site.volume(knit_id)
    untouched = f"{state} d.purged_at IS NULL AND discarded.volume IS NULL"
    if await place.count(untouched, knit_id):
        assert (kept / "word").read_text() == "given\n"
    if answer is None:
        answer = await purge()
    assert answer.status_code == 200, answer.text
    await eventually(lambda: _is_collected(place, knit_id))
    [used] = answer.json()["data"]["downstreams"]
    made = (await place.ask("GET", f"/runs/{used['run']['runId']}")).json()["outputs"][0]["knitId"]
    lineage = (await place.ask("GET", f"/data/{made}/lineage")).text
    causes = [cause for _, cause in await place.history(run_id)]
    return {
        "tags": [tag for tag in answer.json()["data"]["tags"] if "transient" in tag],
        "again": (await purge()).json()["outcome"],
        "noted": causes.count(f"content of Data {knit_id} purged"),
        "lineage": knit_id in lineage,
        "made": (place.site.volume(KnitId(made)) / "word").read_text(),
        "retry": (await place.ask("PUT", f"/runs/{used['run']['runId']}/retry")).status_code,
    }


async def _is_collected(place: Place, knit_id: KnitId) -> bool:
    left = await place.count("discarded WHERE knit_id = %s", knit_id)
    return left == 0 and not place.site.volume(knit_id).exists()


async def test_a_purge_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Purged once, its volume collected, all that is remembered is remembered."""
    async with place(postgres, temporal_client, tmp_path, PURGED, COLLECTED) as prepared:
        expected = await purged(prepared, None)
        assert expected == {
            "tags": ["knit#transient:purged"],
            "again": "known",
            "noted": 1,
            "lineage": True,
            "made": "given\n",
            "retry": 409,
        }
        for death in (
            *(Death("API", moment) for moment in commits([PURGED])),
            *(Death("worker", moment) for moment in commits([COLLECTED])),
        ):
            found = await purged(prepared, death)
            assert found == expected, f"killed: {death}"


# --- import ------------------------------------------------------------------------------------


async def begun(place: Place) -> tuple[str, Import]:
    """Begins an import, and makes its volume."""
    answer = await place.ask("POST", "/data/import/begin")
    assert answer.status_code == 200, answer.text
    one = import_of(jws.read(answer.text).claims)
    folder = place.site.volume(one.knit_id)
    (folder.parent / f".{folder.name}").mkdir()
    (folder.parent / f".{folder.name}" / "word").write_text("imported")
    (folder.parent / f".{folder.name}").rename(folder)
    return answer.text, one


async def end(place: Place, token: str) -> httpx.Response:
    """Ends it."""
    headers = {"Content-Type": "application/jwt"}
    return await place.ask("POST", "/data/import/end", content=token, headers=headers)


async def left_by(place: Place, one: Import) -> Facts:
    """Waits until an import is done; gives what it has left."""

    async def is_done() -> bool:
        run = await place.site.store.runs.get(one.run_id)
        return run.summary.status is RunStatus.DONE

    await eventually(is_done)
    metadata: Mapping[str, Any] = (await place.ask("GET", f"/data/{one.knit_id}/metadata")).json()
    return {
        "history": [status for status, _ in await place.history(one.run_id)],
        "transient": [tag for tag in metadata["tags"] if "transient" in tag],
        "run": metadata["upstream"]["run"]["status"],
        "word": (place.site.volume(one.knit_id) / "word").read_text(),
        "again": (await end(place, await _token_of(place, one))).status_code,
    }


async def _token_of(place: Place, one: Import) -> str:
    # Another one, as the API would sign it.
    [(kid, secret)] = await place.site.gates.ask(
        "SELECT kid::text, secret FROM import_key ORDER BY created_at DESC LIMIT 1"
    )
    return jws.sign(one.claims(), kid=kid, secret=bytes(secret))


async def test_the_begin_of_an_import_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """Another can be begun and ended; one whose token nobody has fails when its time is over."""
    async with place(postgres, temporal_client, tmp_path, SIGNED, BEGUN) as prepared:
        for moment in commits([SIGNED, BEGUN]):
            await prepared.site.gates.ask("DELETE FROM import_key RETURNING kid")
            death = Death("API", moment)
            request = prepared.ask
            answer = await prepared.disturbed(
                lambda request=request: request("POST", "/data/import/begin"), death
            )
            assert answer is None, "nobody has a token"
            await prepared.assert_whole()
            lost = await prepared.site.gates.ask(
                "UPDATE run SET created_at = created_at - interval '1 day'"
                " WHERE status = 'running' RETURNING run_id::text"
            )
            assert len(lost) == (moment == AtCommit(BEGUN, True)), f"killed: {death}"
            token, one = await begun(prepared)
            assert (await end(prepared, token)).status_code == 200
            found = await left_by(prepared, one)
            assert found["history"] == ["running", "completing", "done"], f"killed: {death}"
            for (run_id,) in lost:
                run = await prepared.site.store.runs.wait_final(RunId(run_id), fallback=FALLBACK)
                assert run.summary.status is RunStatus.FAILED
            assert await prepared.count("import_key") == 1


async def test_the_end_of_an_import_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It is done once, by the same request again or by housekeeping; its volume is as it was."""
    async with place(postgres, temporal_client, tmp_path, ENDED, FINISHED) as prepared:
        token, one = await begun(prepared)
        assert (await end(prepared, token)).status_code == 200
        expected = await left_by(prepared, one)
        assert expected == {
            "history": ["running", "completing", "done"],
            "transient": [],
            "run": "done",
            "word": "imported",
            "again": 409,
        }
        for death in deaths(await prepared.events_of_a_look(), [ENDED, FINISHED]):
            token, one = await begun(prepared)
            answer = await prepared.disturbed(lambda token=token: end(prepared, token), death)
            await prepared.assert_whole()
            if answer is None or answer.status_code == 503:
                again = await end(prepared, token)
                # 409: it had been ended before, and is done by and by.
                assert again.status_code in (200, 409), again.text
            assert await left_by(prepared, one) == expected, f"killed: {death}"
