"""A Knitfab's database, dumped by the real pg_dump, and what it is once it is loaded into knit."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knit_workflows import names
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.knitfab.dump import open_dump
from knit_workflows.backup.knitfab.migrating import Migration, read_backup
from knit_workflows.backup.knitfab.writing import write_layout
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.domain.errors import EquivalentPlan
from knit_workflows.domain.plans.rules import parse_plan
from knit_workflows.store import PostgresStore
from tests.knitfab import STATUSES, Knitfab, programs, write_claim
from tests.postgres import Databases, fetch
from tests.store.build import drain, register, spec, upload
from tests.unit.backup.memory import Silent

pytestmark = pytest.mark.patient

INSTANT = "2024-11-17 19:25:32.123+00"
ODD = 'a\\b"c, {d}\n\te'


@pytest.fixture(params=[3])
def knitfab(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Knitfab]:
    url = databases.empty()
    made = Knitfab(url, request.param)
    yield made
    made.close()
    databases.drop(url)


def restored(folder: Path, url: str, volumes: Path, *, allow_missing: bool = False) -> Migration:
    target = DirectInstallation(url, FolderVolumes(volumes), shown="knit")
    backup = read_backup(folder)
    return backup.restore(target, Silent(), by="me", allow_missing=allow_missing)


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    return [tuple(one.values()) for one in fetch(url, query)]


async def test_a_database_comes_over_whole(
    knitfab: Knitfab, store: PostgresStore, url: str, tmp_path: Path
):
    """Ids, tags, instants, statuses, exits, lineage and Plans are equal, and it is done once."""
    first = knitfab.upload("type:dataset project:demo")
    second = knitfab.upload("type:dataset")
    third = knitfab.upload("type:other", plan=knitfab.imports)
    plan = knitfab.plan(
        {"/in/b": "type:dataset", "/in/a": f"type:other knit#id:{third}"},
        {"/out": "type:model"},
        log="type:log",
        resources={"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "1"},
        on_node=[("must", "accelerator", "gpu"), ("may", "vram", "large")],
        annotations=[("owner", "alice"), ("owner", "bob"), ("note", ODD)],
        service_account="trainer",
        entrypoint=["python", "-c", ODD],
        args=["", "NULL", "ä ö"],
    )
    done, made = knitfab.run(plan, {"/in/a": third, "/in/b": first}, exit_=(0, ""))
    failed, _ = knitfab.run(
        plan, {"/in/a": third, "/in/b": second}, "failed", (137, "(container main) OOMKilled")
    )
    knitfab.label(made["/out"], "version:1")
    inactive = knitfab.plan({"/in": "type:model"}, {}, image="reg/other:2", active=False)
    later, _ = knitfab.run(inactive, {"/in": made["/out"]}, "deactivated")
    knitfab.put("garbage", knit_id=third, volume_ref="data-knitid-old")
    knitfab.dump(tmp_path)
    for one in (first, second, third, *made.values()):
        write_claim(tmp_path, one, {"file": one.encode()})
    backup = read_backup(tmp_path)
    survey = backup.survey
    assert backup.check(Silent()) == 5 * 36
    assert (survey.schema, survey.data, survey.plans, survey.inactive_plans) == (3, 7, 2, 1)
    assert survey.runs == {"deactivated": 1, "done": 4, "failed": 1}
    assert (survey.edges, len(survey.contents), survey.missing) == (5, 5, ())
    assert [what for what, _ in survey.notes] == ["garbage, rows: 1", "keychain, rows: 1"]

    volumes = tmp_path / "state"
    result = restored(tmp_path, url, volumes)
    assert (result.made, result.equal, result.already) == (5, 0, False)
    for one in (first, second, third, *made.values()):
        assert (volumes / "volumes" / names.volume(one) / "file").read_text() == one
    assert rows(url, "SELECT run_id::text, status FROM run ORDER BY run_id") == rows(
        knitfab.url, "SELECT run_id, status::text FROM run ORDER BY run_id"
    )
    assert rows(
        url,
        "SELECT d.knit_id::text, d.run_id::text, o.path FROM data d JOIN plan_output o"
        " USING (output_id) ORDER BY 1",
    ) == rows(
        knitfab.url,
        "SELECT d.knit_id, d.run_id, o.path FROM data d JOIN output o USING (output_id) ORDER BY 1",
    )
    assert rows(
        url,
        "SELECT r.run_id::text, i.path, r.knit_id::text FROM run_input r JOIN plan_input i"
        " USING (input_id) ORDER BY 1, 2",
    ) == rows(
        knitfab.url,
        "SELECT a.run_id, i.path, a.knit_id FROM assign a JOIN input i USING (input_id)"
        " ORDER BY 1, 2",
    )
    assert rows(
        url,
        "SELECT d.knit_id::text, t.key, t.value FROM data_tag d JOIN tag t USING (tag_id)"
        " ORDER BY 1, 2, 3",
    ) == rows(
        knitfab.url,
        "SELECT d.knit_id, k.key, t.value FROM tag_data d JOIN tag t ON t.id = d.tag_id"
        " JOIN tag_key k ON k.id = t.key_id ORDER BY 1, 2, 3",
    )
    instants = rows(url, "SELECT DISTINCT timestamp::timestamptz AT TIME ZONE 'UTC' FROM data"
                         " WHERE timestamp IS NOT NULL")  # fmt: skip
    assert [str(one) for (one,) in instants] == ["2024-11-17 19:25:32.123000"]
    assert rows(url, "SELECT count(*) FROM data_tag t JOIN data d USING (knit_id)"
                     " WHERE t.timestamp IS DISTINCT FROM d.timestamp") == [(0,)]  # fmt: skip
    exits = {
        run_id: (code, message)
        for run_id, code, message in rows(
            url, "SELECT run_id::text, exit_code, exit_message FROM run"
        )
    }
    assert (exits[done], exits[failed]) == ((0, ""), (137, "(container main) OOMKilled"))
    assert exits[later] == (None, None)

    detail = await store.plans.get(plan.plan_id)  # type: ignore[arg-type]
    assert (detail.summary.entrypoint, detail.summary.args) == (
        ("python", "-c", ODD),
        ("", "NULL", "ä ö"),
    )
    assert [str(one) for one in detail.summary.annotations] == [
        f"note={ODD}", "owner=alice", "owner=bob"
    ]  # fmt: skip
    assert detail.resources == {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert (detail.active, detail.service_account) == (True, "trainer")
    assert [(one.mode.value, one.key, one.value) for one in detail.on_node] == [
        ("may", "vram", "large"), ("must", "accelerator", "gpu")
    ]  # fmt: skip
    document = {
        "image": "localhost:30503/demo:v1",
        "inputs": [
            {"path": "/in/a", "tags": ["type:other", f"knit#id:{third}"]},
            {"path": "/in/b", "tags": ["type:dataset"]},
        ],
        "outputs": [{"path": "/out", "tags": ["type:model"]}],
        "log": {"tags": ["type:log"]},
        "on_node": {"must": ["accelerator=gpu"], "may": ["vram=large"]},
        "entrypoint": ["python", "-c", ODD],
        "args": ["", "NULL", "ä ö"],
    }
    with pytest.raises(EquivalentPlan) as same:
        await register(store, parse_plan(document))
    assert same.value.see == plan.plan_id

    assert restored(tmp_path, url, volumes).already
    # What comes now is combined with what came over, and what was executed is not again.
    before = {one for (one,) in rows(url, "SELECT run_id FROM run")}
    new = await upload(store, "type:dataset")
    await drain(store)
    added = rows(
        url,
        "SELECT r.run_id, r.plan_id::text, i.knit_id::text FROM run r JOIN run_input i"
        f" USING (run_id) WHERE i.knit_id = '{new}'",
    )
    assert [(plan_id, knit_id) for _, plan_id, knit_id in added] == [(plan.plan_id, new)]
    assert len(rows(url, "SELECT run_id FROM run")) == len(before) + 2
    assert await register(store, parse_plan(document | {"args": ["another"]}))
    await upload(store, "quite:new")


async def test_every_status_has_its_way(
    knitfab: Knitfab, store: PostgresStore, url: str, tmp_path: Path
):
    """What was under way has failed and says so, what waited waits, tombstones stay."""
    plan = knitfab.plan({"/in": "a:1"}, {"/out": "b:1"})
    runs, inputs = {}, {}
    for status in STATUSES:
        inputs[status] = knitfab.upload("a:1")
        exit_ = (253, "aborted by user") if status == "aborting" else None
        runs[status], _ = knitfab.run(plan, {"/in": inputs[status]}, status, exit_)
    pushing = knitfab.upload(status="running")
    knitfab.put("data_agent", name="agent", knit_id=pushing, mode="write")
    pending = knitfab.upload("a:1")
    [number] = plan.inputs.values()
    knitfab.nominate(pending, number, updated=True)
    knitfab.nominate(inputs["invalidated"], number, updated=True)
    knitfab.nominate(inputs["done"], number, updated=False)
    knitfab.dump(tmp_path)
    backup = read_backup(tmp_path)
    assert backup.survey.under_way == 6
    assert len(backup.survey.missing) == len(STATUSES) + 2
    with pytest.raises(BackupProblem, match="12 Data have no content"):
        restored(tmp_path, url, tmp_path / "state")
    assert rows(url, "SELECT 1 FROM data") == []
    restored(tmp_path, url, tmp_path / "state", allow_missing=True)
    found = {
        run_id: (status, code, message)
        for run_id, status, code, message in rows(
            url, "SELECT run_id::text, status, exit_code, exit_message FROM run"
        )
    }
    for status in ("deactivated", "waiting", "done", "failed", "invalidated"):
        assert found[runs[status]] == (status, None, None)
    for status in ("ready", "starting", "running", "completing"):
        now, code, message = found[runs[status]]
        assert (now, code) == ("failed", 254)
        assert message.startswith("under way when the backup of 20")
    assert found[runs["aborting"]] == ("failed", 253, "aborted by user")
    assert rows(url, f"SELECT purged_at IS NULL FROM data WHERE knit_id = '{pending}'") == [
        (False,)
    ]
    events = rows(url, "SELECT from_status, to_status, cause FROM run_event WHERE run_id ="
                       f" '{runs['running']}' ORDER BY event_id")  # fmt: skip
    assert events == [
        (None, "running", "carried over from Knitfab"),
        ("running", "failed", "restored from a backup"),
    ]
    assert rows(url, "SELECT subject::text FROM outbox WHERE kind = 'data_ready' ORDER BY 1") == [
        (one,) for one in sorted([pending, inputs["invalidated"]])
    ]


async def test_what_was_nominated_and_not_combined_is_combined(
    knitfab: Knitfab, store: PostgresStore, url: str, tmp_path: Path
):
    plan = knitfab.plan({"/in": "a:1", "/other": "b:1"}, {"/out": "c:1"})
    one, other, pending = knitfab.upload("a:1"), knitfab.upload("b:1"), knitfab.upload("a:1")
    executed, _ = knitfab.run(plan, {"/in": one, "/other": other})
    for knit_id, path, updated in (
        (one, "/in", False),
        (other, "/other", False),
        (pending, "/in", True),
    ):
        knitfab.nominate(knit_id, plan.inputs[path], updated=updated)
    knitfab.dump(tmp_path)
    for knit_id in (one, other, pending):
        write_claim(tmp_path, knit_id, {})
    backup = read_backup(tmp_path)
    assert len(backup.survey.missing) == 1
    restored(tmp_path, url, tmp_path / "state", allow_missing=True)
    await drain(store)
    combined = rows(
        url,
        "SELECT array_agg(i.knit_id::text ORDER BY p.path) FROM run_input i JOIN plan_input p"
        " USING (input_id) GROUP BY i.run_id ORDER BY 1",
    )
    assert sorted(combined) == sorted([([one, other],), ([pending, other],)])
    assert (executed,) in rows(url, "SELECT run_id::text FROM run WHERE status = 'done'")


@pytest.mark.parametrize("knitfab", [1, 2], indirect=True)
async def test_older_schemas_lack_tables(
    knitfab: Knitfab, store: PostgresStore, url: str, tmp_path: Path
):
    plan = knitfab.plan({"/in": "a:1"}, {"/out": "b:1"}, log="l:1")
    one = knitfab.upload("a:1")
    knitfab.run(plan, {"/in": one})
    knitfab.dump(tmp_path)
    backup = read_backup(tmp_path)
    assert backup.survey.schema == knitfab.version
    restored(tmp_path, url, tmp_path / "state", allow_missing=True)
    built_in = dict(rows(url, "SELECT p.name, o.path FROM plan p JOIN plan_output o USING (plan_id)"
                              " WHERE p.name IS NOT NULL"))  # fmt: skip
    assert built_in == {"knit#uploaded": "/upload", "knit#imported": "/imported"}
    holes = rows(url, "SELECT o.is_log, o.path FROM plan_output o JOIN plan USING (plan_id)"
                      " WHERE name IS NULL ORDER BY position")  # fmt: skip
    assert holes == [(False, "/out"), (True, "/log")]
    await upload(store, "a:1")
    await drain(store)
    assert len(rows(url, "SELECT 1 FROM run WHERE assignment_hash IS NOT NULL")) == 2


async def test_what_knit_refuses_is_kept_but_not_active(
    knitfab: Knitfab, store: PostgresStore, url: str, tmp_path: Path
):
    """It says why; twins of a Plan or of a combination are kept beside the first."""
    strict = knitfab.plan({"/in": "a:1"}, {"/log": "b:1"}, log="l:1", resources={"memory": "512m"})
    data = knitfab.upload("a:1")
    waiting, _ = knitfab.run(strict, {"/in": data}, "waiting")
    free = knitfab.plan({"/in": "a:1"}, {"/out": "b:1"}, resources={})
    twin = knitfab.plan({"/in": "a:1"}, {"/out": "b:1"})
    once, _ = knitfab.run(free, {"/in": data})
    again, _ = knitfab.run(free, {"/in": data}, "waiting")
    knitfab.dump(tmp_path)
    write_claim(tmp_path, data, {})
    backup = read_backup(tmp_path)
    notes = [f"{what}: {why}" for what, why in backup.survey.notes]
    assert any(
        "so it is not active: resources.memory: 512m is less than a byte" in one for one in notes
    )
    assert any("resource memory: 512m is left out" in one for one in notes)
    assert any("had no limit of cpu" in one for one in notes)
    assert any("it is equal to the Plan" in one for one in notes)
    assert any(one.startswith(f"Run {again}: its combination has another") for one in notes)
    restored(tmp_path, url, tmp_path / "state", allow_missing=True)
    active = dict(rows(url, "SELECT plan_id::text, active FROM plan WHERE name IS NULL"))
    assert active == {strict.plan_id: False, free.plan_id: True, twin.plan_id: True}
    statuses = dict(rows(url, "SELECT run_id::text, status FROM run"))
    assert (statuses[waiting], statuses[once], statuses[again]) == ("deactivated", "done", "failed")


async def test_a_knit_in_use_and_a_kill_in_between(
    knitfab: Knitfab, store: PostgresStore, url: str, databases: Databases, tmp_path: Path
):
    """Volumes that are there already are compared; other content is refused, nothing is lost."""
    data = knitfab.upload("a:1")
    knitfab.dump(tmp_path)
    write_claim(tmp_path, data, {"a": b"1", "b/c": b"2"})
    volume = tmp_path / "state" / "volumes" / names.volume(data)
    (volume / "b").mkdir(parents=True)
    (volume / "a").write_bytes(b"1")
    (volume / "b" / "c").write_bytes(b"3")
    with pytest.raises(BackupProblem, match="could not be made") as refused:
        restored(tmp_path, url, tmp_path / "state")
    assert "is there, with other content" in refused.value.reason
    (volume / "b" / "c").write_bytes(b"2")
    assert restored(tmp_path, url, tmp_path / "state").equal == 1
    blocked = tmp_path / "blocked"
    async with databases.store() as (used, other):
        await upload(used)
        with pytest.raises(BackupProblem, match="is not empty"):
            restored(tmp_path, other, blocked)
    assert not blocked.exists()


async def test_what_contradicts_itself_is_refused(knitfab: Knitfab, tmp_path: Path):
    plan = knitfab.plan({"/in": "a:1", "/more": "a:1"}, {})
    run_id, _ = knitfab.run(plan, {"/in": knitfab.upload()})
    knitfab.dump(tmp_path)
    with pytest.raises(Damaged, match="cannot be read") as refused:
        read_backup(tmp_path)
    assert refused.value.reason == f"the Run {run_id} has not one Data for each input of its Plan"
    knitfab.do("UPDATE schema_version SET version = 4")
    knitfab.dump(tmp_path)
    with pytest.raises(Damaged) as refused:
        read_backup(tmp_path)
    assert "its schema has version 4" in refused.value.reason


async def test_another_database_is_none_of_a_knitfab(
    url: str, databases: Databases, tmp_path: Path
):
    made = Knitfab.__new__(Knitfab)
    made.url = url
    made.dump(tmp_path)
    with pytest.raises(Damaged) as refused:
        read_backup(tmp_path)
    assert "it is no database of Knitfab" in refused.value.reason
    assert json.dumps(refused.value.advice)


async def test_a_knit_is_written_as_a_knitfab_and_read_again(
    knitfab: Knitfab, store: PostgresStore, url: str, databases: Databases, tmp_path: Path
):
    """The way there and back: Plans, Runs, Data, tags, lineage and contents are the same."""
    first, folder = tmp_path / "first", tmp_path / "second"
    data = knitfab.upload("a:1 note:ä\\b")
    plan = knitfab.plan(
        {"/in": "a:1", "/pin": f"b:1 knit#id:{data} knit#timestamp:2024-11-17T19:25:32Z"},
        {"/out": "c:1"},
        log="l:1",
        on_node=[("must", "gpu", "yes")],
        annotations=[("note", ODD)],
        service_account="trainer",
        entrypoint=["a", ODD],
        args=["b"],
    )
    other = knitfab.plan({"/in": "c:1"}, {}, active=False)
    knitfab.plan({"/in": f"knit#id:{data}", "/no": "knit#timestamp:2024-11-17T19:25:32Z"}, {})
    _, made = knitfab.run(plan, {"/in": data, "/pin": data}, exit_=(0, ""))
    knitfab.run(plan, {"/in": made["/out"], "/pin": data}, "failed", (1, "(container main) Error"))
    knitfab.run(other, {"/in": made["/out"]}, "deactivated")
    knitfab.nominate(data, plan.inputs["/in"], updated=True)
    knitfab.dump(first)
    for one in (data, *made.values()):
        write_claim(first, one, {"file": one.encode(), "empty": b""})
    restored(first, url, tmp_path / "state")
    source = DirectInstallation(url, FolderVolumes(tmp_path / "state"), shown="knit")

    written = write_layout(source, folder, Silent())
    assert (written.volumes, written.read, written.unreadable) == (5, 3, {})
    again = write_layout(source, folder, Silent())
    assert (again.read, again.notes) == (0, ())
    assert sorted(one.name for one in folder.iterdir()) == ["data", "db"]
    listed = subprocess.run(
        [programs() / "pg_restore", "--list", "--format=tar"],
        input=gzip.decompress((folder / "db" / "dump.tar.gz").read_bytes()),
        capture_output=True,
        check=True,
    )
    assert b"TABLE DATA public assign" in listed.stdout
    assert b"knit." not in listed.stdout

    with open_dump(folder / "db" / "dump.tar.gz") as dump:
        inputs = dict(dump.rows("input", ["input_id", "path"]))
        found = dump.rows("nomination", ["knit_id", "input_id", "updated"])
        nominations = sorted((inputs[number], one, is_new) for one, number, is_new in found)
    assert nominations == sorted(
        [("/in", data, "t"), ("/in", data, "t"), ("/in", made["/out"], "f")]
    )
    backup = read_backup(folder)
    assert backup.check(Silent()) == 3 * 36
    assert (backup.survey.schema, backup.survey.notes, backup.survey.missing) == (3, (), ())
    nominated = backup._conversion.records.pending
    async with databases.store() as (_, into):
        assert restored(folder, into, tmp_path / "other").made == 3
        for query in SAME:
            assert rows(into, query) == rows(url, query), query
        assert nominated == {data}
    for one in (data, *made.values()):
        volume = tmp_path / "other" / "volumes" / names.volume(one)
        assert (volume / "file").read_text() == one


async def test_what_knitfab_does_not_know_is_told(store: PostgresStore, url: str, tmp_path: Path):
    plan = await register(store, spec({"/in": "a:1"}, image=f"demo:1@sha256:{'0' * 64}"))
    fetch(url, "UPDATE plan SET priority = 5 WHERE name IS NULL")
    knit_id = await upload(store, "a:1")
    source = DirectInstallation(url, FolderVolumes(tmp_path / "state"), shown="knit")
    written = write_layout(source, tmp_path / "out", Silent())
    assert [why for _, why in written.notes] == [
        "the digest of its image is left out",
        "its priority is left out",
    ]
    assert {what for what, _ in written.notes} == {f"Plan {plan}"}
    assert list(written.unreadable) == [knit_id]
    assert read_backup(tmp_path / "out").survey.missing == (knit_id,)


SAME = (
    "SELECT plan_id, identity_hash, name, repository, image_tag, entrypoint, args, on_node,"
    " resources, service_account, annotations, active FROM plan ORDER BY plan_id",
    "SELECT i.plan_id, i.position, i.path, i.tag_count, i.pinned_knit_id, i.pinned_timestamp,"
    " t.key, t.value FROM plan_input i LEFT JOIN plan_input_tag USING (input_id) LEFT JOIN tag t"
    " USING (tag_id) ORDER BY 1, 2, t.key",
    "SELECT o.plan_id, o.position, o.path, o.is_log, t.key, t.value FROM plan_output o LEFT JOIN"
    " plan_output_tag USING (output_id) LEFT JOIN tag t USING (tag_id) ORDER BY 1, 2",
    "SELECT run_id, plan_id, assignment_hash, status, exit_code, exit_message, updated_at FROM run"
    " ORDER BY run_id",
    "SELECT r.run_id, p.path, r.knit_id FROM run_input r JOIN plan_input p USING (input_id)"
    " ORDER BY 1, 2",
    "SELECT d.knit_id, d.run_id, o.path, d.timestamp, d.purged_at, d.owned FROM data d"
    " JOIN plan_output o USING (output_id) ORDER BY 1",
    "SELECT d.knit_id, d.timestamp, t.key, t.value FROM data_tag d JOIN tag t USING (tag_id)"
    " ORDER BY 1, 3, 4",
)
