"""Images of a registry in sets: read and written by the shell, in a folder in place of a pod."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest

from knit_cli.admin.backup.registry import RegistryFiles
from knit_cli.admin.cluster import Piped
from knit_workflows.backup.images import is_link, packed, unpacked
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import check_set, choose_set, restore
from knit_workflows.backup.sets import set_ids, set_name
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


def test_a_blob_that_is_rotten_in_the_registry_is_no_part_of_a_set(
    registry: Folder, other: Folder
) -> None:
    sound, rotten = registry.push(b"sound", "a/_layers"), registry.push(b"layer", "b/_layers")
    objects = Objects()
    earlier = take(objects, registry).set
    # So that it has to be read again.
    piece = {name: objects.content.pop(name) for name in list(objects.content) if rotten in name}
    registry.put(f"blobs/sha256/{rotten[:2]}/{rotten}/data", b"other")
    taken = take(objects, registry, keep=1)
    assert "has the digest" in taken.set.image_unreadable[rotten]
    assert (taken.set.image_blobs, taken.pruned) == (1, ())
    assert filled(objects, other) == 1
    assert other.files.blobs() == {sound: 5}
    # What only the earlier set has outlasts it, and sets without images.
    objects.content |= piece
    last = take_backup(Knit(), objects, Silent(), keep=1)
    assert set_ids(objects) == [earlier.id, last.set.id]
    assert check_set(objects, earlier, Silent()) > 0
    assert take(objects, registry).set.image_unreadable == {}


def test_what_a_killed_backup_has_stored_of_images_is_known_if_it_is_what_is_there(
    registry: Folder, other: Folder
) -> None:
    """A file that was cut in the registry since is not what its digest says."""
    sound, cut, again = (registry.push(word, word.decode()) for word in (b"good", b"bad", b"no"))
    objects = Objects()
    killed = take(objects, registry).set
    del objects.content[set_name(killed.id)]
    registry.put(f"blobs/sha256/{cut[:2]}/{cut}/data", b"b")
    [piece] = [name for name in objects.content if again in name]
    objects.content[piece] = b"rotten"
    taken = take(objects, registry)
    assert list(taken.set.image_unreadable) == [cut]
    assert taken.blobs_read == 1, "that whose piece says nothing"
    assert check_set(objects, taken.set, Silent()) > 0
    assert filled(objects, other) == 2
    assert other.files.blobs() == {sound: 4, again: 2}


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
    with pytest.raises(BackupProblem, match="cut or"):
        list(cut.links())
    if shows:
        with pytest.raises(BackupProblem, match="cut or"):
            for _, content in cut.read(list(registry.files.blobs())):
                list(content)
    if shows < 100:
        with pytest.raises(BackupProblem, match="cut or"):
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

    def collected_first(links: Mapping[str, bytes]) -> None:
        for one in other.path.glob("blobs/sha256/*/*/data"):
            one.unlink()
        write_links(links)

    files.write_links = collected_first  # type: ignore[method-assign]
    with pytest.raises(BackupProblem, match="are not in the registry although"):
        restore(objects, choose_set(objects, None), Knit(), Silent(), by="me", registry=files)
    assert filled(objects, other) == 1


def test_links_are_what_names_blobs_and_nothing_else(registry: Folder) -> None:
    digest = registry.push(b"layer", "a/_layers")
    said = f"sha256:{digest}".encode()
    odd = "repositories/a/_manifests/tags/v1..2/current/link"
    for name in (
        odd,
        "repositories/a/_uploads/1/link",
        "repositories/a/_layers/other",
        "elsewhere/link",
    ):
        registry.put(name, said)
    links = registry.files.links()
    assert links == {"repositories/a/_layers/current/link": said, odd: said}
    assert registry.files.link_names() == set(links)
    assert unpacked(packed(links)) == links
    assert [is_link(name, 71) for name in ("repositories/../x/link", "x/link")] == [False, False]


def test_the_newest_images_outlast_sets_without(registry: Folder, other: Folder) -> None:
    registry.push(b"layer", "a/_layers")
    objects = Objects()
    images = take(objects, registry).set.id
    taken = [take_backup(Knit(), objects, Silent(), keep=1) for _ in range(3)]
    assert set_ids(objects) == [images, taken[-1].set.id]
    chosen = choose_set(objects, images)
    restore(objects, chosen, Knit({}), Silent(), by="me", registry=other.files)
    assert other.all() == registry.all()
    again = take(objects, registry, keep=1)
    assert (again.blobs_read, set_ids(objects)) == (0, [again.set.id])


def test_the_same_restore_again_leaves_tags_as_they_are(registry: Folder, other: Folder) -> None:
    registry.push(b"layer", "a/_tags/latest")
    objects = Objects()
    take(objects, registry)
    chosen, knit = choose_set(objects, None), Knit()
    restore(objects, chosen, knit, Silent(), by="me", registry=other.files)
    knit.restored = chosen.id
    newer = other.push(b"newer", "a/_tags/latest")
    restore(objects, chosen, knit, Silent(), by="me", registry=other.files)
    link = other.path / "repositories/a/_tags/latest/current/link"
    assert link.read_text() == f"sha256:{newer}"


def test_a_blob_gets_its_name_once_it_is_whole(registry: Folder, other: Folder) -> None:
    registry.push(b"x" * 2_000_000, "a/_layers")
    objects = Objects()
    take(objects, registry)
    cut = Folder(other.path, stops_after=1_000_000)
    with pytest.raises(BackupProblem):
        filled(objects, cut)
    assert other.all() == {}


def test_a_blob_of_many_gigabytes_is_announced_as_busybox_reads_it(registry: Folder) -> None:
    """Not by a record of pax, which it passes over: it would read the content as an archive."""
    said: list[bytes] = []

    @contextmanager
    def shell(script: str, stderr: IO[bytes]) -> Iterator[Piped]:
        yield Piped(cast("IO[bytes]", Hearing(said)), io.BytesIO(), lambda: 0)

    with pytest.raises(OSError, match="unexpected end of data"):
        RegistryFiles(shell).write([("0" * 64, 9 << 30, iter([b""]))])
    head = b"".join(said)[:512]
    assert tarfile.TarInfo.frombuf(head, "utf-8", "strict").size == 9 << 30


class Hearing:
    """A pipe whose content is kept."""

    def __init__(self, said: list[bytes]) -> None:
        self._said = said

    def write(self, part: bytes) -> None:
        self._said.append(part)

    def close(self) -> None:
        pass
