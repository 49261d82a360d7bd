"""The part `images/` of Knitfab's layout: written, read, cut, damaged, hostile."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from knit_workflows.backup.knitfab.images import check_part, load_images, save_images
from knit_workflows.backup.problems import BackupProblem, Damaged
from tests.unit.backup.memory import Silent
from tests.unit.backup.registry_folder import Folder

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "image-registry-registry-root", "namespace": "knit", "uid": "1"},
    "spec": {"volumeName": "pvc-1", "resources": {"requests": {"storage": "1Gi"}}},
    "status": {"phase": "Bound"},
}


def registry_in(folder: Path) -> Folder:
    return Folder(folder / "docker" / "registry" / "v2")


@pytest.fixture
def registry(tmp_path: Path) -> Folder:
    made = registry_in(tmp_path / "registry")
    made.push(b"layer" * 500_000, "a/_layers/sha256/1")
    made.push(b"manifest", "a/_manifests/tags/1")
    made.put("repositories/a/_uploads/1/data", b"just arriving")
    return made


@pytest.fixture
def other(tmp_path: Path) -> Folder:
    return registry_in(tmp_path / "other")


def test_what_is_written_is_read(registry: Folder, other: Folder, tmp_path: Path) -> None:
    save_images(tmp_path, registry.files, CLAIM, Silent())
    claim = json.loads((tmp_path / "images" / "pvc.json").read_text())
    assert claim == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "image-registry-registry-root", "namespace": "knit"},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
    }
    assert check_part(tmp_path, Silent()) == 2_500_008
    assert load_images(tmp_path, other.files, Silent(), replaces=True) == 2
    expected = registry.all()
    del expected["repositories/a/_uploads/1/data"]
    assert other.all() == expected
    assert load_images(tmp_path, other.files, Silent(), replaces=True) == 0


def test_a_backup_that_is_cut_leaves_the_earlier_one(registry: Folder, tmp_path: Path) -> None:
    save_images(tmp_path, registry.files, CLAIM, Silent())
    before = (tmp_path / "images" / "data.tar.gz").read_bytes()
    cut = Folder(registry.path, shows=1_000_000).files
    with pytest.raises(BackupProblem, match="cut or"):
        save_images(tmp_path, cut, CLAIM, Silent())
    assert (tmp_path / "images" / "data.tar.gz").read_bytes() == before


def test_a_restore_that_is_cut_has_no_links(
    registry: Folder, other: Folder, tmp_path: Path
) -> None:
    save_images(tmp_path, registry.files, CLAIM, Silent())
    cut = Folder(other.path, stops_after=700_000)
    with pytest.raises(BackupProblem):
        load_images(tmp_path, cut.files, Silent(), replaces=True)
    assert not (other.path / "repositories").exists()
    load_images(tmp_path, other.files, Silent(), replaces=True)
    assert load_images(tmp_path, other.files, Silent(), replaces=True) == 0


def test_a_blob_that_is_another_one_is_refused(
    registry: Folder, other: Folder, tmp_path: Path
) -> None:
    digest = registry.push(b"right", "b/_layers/sha256/1")
    save_images(tmp_path, registry.files, CLAIM, Silent())
    content = tmp_path / "images" / "data.tar.gz"
    sound = gzip.decompress(content.read_bytes())
    content.write_bytes(gzip.compress(sound.replace(b"right", b"wrong")))
    with pytest.raises(Damaged, match="is not what it was"):
        check_part(tmp_path, Silent())
    registry.put(f"blobs/sha256/{digest[:2]}/{digest}/data", b"wrong")
    with pytest.raises(Damaged, match="is not what it was"):
        save_images(tmp_path, registry.files, CLAIM, Silent())
    with pytest.raises(Damaged, match="is not what it was"):
        load_images(tmp_path, other.files, Silent(), replaces=True)
    assert not (other.path / "repositories").exists()


# With names: gzip writes the time, by which processes of xdist would tell the tests apart.
@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no tar" * 200)],
    ids=["nothing", "no gzip", "no tar"],
)
def test_what_is_no_archive_is_refused(other: Folder, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "data.tar.gz").write_bytes(content)
    with pytest.raises(Damaged, match="damaged"):
        load_images(tmp_path, other.files, Silent(), replaces=True)


def test_a_backup_without_images_says_so(other: Folder, tmp_path: Path) -> None:
    with pytest.raises(BackupProblem, match="has no images"):
        load_images(tmp_path, other.files, Silent(), replaces=True)


def test_only_blobs_and_links_are_taken(other: Folder, tmp_path: Path) -> None:
    root = "./docker/registry/v2"
    names = [
        f"{root}/repositories/../../x/link",
        f"{root}/repositories/a/large/link",
        f"{root}/repositories/a/other",
        f"{root}/blobs/sha256/aa/data",
        "./docker/elsewhere/link",
        "/etc/link",
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 5000 if "large" in name else 1
            archive.addfile(member, io.BytesIO(b"x" * member.size))
        leads_away = tarfile.TarInfo(f"{root}/repositories/a/b/link")
        leads_away.type, leads_away.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(leads_away)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "data.tar.gz").write_bytes(gzip.compress(packed.getvalue()))
    assert load_images(tmp_path, other.files, Silent(), replaces=True) == 0
    assert other.all() == {}
