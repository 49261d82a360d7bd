"""Writes the layout of Knitfab from a knit: claims with their content, then the database.

The database is put together by PostgreSQL, in a server of this command's own that goes with it, and
dumped by the `pg_dump` that comes with that. It comes last: a folder without it is no backup.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from knit_workflows import names
from knit_workflows.backup.frames import Frame, content_until
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.knitfab.claims import CONTENT, DESCRIPTION
from knit_workflows.backup.knitfab.packing import packed
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Wanted
from knit_workflows.backup.watching import Watcher
from knit_workflows.embedded import EmbeddedPostgres

DUMP: Final = "db/dump.tar.gz"
DATA: Final = "data"
_DRAFTS: Final = ".drafts"
_ASIDE: Final = ".earlier"
_VOLUME: Final = "knit/data.volume"
"""An annotation of a claim: the volume of knit whose content it has."""
_TABLES: Final = {
    "tag": "tag_id bigint, key text, value text",
    "plan": "plan_id text, identity_hash text, name text, repository text, image_tag text, "
    "image_digest text, entrypoint text[], args text[], on_node jsonb, resources jsonb, "
    "service_account text, annotations jsonb, active bool, priority int, options jsonb",
    "plan_input": "input_id bigint, plan_id text, path text, tag_count int, pinned_knit_id text, "
    "pinned_timestamp timestamptz",
    "plan_input_tag": "tag_id bigint, input_id bigint",
    "plan_output": "output_id bigint, plan_id text, path text, is_log bool",
    "plan_output_tag": "tag_id bigint, output_id bigint",
    "run": "run_id text, plan_id text, assignment_hash bytea, status text, exit_code int, "
    "exit_message text, updated_at timestamptz",
    "data": "knit_id text, run_id text, output_id bigint, timestamp timestamptz, "
    "purged_at timestamptz",
    "data_tag": "tag_id bigint, knit_id text",
    "run_input": "run_id text, input_id bigint, knit_id text",
    "outbox": "kind text, subject text",
}
"""What is needed of knit's tables, with types; all other columns are read as texts."""
_HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Written:
    """What was written. `read`: claims; the other of `volumes` were there already.

    `unreadable`: Data that could not be read, and why. `notes`: what Knitfab does not know.
    """

    at: str
    volumes: int
    read: int
    seconds: float
    unreadable: dict[str, str]
    notes: tuple[tuple[str, str], ...]


def write_layout(source: Installation, folder: Path, watcher: Watcher) -> Written:
    """Writes `data/` and `db/` into a folder, which is made.

    A second call with the same folder reads only what is not there yet, since Data do not change,
    and what was adopted; it replaces the database.

    Raises:
        BackupProblem: it cannot be ended; repeat it. Or another one writes there.
    """
    began = time.monotonic()
    with _told(folder), _alone(folder), _scratch() as server:
        url = server.url()
        with psycopg.connect(url, autocommit=True) as connection:
            at, wanted = _load(connection, source.database())
            notes = tuple(_notes(connection))
            claims = _Claims(source, folder / DATA, watcher)
            claims.write(wanted)
            _run(connection, "schema.sql")
            _run(connection, "fill.sql")
        _dump(server, url, folder / DUMP)
    return Written(
        at=at,
        volumes=len(wanted),
        read=claims.read,
        seconds=time.monotonic() - began,
        unreadable=claims.unreadable,
        notes=notes,
    )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        where = cause.filename or folder
        raise BackupProblem(f"{where} cannot be written", reason=str(cause.strerror)) from cause
    except psycopg.Error as cause:
        raise BackupProblem(
            "the database for Knitfab cannot be put together",
            reason=str(cause).strip()[:300],
            advice=f"repeat it; it takes room for the database in {tempfile.gettempdir()} (TMPDIR)",
        ) from cause


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes the folder and has it to itself: another one would remove drafts that are filled.

    The kernel unlocks it when its holder dies.
    """
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise BackupProblem(
                f"another command writes into {folder}",
                advice="wait until it has ended, then repeat this one",
            ) from cause
        yield
    finally:
        os.close(descriptor)


# --- the database -------------------------------------------------------------------------------


@contextmanager
def _scratch() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="knit-layout-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the server is another user's where we are root
        server = EmbeddedPostgres(Path(folder) / "pg")
        try:
            server.start()
        except (RuntimeError, subprocess.SubprocessError) as cause:
            raise BackupProblem(
                "no PostgreSQL can be started to write the dump", reason=str(cause)[-300:]
            ) from cause
        try:
            yield server
        finally:
            server.stop()


def _load(connection: psycopg.Connection[Any], frames: Iterator[Frame]) -> tuple[str, list[Wanted]]:
    """Loads knit's tables as they are, and gives their instant and the volumes that are final."""
    about = next(frames)
    assert isinstance(about, dict)
    connection.execute("CREATE SCHEMA knit")
    wanted: list[Wanted] = []
    for frame in frames:
        assert isinstance(frame, dict)
        if "table" in frame:
            _load_table(connection, frame, content_until(frames, "rows"))
        elif "volumes" in frame:
            lines = b"".join(content_until(frames, "end")).splitlines()
            wanted = [Wanted(**json.loads(line)) for line in lines]
    return about["at"], wanted


