"""Whether two archives have the same files, whoever has packed them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from knit_workflows import archive
from knit_workflows.backup.comparing import have_same_files

FILES = {"a": b"1", "d/b": b"22", "d/c": b"", "z": b"4" * 70_000}


def packed(files: dict[str, bytes], *more: tarfile.TarInfo, mode: int = 0o644) -> Iterator[bytes]:
    """An archive by another program: names begin with `./`, folders only if they are given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("./", "./d"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name, content in files.items():
            one = tarfile.TarInfo(f"./{name}")
            one.size, one.mode = len(content), mode
            tar.addfile(one, io.BytesIO(content))
        for one in more:
            tar.addfile(one)
    yield out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type, one.linkname = kind, target
    return one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    return tmp_path


def same(folder: Path, other: Iterator[bytes]) -> bool:
    return have_same_files(archive.iter_pack(folder), other, is_foreign=True)


def test_the_order_of_entries_does_not_matter(folder: Path):
    assert same(folder, packed(FILES))
    assert same(folder, packed(dict(reversed(FILES.items()))))
    assert have_same_files(archive.iter_pack(folder), archive.iter_pack(folder))


@pytest.mark.parametrize(
    "change",
    [{"a": b"2"}, {"z": b"4" * 69_999}, {"d/c": b"x"}, {"more": b""}],
)
def test_each_difference_is_seen(folder: Path, change: dict[str, bytes]):
    for order in (1, -1):
        assert not same(folder, packed(dict(list((FILES | change).items())[::order])))


def test_what_is_missing_on_either_side_is_seen(folder: Path):
    assert not same(folder, packed({k: v for k, v in FILES.items() if k != "a"}))
    (folder / "z").unlink()
    assert not same(folder, packed(FILES))
    assert not same(folder, packed(FILES, mode=0o755))


def test_links_are_what_they_are(folder: Path):
    (folder / "y").hardlink_to(folder / "a")
    (folder / "s").symlink_to("/elsewhere")
    elsewhere = link("./s", "/elsewhere", tarfile.SYMTYPE)
    assert same(folder, packed(FILES, link("./y", "./a"), elsewhere))
    assert not same(folder, packed(FILES, link("./y", "./z"), elsewhere))
    assert not same(folder, packed(FILES, link("./y", "./a"), link("./s", "/x", tarfile.SYMTYPE)))


def test_what_is_no_archive_is_like_no_other(folder: Path):
    assert not same(folder, iter([b"x" * 1024]))
    [whole] = packed(FILES)
    assert not same(folder, iter([whole[:2048]]))
