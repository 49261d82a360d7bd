"""What `knit admin backup` and `restore` say, with an installation in memory."""

from __future__ import annotations

import json
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from knit_cli.admin.backup.registry import registry_of
from knit_cli.admin.backup.schedule_options import program_arguments
from knit_cli.admin.backup.scheduling import Scheduled
from knit_cli.admin.cluster import Cluster
from knit_cli.commands.admin.recovery import backup, restore, which
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import Invocation
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.installation import Found
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.taking import take_backup
from tests.cli.conftest import Ended, Knit
from tests.unit.backup.memory import Knit as Installation
from tests.unit.backup.memory import Silent
from tests.unit.backup.registry_folder import Folder

Asked = Callable[..., Ended]


@pytest.fixture
def source() -> Installation:
    return Installation({"a": b"1" * 3_000, "b": b"2"}, b"1\n", shown="knit here")


@pytest.fixture
def admin(bare_knit: Knit, source: Installation, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """`knit admin` for the stack in a folder, which is really the one in memory."""
    monkeypatch.setattr(which, "dev_installation", lambda _: source)
    return lambda verb, *more: bare_knit("admin", verb, "kept", "--state", "dev", *more)


def test_a_backup_says_what_it_has(admin: Asked, source: Installation):
    ended = admin("backup")
    assert ended.code == 0, ended.err
    assert "2 volumes, 2 of them read; 0.0 MiB read" in ended.err
    assert "2 Runs were under way at 2026-01-01T00:00:00.000Z" in ended.err
    source.archives["gone"] = b"x"
    source.deleted.add("gone")
    again = admin("backup", "--keep", "1", "--json")
    made = json.loads(again.out)
    assert (made["volumes"], made["volumesRead"], made["deletedMeanwhile"]) == (2, 0, ["gone"])
    assert len(made["removedSets"]) == 1
    assert "backup: 2 of 3 volumes are there already" in again.err
    for words in ("1 Data were deleted meanwhile", "removed 1 older sets"):
        assert words in again.err


@pytest.mark.patient
def test_images_are_taken_and_written_where_they_are_asked_for(
    admin: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    registry = Folder(tmp_path / "registry")
    registry.push(b"layer", "a/_layers")
    monkeypatch.setattr(backup, "registry_beside", lambda _: registry.files)
    taken = admin("backup", "--images", "--json")
    assert json.loads(taken.out)["imageBlobs"] == 1
    assert "images: 1 blobs, 1 of them read; 0.0 MiB in all" in taken.err

    empty = Installation(shown="another knit")
    monkeypatch.setattr(which, "dev_installation", lambda _: empty)
    other = Folder(tmp_path / "other")
    monkeypatch.setattr(restore, "registry_beside", lambda _: other.files)
    assert "--images writes them into the registry" in admin("restore").err
    written = admin("restore", "--images", "--json")
    assert json.loads(written.out)["imageBlobs"] == 1
    assert "images: 1 blobs, 1 of them written" in written.err
    assert other.all() == registry.all()
    assert json.loads(admin("restore", "--list", "--json").out)[0]["images"] is True


def test_images_need_a_registry(admin: Asked):
    assert "`knit dev` has no registry of its own" in admin("backup", "--images").err
    nothing = cast(Cluster, SimpleNamespace(namespace="here", get=lambda *_: []))
    with pytest.raises(CliError, match="there is no image registry in namespace here"):
        registry_of(nothing)


def test_what_cannot_be_read_is_a_failure_with_a_set(admin: Asked, source: Installation):
    source.without_volume = frozenset({"lost"})
    ended = admin("backup", "--keep", "1")
    assert ended.code == 1
    assert "no older set is removed" in ended.err
    assert "Data lost could not be read: there is no volume data-knitid-lost" in ended.err
    assert "set 2" in ended.err


def test_older_sets_that_cannot_be_removed_are_a_failure_with_a_set(admin: Asked, bare_knit: Knit):
    assert admin("backup").code == 0
    [older] = (bare_knit.cwd / "kept" / "sets").iterdir()
    older.write_bytes(b"rotten")
    ended = admin("backup", "--keep", "2", "--json")
    assert ended.code == 1
    assert "the set is there, but older ones could not be removed: the manifest" in ended.err
    made = json.loads(ended.out)
    assert made["unpruned"] in ended.err
    assert (bare_knit.cwd / "kept" / "sets" / f"{made['set']}.json").is_file()


def test_a_restore_is_tried_and_done_and_not_done_twice(admin: Asked, source: Installation):
    assert "there is no folder" in admin("restore").err
    assert admin("backup").code == 0
    source.archives.clear()
    tried = admin("restore", "--dry-run")
    assert "is whole, and knit here can take it: 2 volumes" in tried.err
    assert not source.archives
    done = admin("restore", "--json")
    assert json.loads(done.out)["made"] == 2
    assert "2 volumes made, 0 were there" in done.err
    assert "2 Runs were under way then; they have failed: knit run retry" in done.err
    assert "was restored into knit here before; there is nothing to do" in admin("restore").err


def test_whoever_has_no_name_may_restore(
    admin: Asked, source: Installation, bare_knit: Knit, monkeypatch: pytest.MonkeyPatch
):
    """As in many containers."""

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    assert admin("backup").code == 0
    source.archives.clear()
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
        bare_knit.variables.pop(name, None)
    ended = admin("restore", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["made"] == 2


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_no_backup_removes_the_set_that_is_restored(
    admin: Asked, source: Installation, bare_knit: Knit, flags: tuple[str, ...]
):
    assert admin("backup").code == 0
    source.archives.clear()
    really = source.look
    refused: list[object] = []

    def look() -> Found:
        """Somebody takes a backup meanwhile."""
        kept = open_destination("kept", bare_knit.cwd, new=True)
        with pytest.raises(BackupProblem, match="or a restore reads it") as problem:
            take_backup(source, kept, Silent(), keep=1)
        refused.append(problem)
        return really()

    source.look = look  # type: ignore[method-assign]
    assert admin("restore", *flags).code == 0
    assert refused


def test_sets_are_listed(admin: Asked):
    assert admin("backup").code == 0
    [one] = json.loads(admin("restore", "--list", "--json").out)
    assert one["volumes"] == 2
    assert one["set"] in admin("restore", "--list").out.decode()
    assert "there is no set x" in admin("restore", "--set", "x").err


def test_what_makes_no_sense_together_is_refused(admin: Asked, bare_knit: Knit):
    admin("backup")
    assert "--list and --dry-run exclude" in admin("restore", "--list", "--dry-run").err
    assert "--storage-class is for clusters" in admin("restore", "--storage-class", "x").err
    assert "--state means `knit dev`" in admin("restore", "--settings", "x").err
    assert "there is no settings folder" in bare_knit("admin", "backup", "kept").err


def test_a_stack_that_is_down_is_told(bare_knit: Knit):
    ended = bare_knit("admin", "backup", "kept", "--state", "nowhere")
    assert ended.code == 1
    assert "knit is not running in" in ended.err


SCHEDULE = {
    "destination": "/kept",
    "when": "every 6 h",
    "keep": 14,
    "paused": False,
    "running": True,
    "lastSet": "20261130T100000000000Z-0123abcd",
    "lastAt": "2026-11-30T10:00:00.000Z",
    "unreadable": 1,
    "unpruned": "the set one is damaged",
    "nextAt": "2026-11-30T12:00:00.000Z",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the program that knows the schedule, which tells of one."""
    given: list[list[str]] = []

    def beside(_: object, __: object, arguments: list[str]) -> Scheduled:
        given.append(arguments)
        return Scheduled(None if arguments[0] == "none" else SCHEDULE, workers=0)

    monkeypatch.setattr(backup, "beside_dev", beside)
    return given


def test_a_schedule_is_set_and_shown(bare_knit: Knit, asked: list[list[str]]):
    words = ("admin", "backup", "/kept", "--state", "dev", "--every", "6h", "--keep", "14")
    ended = bare_knit(*words)
    assert ended.code == 0, ended.err
    assert asked == [["set", "--destination=/kept", "--keep=14", "--every=21600.0"]]
    for said in (
        "backups into /kept: every 6 h, the newest 14 sets are kept",
        "the next one begins at 2026-11-30T12:00:00.000Z",
        "one is being taken",
        "last complete set: 2026-11-30T10:00:00.000Z, set 20261130T100000000000Z-0123abcd",
        "without 1 Data",
        "older sets could not be removed: the set one is damaged",
        "no worker takes backups",
    ):
        assert said in ended.out.decode()
    bare_knit("admin", "backup", "kept", "--state", "dev", "--cron", "15 2 * * *")
    [verb, where, cron] = asked[-1]
    assert (verb, cron) == ("set", "--cron=15 2 * * *")
    assert where.startswith("--destination=/")
    assert where.endswith("/kept")


@pytest.mark.parametrize(
    ("destination", "here", "named"),
    [
        ("s3://bucket/x", False, "s3://bucket/x"),
        ("s3:/bucket/x", True, "s3:/bucket/x"),  # refused where it is opened
        ("/backups/knit", False, "/backups/knit"),
        ("/anywhere", True, "/anywhere"),
        ("/anywhere", False, None),
        ("/backups/../knit", False, None),
        ("/backups-of-knit", False, None),
        ("kept", False, None),
    ],
)
def test_a_schedule_s_destination_outlasts_its_worker(
    bare_knit: Knit, destination: str, here: bool, named: str | None
):
    invocation = cast(Invocation, SimpleNamespace(path=bare_knit.cwd.joinpath))
    arguments = program_arguments(invocation, destination, None, "6h", None, None)
    if named is None:
        with pytest.raises(BadInput, match="would be a folder in the worker's pod"):
            arguments(here)
    else:
        assert arguments(here)[1] == f"--destination={named}"


def test_a_schedule_is_ended(bare_knit: Knit, asked: list[list[str]]):
    ended = bare_knit("admin", "backup", "--schedule", "none", "--state", "dev")
    assert (ended.out.strip(), asked) == (b"no backup is scheduled", [["none"]])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kept", "--schedule", "show"), "is about the schedule that is there"),
        (("--every", "6h"), "needs a destination"),
        (("kept", "--every", "6h", "--cron", "* * * * *"), "needs a destination, and --every or"),
        (("kept", "--every", "6"), "--every is not a duration"),
        (("kept", "--every", "1ms"), "--every is at least 1s"),
        (("kept", "--every", "6h", "--images"), "a schedule takes backups as knit's own sets"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bare_knit: Knit, asked: list[list[str]], words: tuple[str, ...], said: str
):
    ended = bare_knit("admin", "backup", *words, "--state", "dev")
    assert ended.code != 0
    assert said in ended.err
    assert not asked


def test_a_backup_without_a_destination_is_wrong_use(bare_knit: Knit):
    ended = bare_knit("admin", "backup", "--state", "dev")
    assert ended.code == 2
    assert "DEST: name a folder or s3://BUCKET/PREFIX, or use --schedule show" in ended.err