def _load_table(
    connection: psycopg.Connection[Any], head: dict[str, Any], content: Iterable[bytes]
) -> None:
    table = head["table"]
    if table not in _TABLES:
        for _ in content:
            pass
        return
    types = dict(one.strip().split(" ", 1) for one in _TABLES[table].split(","))
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(types.get(name, "text")))
        for name in head["columns"]
    )
    where = sql.Identifier("knit", table)
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(where, columns))
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(where)) as copy:
        for chunk in content:
            copy.write(chunk)


def _notes(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, str]]:
    """Says what Knitfab has no place for."""
    found = connection.execute(
        "SELECT plan_id, image_digest <> '', options <> '{}', priority <> 0 FROM knit.plan"
        " WHERE name IS NULL ORDER BY plan_id"
    )
    for plan_id, digest, options, priority in found:
        if digest:
            yield f"Plan {plan_id}", "the digest of its image is left out"
        if options:
            yield f"Plan {plan_id}", "what it asks of pods and volumes is left out"
        if priority:
            yield f"Plan {plan_id}", "its priority is left out"


def _run(connection: psycopg.Connection[Any], script: str) -> None:
    connection.execute((_HERE / script).read_bytes())


def _dump(server: EmbeddedPostgres, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    command = [server.program("pg_dump"), "--format=tar", "--no-owner", f"--dbname={url}"]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process,
        packed(draft) as into,
    ):
        assert process.stdout is not None
        shutil.copyfileobj(process.stdout, into)
        if process.wait() != 0:
            said.seek(0)
            reason = said.read().decode("utf-8", "replace").strip()
            raise BackupProblem("pg_dump failed", reason=reason[-600:])
    draft.rename(path)


# --- claims -------------------------------------------------------------------------------------


@dataclass
class _Claims:
    """The part `data/`: a claim's folder is there with all it has, or not at all.

    One that is there stays until there is a new one.
    """

    source: Installation
    folder: Path
    watcher: Watcher
    read: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def write(self, wanted: Sequence[Wanted]) -> None:
        drafts = self.folder.parent / _DRAFTS
        self._put_back(drafts)
        shutil.rmtree(drafts, ignore_errors=True)
        missing = [one for one in wanted if not self._is_there(one)]
        self.watcher.begins("backup", len(wanted), len(wanted) - len(missing))
        if not missing:
            return
        drafts.mkdir()
        by_id = {one.knit_id: one for one in missing}
        frames = self.source.volumes(missing)
        for frame in frames:
            assert isinstance(frame, dict)
            self._write_one(by_id[frame["volume"]], frames, drafts / frame["volume"])
            self.watcher.finished(1)
        shutil.rmtree(drafts)

    def _is_there(self, one: Wanted) -> bool:
        """Says whether it need not be read; what was adopted may have changed.

        Content is final in its volume only: a Run that a restore had go again makes the same Data
        with another one.
        """
        part = self.folder / names.volume(one.knit_id)
        return one.owned and _volume_of(part, names.volume(one.knit_id)) == one.volume

    def _put_back(self, drafts: Path) -> None:
        """Puts back what a killed one had set aside, and had nothing in its place yet."""
        for aside in drafts.glob(f"*{_ASIDE}"):
            target = self.folder / names.volume(aside.name.removesuffix(_ASIDE))
            if not target.exists():
                aside.rename(target)

    def _write_one(self, one: Wanted, frames: Iterator[Frame], draft: Path) -> None:
        last: dict[str, Any] = {}
        size = 0
        draft.mkdir()
        with packed(draft / CONTENT) as into:
            for frame in frames:
                if isinstance(frame, dict):
                    last = frame
                    break
                size += len(frame)
                self.watcher.moved(len(frame))
                into.write(frame)
        if "read" not in last:
            shutil.rmtree(draft)
            if one.must_be_there or not last.get("absent"):
                self.unreadable[one.knit_id] = str(last.get("why", "it was cut"))
            return
        claim = _claim(one, last["capacity"] or size)
        (draft / DESCRIPTION).write_text(json.dumps(claim, indent=4) + "\n", encoding="utf-8")
        target = self.folder / names.volume(one.knit_id)
        if target.exists():  # an earlier content
            target.rename(draft.with_name(f"{draft.name}{_ASIDE}"))
        draft.rename(target)
        self.read += 1


def _volume_of(part: Path, otherwise: str) -> str | None:
    """Gives the volume whose content a claim has, or `otherwise` if an earlier knit has written it.

    None: there is no such claim, or nobody knows.
    """
    try:
        described = json.loads((part / DESCRIPTION).read_bytes())
        found: str = described["metadata"].get("annotations", {}).get(_VOLUME, otherwise)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def _claim(one: Wanted, capacity: int) -> dict[str, Any]:
    """Gives a claim as Knitfab's backups describe them; the storage class is the restore's."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.volume(one.knit_id),
            "labels": {names.LABEL_KNIT_ID: one.knit_id},
            "annotations": {_VOLUME: one.volume},
        },
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": str(capacity)}},
        },
    }
