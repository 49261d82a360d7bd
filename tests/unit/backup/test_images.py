"""Images of a registry in sets: read and written by the shell, in a folder in place of a pod."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.restoring import check_set, choose_set, restore
from knit_workflows.backup.taking import Taken, take_backup
from tests.unit.backup.memory import Knit, Objects, Silent
from tests.unit.backup.registry_folder import Folder


@pytest.fixture
def registry(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "registry")


@pytest.fixture
def other(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "other")


def take(objects: Objects, registry: Folder, **more: int) -> Taken:
    return take_backup(Knit({"a": b"A"}), objects, Silent(), registry=registry.files, **more)


def filled(objects: Objects, registry: Folder) -> int:
    chosen = choose_set(objects, None)
    return restore(objects, chosen, Knit(), Silent(), by="me", registry=registry.files).blobs


@pytest.mark.patient
def test_images_come_back_and_blobs_are_read_once(registry: Folder, other: Folder) -> None:
    registry.push(b"layer" * 1_000_000, "a/_layers")
    first = take(Objects(), registry)
    assert (first.set.image_blobs, first.blobs_read) == (1, 1)

    objects = Objects()
    take(objects, registry)
    registry.push(b"manifest", "a/_manifests/tags/1")
    registry.put("repositories/a/_uploads/1/data", b"just arriving")
    second = take(objects, registry)
    assert (second.set.image_blobs, second.blobs_read) == (2, 1)
    pieces = len(objects.content)
    third = take(objects, registry)
    assert (third.set.image_blobs, third.blobs_read) == (2, 0)
    assert len(objects.content) == pieces + 1  # its manifest; the index is the same

    assert filled(objects, other) == 2
    expected = registry.all()
    del expected["repositories/a/_uploads/1/data"]
    assert other.all() == expected
    assert filled(objects, other) == 0


def test_an_empty_registry_has_an_empty_backup(registry: Folder, other: Folder) -> None:
    objects = Objects()
    assert take(objects, registry).set.image_blobs == 0
    assert filled(objects, other) == 0
    assert other.all() == {}


def test_sets_without_images_between_leave_the_blobs_known(registry: Folder) -> None:
    registry.push(b"layer", "a/_layers")
    objects = Objects()
    take(objects, registry)
    without = take_backup(Knit(), objects, Silent())
    assert without.set.image_index == ()
    assert take(objects, registry).blobs_read == 0


def test_what_sets_need_of_images_is_kept_and_the_rest_goes(
    registry: Folder, other: Folder
) -> None:
    objects = Objects()
    registry.push(b"old", "a/_layers")
    take(objects, registry)
    (registry.path / "repositories/a/_layers/current/link").unlink()
    for one in registry.path.glob("blobs/sha256/*/*/data"):
        one.unlink()
    registry.push(b"new", "a/_layers")
    take(objects, registry)
    before = len(objects.content)
    take(objects, registry, keep=1)
    assert len(objects.content) < before
    assert check_set(objects, choose_set(objects, None), Silent()) > 0
    assert filled(objects, other) == 1
    assert other.all() == registry.all()


def test_a_blob_that_is_damaged_in_the_registry_is_no_part_of_a_set(registry: Folder) -> None:
    digest = registry.push(b"layer", "a/_layers")
    registry.put(f"blobs/sha256/{digest[:2]}/{digest}/data", b"other")
    objects = Objects()
    with pytest.raises(Damaged, match="is not what it was"):
        take(objects, registry)
    assert not list(objects.names("sets/"))


def test_a_blob_that_goes_while_it_is_to_be_read_is_told(registry: Folder) -> None:
    kept, gone = registry.push(b"kept", "a/_layers"), registry.push(b"gone", "b/_layers")
    files = registry.files
    there = files.blobs()
    (registry.path / f"blobs/sha256/{gone[:2]}/{gone}/data").unlink()
    files.blobs = lambda: there  # type: ignore[method-assign]
    with pytest.raises(BackupProblem, match="1 blobs of the registry were removed"):
        take_backup(Knit(), Objects(), Silent(), registry=files)
    assert set(there) == {kept, gone}


@pytest.mark.parametrize("stops_after", [0, 100, 700, 3_000_000])
def test_a_restore_that_is_cut_goes_on_from_there(
    registry: Folder, other: Folder, stops_after: int
) -> None:
    for number in range(4):
        registry.push(bytes([number]) * 1_000_000, f"{number}/_layers")
    objects = Objects()
    take(objects, registry)
    cut = Folder(other.path, stops_after)
    knit = Knit()
    with pytest.raises(BackupProblem):
        restore(objects, choose_set(objects, None), knit, Silent(), by="me", registry=cut.files)
    assert not knit.loaded
    assert not (other.path / "repositories").exists()
    filled(objects, other)
    assert other.all() == registry.all()


@pytest.mark.parametrize("shows", [0, 10, 600, 1500])
def test_what_an_exec_loses_of_lists_and_archives_is_noticed(registry: Folder, shows: int) -> None:
    registry.push(b"layer" * 1000, "a/_layers")
    cut = Folder(registry.path, shows=shows).files
    with pytest.raises(BackupProblem, match="cut or garbled"):
        list(cut.links())
    if shows:
        with pytest.raises(BackupProblem, match="cut or garbled"):
            for _, content in cut.read(list(registry.files.blobs())):
                list(content)
    if shows < 100:
        with pytest.raises(BackupProblem, match="cut or garbled"):
            cut.blobs()


def test_a_set_without_images_has_none_to_restore(other: Folder) -> None:
    objects = Objects()
    take_backup(Knit(), objects, Silent())
    with pytest.raises(BackupProblem, match="has no images"):
        filled(objects, other)


def test_a_collection_of_garbage_during_a_restore_is_noticed(
    registry: Folder, other: Folder
) -> None:
    registry.push(b"layer", "a/_layers")
    objects = Objects()
    take(objects, registry)
    files = other.files
    write_links = files.write_links

    def collected_first(archive: Iterator[bytes]) -> None:
        for one in other.path.glob("blobs/sha256/*/*/data"):
            one.unlink()
        write_links(archive)

    files.write_links = collected_first  # type: ignore[method-assign]
    with pytest.raises(BackupProblem, match="are not in the registry although"):
        restore(objects, choose_set(objects, None), Knit(), Silent(), by="me", registry=files)
    assert filled(objects, other) == 1


def test_the_archive_of_links_has_nothing_else(registry: Folder) -> None:
    registry.push(b"layer", "a/_layers")
    archive = io.BytesIO(b"".join(registry.files.links()))
    with tarfile.open(fileobj=archive) as links:
        assert links.getnames() == ["repositories/a/_layers/current/link"]
