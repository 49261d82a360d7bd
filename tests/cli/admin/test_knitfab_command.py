"""What `knit admin restore --layout knitfab` says, with an installation in memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from knit_cli.commands.admin.recovery import restore, which
from knit_workflows.backup.knitfab.images import save_images
from knit_workflows.store.migrations import REVISION
from tests.cli.conftest import Ended, Knit
from tests.knitfab import archive_of, write_claim
from tests.unit.backup.memory import Knit as Installation
from tests.unit.backup.memory import Silent
from tests.unit.backup.registry_folder import Folder

Asked = Callable[..., Ended]
UPLOAD, PLAN, DATA, RUN, OTHER, OTHER_RUN = (
    f"{n}0000000-0000-4000-8000-000000000000" for n in "123456"
)
WHEN = "2024-11-18 04:25:32.123456+09"
ROWS = {
    "schema_version (version)": "3",
    "tag_key (id, key)": "1\ttype",
    "tag (id, key_id, value)": "1\t1\tdataset",
    "plan (plan_id, active, hash)": f"{UPLOAD}\tt\t-\n{PLAN}\tt\t-",
    "plan_image (plan_id, image, version)": f"{PLAN}\tdemo\t1",
    "plan_pseudo (plan_id, name)": f"{UPLOAD}\tknit#uploaded",
    "plan_resource (plan_id, type, value)": f"{PLAN}\tcpu\t1",
    "input (input_id, plan_id, path)": f"1\t{PLAN}\t/in",
    "output (output_id, plan_id, path)": f"1\t{UPLOAD}\t/upload",
    "log (plan_id, output_id)": "",
    "tag_input (tag_id, input_id)": "1\t1",
    "run (run_id, plan_id, status, updated_at)": f"{RUN}\t{UPLOAD}\tdone\t{WHEN}\n"
    f"{OTHER_RUN}\t{UPLOAD}\trunning\t{WHEN}",
    "data (knit_id, volume_ref, run_id, output_id)": f"{DATA}\tdata-knitid-{DATA}\t{RUN}\t1\n"
    f"{OTHER}\tdata-knitid-{OTHER}\t{OTHER_RUN}\t1",
    "assign (run_id, input_id, knit_id)": "",
    'knit_timestamp (knit_id, "timestamp")': f"{DATA}\t{WHEN}",
    "tag_data (tag_id, knit_id)": f"1\t{DATA}",
    "keychain (name)": "key",
    "addon (id)": "1",
}


def write_dump(folder: Path) -> None:
    """Writes what pg_dump would of these rows."""
    files = {"toc.dat": b"PGDMP"}
    script = ["SET client_encoding = 'UTF8';"]
    for number, (table, rows) in enumerate(ROWS.items()):
        script.append(f"COPY public.{table} FROM '$$PATH$$/{number}.dat';")
        files[f"{number}.dat"] = f"{rows}\n\\.\n".lstrip("\n").encode()
    files["restore.sql"] = "\n".join(script).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size, one.mtime = len(content), 1_700_000_000
            tar.addfile(one, io.BytesIO(content))
    (folder / "db").mkdir(parents=True)
    (folder / "db" / "dump.tar.gz").write_bytes(gzip.compress(packed.getvalue()))


@pytest.fixture
def target() -> Installation:
    return Installation(revision=REVISION, shown="knit here")


@pytest.fixture
def backup(bare_knit: Knit) -> Path:
    folder = bare_knit.cwd / "kept"
    write_dump(folder)
    return folder


@pytest.fixture
def admin(bare_knit: Knit, target: Installation, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(which, "dev_installation", lambda _: target)
    words = ("--layout", "knitfab", "--state", "dev")
    return lambda verb, *more: bare_knit("admin", verb, "kept", *words, *more)


def test_a_dry_run_tells_and_does_nothing(admin: Asked, backup: Path, target: Installation):
    write_claim(backup, DATA, {"file": b"12345"})
    write_claim(backup, OTHER, {})
    (backup / "images").mkdir()
    told = admin("restore", "--dry-run")
    assert told.code == 0, told.err
    assert told.out.decode().splitlines() == [
        "at          2023-11-14T22:13:20+00:00",
        "schema      3",
        "Plans       1, 0 of them inactive",
        "Runs        1 done, 1 running",
        "Data        2",
        "tags        1",
        "edges       0",
        "volumes     1 with content, 0 without",
        "will fail   1 Runs that were under way",
        f"not used    claim data-knitid-{OTHER}",
        f"note        Plan {PLAN}: it had no limit of memory, and gets knit's default of 1Gi",
        "note        keychain, rows: 1: not carried over: keys of imports: they are in a Secret "
        "of the cluster, not in a backup; imports that had begun have failed",
        "note        table addon: not carried over: no Knitfab has it",
        "note        images: loaded only with --images",
    ]
    assert "knit here can take it: 1 volumes, all of them readable" in told.err
    assert (target.archives, target.loaded) == ({}, [])
    about = json.loads(admin("restore", "--dry-run", "--json").out)
    assert (about["runs"], about["bytes"]) == ({"done": 1, "running": 1}, 5)
    assert about["claimsNotUsed"] == [f"data-knitid-{OTHER}"]
    assert about["notes"][0]["about"] == f"Plan {PLAN}"


def test_it_is_done_once(admin: Asked, backup: Path, target: Installation):
    write_claim(backup, DATA, {"file": b"12345"})
    done = admin("restore", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["made"] == 1
    assert "Knitfab is restored into knit here, as it was at 2023-11-14T22:13:20" in done.err
    assert "1 Runs were under way then; they have failed: knit run retry" in done.err
    assert target.archives == {DATA: archive_of({"file": b"12345"})}
    assert "was restored into knit here before" in admin("restore").err


def test_images_are_loaded_if_they_are_asked_for(
    admin: Asked, backup: Path, target: Installation, monkeypatch: pytest.MonkeyPatch
):
    write_claim(backup, DATA, {"file": b"12345"})
    registry, other = (Folder(backup / name / "docker/registry/v2") for name in ("one", "other"))
    registry.push(b"layer", "a/_layers")
    claim = {"metadata": {"name": "c"}, "spec": {}}
    save_images(backup, registry.files, claim, Silent())
    monkeypatch.setattr(restore, "registry_beside", lambda _: other.files)
    assert json.loads(admin("restore", "--images", "--json").out)["imageBlobs"] == 1
    assert other.all() == registry.all()
    again = admin("restore")
    assert "images are not loaded; --images writes them into the registry" in again.err


def test_missing_content_is_refused_unless_it_is_accepted(
    admin: Asked, backup: Path, target: Installation
):
    told = admin("restore", "--dry-run")
    assert f"no content  Data {DATA}" in told.out.decode()
    needed = "1 Data have no content: a restore needs --allow-missing, and they are purged with it"
    assert (told.code, needed in told.err, "can take it" in told.err) == (1, True, False)
    assert json.loads(admin("restore", "--dry-run", "--json").out)["withoutContent"] == [DATA]
    allowed = admin("restore", "--dry-run", "--allow-missing")
    assert (allowed.code, needed in allowed.err, "can take it" in allowed.err) == (0, True, True)
    refused = admin("restore")
    assert refused.code == 1
    assert "1 Data have no content in" in refused.err
    assert not target.loaded
    done = admin("restore", "--allow-missing")
    assert "1 Data have no content in the backup: purged" in done.err
    assert isinstance(target.loaded[0], dict)
    assert target.loaded[0]["gone"] == [DATA]


def test_damage_is_told_before_anything_is_switched_on(
    admin: Asked, backup: Path, target: Installation
):
    write_claim(backup, DATA, {"file": b"12345"})
    content = backup / "data" / f"data-knitid-{DATA}" / "data.tar.gz"
    content.write_bytes(content.read_bytes()[:-9])
    for flags in (("--dry-run",), ()):
        ended = admin("restore", *flags)
        assert ended.code == 1
        assert "data.tar.gz is damaged" in ended.err
    assert not target.loaded


def test_what_makes_no_sense_is_refused(admin: Asked, bare_knit: Knit):
    assert "has no sets" in admin("restore", "--list").err
    assert "has no sets" in admin("restore", "--set", "x").err
    assert "has no sets" in admin("backup", "--keep", "3").err
    plain = bare_knit("admin", "restore", "kept", "--state", "dev", "--allow-missing")
    assert "--allow-missing is for --layout knitfab" in plain.err
    assert "is no backup of Knitfab" in admin("restore").err
    words = ("s3://bucket/x", "--layout", "knitfab", "--state", "dev")
    assert "is no folder" in bare_knit("admin", "backup", *words).err
    ended = bare_knit("admin", "restore", *words)
    assert (ended.code, "copy it into a folder first" in ended.err) == (1, True)


def test_an_installation_of_another_revision_is_refused_in_words(
    admin: Asked, backup: Path, target: Installation
):
    """Which version of Knitfab made it does not matter: its rows are made anew."""
    target.revision = "0001"
    ended = admin("restore", "--dry-run")
    assert ended.code == 1
    assert f"knit here has revision 0001, and {REVISION} is needed" in ended.err
    assert "use the knit that is installed there, or upgrade it" in ended.err
