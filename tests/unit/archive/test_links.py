"""Links are data: packed and made as they are, last of all, or left out and named."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from knit_workflows import archive

TARGETS = {"abs": "/etc/passwd", "up": "../../..", "dots": "b/../../c/f", "dangling": "no/where"}


@pytest.fixture
def after(tmp_path: Path) -> Path:
    after = tmp_path / "after"
    after.mkdir()
    return after


def moved(before: Path, after: Path, **options: bool) -> list[tuple[str, str]]:
    """Packs and unpacks; gives what was left out on the way."""
    left_out: list[tuple[str, str]] = []
    form = archive.Form(everything=True, holes=True, notes=True)
    stream = b"".join(archive.iter_pack(before, form))
    archive.unpack(io.BytesIO(stream), after, left_out=lambda *one: left_out.append(one), **options)
    return left_out


def test_links_of_every_kind_come_out_as_they_went_in(root: Path, after: Path) -> None:
    (root / "a").mkdir()
    for name, target in TARGETS.items():
        (root / "a" / name).symlink_to(target)
        os.utime(root / "a" / name, (1_000_000, 1_000_000), follow_symlinks=False)
    assert moved(root, after) == []
    assert {path.name: str(path.readlink()) for path in (after / "a").iterdir()} == TARGETS
    assert all(path.lstat().st_mtime == 1_000_000 for path in (after / "a").iterdir())


def test_without_links_they_are_left_out_and_named(root: Path, after: Path) -> None:
    (root / "file").write_bytes(b"")
    for name, target in TARGETS.items():
        (root / name).symlink_to(target)
    assert sorted(moved(root, after, links=False)) == [(name, "link") for name in sorted(TARGETS)]
    assert [path.name for path in after.iterdir()] == ["file"]
    named: list[str] = []
    archive.look_through(root, lambda path, what: named.append(path), links=False)
    assert sorted(named) == sorted(TARGETS)
    stream = b"".join(archive.iter_pack(root, links=False))
    with tarfile.open(fileobj=io.BytesIO(stream)) as witness:
        assert witness.getnames() == ["file"]


def test_links_are_made_after_all_files(after: Path, entry) -> None:
    """Seen from the stream: when the file behind the link is read, the link is not there yet."""
    seen: list[list[str]] = []

    class Source:
        pieces = iter([entry(b"link", kind=b"2", link=b"x"), entry(b"x", b"1"), bytes(1024)])

        def read(self, size: int) -> bytes:
            seen.append(sorted(path.name for path in after.iterdir()))
            return next(self.pieces, b"")

    archive.unpack(Source(), after)
    assert seen[-2:] == [["x"], ["x"]]
    assert (after / "link").read_bytes() == b"1"


@pytest.mark.patient
def test_very_many_links_and_folders_wait_in_a_file_that_nobody_sees(
    after: Path, entry, pax
) -> None:
    target = b"t" * 3000
    link = pax({b"linkpath": target})
    stream = b"".join(
        entry(b"d%04d/" % n, kind=b"5", mode=0o700) + link + entry(b"d%04d/l" % n, kind=b"2")
        for n in range(1200)
    )  # fmt: skip
    assert archive.unpack(io.BytesIO(stream + bytes(1024)), after).files == 1200
    assert len(list(after.iterdir())) == 1200
    for folder in after.iterdir():
        assert os.fsencode((folder / "l").readlink()) == target
        assert folder.stat().st_mode & 0o777 == 0o700


def test_hard_linked_links_as_gnu_tar_packs_them(root: Path, after: Path) -> None:
    (root / "a").symlink_to("/nowhere")
    os.link(root / "a", root / "b", follow_symlinks=False)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as made:
        for name, kind, link in (("a", b"2", "/nowhere"), ("b", b"1", "a")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            made.addfile(info)
    archive.unpack(io.BytesIO(sink.getvalue()), after)
    assert [(after / name).readlink() for name in "ab"] == [Path("/nowhere")] * 2
