"""What a volume can hold can be packed, unpacked, looked through and removed, however deep."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from knit_workflows import archive
from knit_workflows.archive import walk
from knit_workflows.archive.folder_stack import FolderStack, opened_folder
from knit_workflows.archive.sync import sync_folders

pytestmark = pytest.mark.usefixtures("few_descriptors")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two empty folders; pytest itself could not remove what comes into them."""
    made = tmp_path / "before", tmp_path / "after"
    for folder in made:
        folder.mkdir()
    yield made
    for folder in made:
        archive.remove(folder)


def build(root: Path, depth: int, name: str) -> None:
    """A file at the bottom of so many folders, one on every hundredth level, and a link."""
    with opened_folder(root) as descriptor:
        stack: FolderStack[str] = FolderStack(descriptor)
        for level in range(depth):
            os.mkdir(name, dir_fd=stack.here)
            stack.enter(name)
            if level % 100 == 0 or level == depth - 1:
                leaf = os.open("leaf", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=stack.here)
                os.write(leaf, b"%d" % level)
                os.close(leaf)
        os.symlink("leaf", "link", dir_fd=stack.here)
        os.chmod("leaf", 0o600, dir_fd=stack.here)
        stack.close()


def listing(root: Path) -> list[tuple[int, int, bytes]]:
    """Of each entry the length of its path, its mode, and what is in it."""
    files = {path: os.read(descriptor, 100) for path, descriptor in archive.open_files(root)}
    return [(len(one.path), one.info.st_mode, files.get(one.path, b"")) for one in walk.walk(root)]


@pytest.mark.patient
@pytest.mark.parametrize(("depth", "name"), [(5000, "d"), (200, "n" * 255), (1300, "ünï")])
def test_deep_trees_come_out_as_they_went_in(
    folders: tuple[Path, Path], depth: int, name: str
) -> None:
    before, after = folders
    build(before, depth, name)
    archive.unpack(Pieces(archive.iter_pack(before)), after, sync=True)
    assert listing(after) == listing(before)
    with opened_folder(after) as descriptor:
        sync_folders(descriptor)
    assert archive.look_through(before, lambda path, what: None) > depth * 512
    archive.clear(after)
    assert list(after.iterdir()) == []


class Pieces:
    """Pieces as something to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int) -> bytes:
        return next(self._pieces, b"")


@pytest.mark.patient
def test_files_and_links_alone_also_come_out_of_the_deep(folders: tuple[Path, Path]) -> None:
    before, after = folders
    build(before, 3000, "d")
    archive.unpack(Pieces(archive.iter_pack(before, archive.FILES_AND_LINKS)), after)
    found = [text for _, _, text in listing(after) if text]
    assert found == [text for _, _, text in listing(before) if text]


@pytest.mark.patient
def test_what_no_archive_can_hold_is_left_out_and_named(folders: tuple[Path, Path]) -> None:
    before, _ = folders
    build(before, 4200, "n" * 255)
    named: list[tuple[str, str]] = []
    archive.look_through(before, lambda *one: named.append(one))
    assert [what for _, what in named] == ["path of more than 1048576 bytes"]
    archive.clear(before)


def test_a_way_up_and_down_with_few_folders_open(folders: tuple[Path, Path], entry, pax) -> None:
    """Files in an order that no tool writes: from the bottom to the top and back."""
    _, after = folders
    depths = [500, 3, 499, 0, 450, 100, 101, 99, 500]
    stream = b"".join(
        pax({b"path": b"d/" * depth + b"f%d" % number}) + entry(b"x", b"%d" % number)
        for number, depth in enumerate(depths)
    )
    archive.unpack(io.BytesIO(stream + bytes(1024)), after)
    for number, depth in enumerate(depths):
        path = after.joinpath(*["d"] * depth, f"f{number}")
        assert path.read_bytes() == b"%d" % number


def test_a_folder_moved_meanwhile_is_an_error_and_no_way_out(folders: tuple[Path, Path]) -> None:
    before, _ = folders
    build(before, 100, "d")
    with opened_folder(before) as descriptor:
        stack: FolderStack[str] = FolderStack(descriptor)
        for _ in range(90):
            stack.enter("d")
        before.joinpath(*["d"] * 50).rename(before / "inner")
        before.joinpath(*["d"] * 49).rename(before / "outer")
        before.joinpath(*["d"] * 49).mkdir()
        with pytest.raises(OSError, match="moved meanwhile"):
            while stack.names:
                stack.leave()
        assert len(stack.names) == 50
        stack.close()
