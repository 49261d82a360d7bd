"""Any tree comes out as it went in: names, links, holes, pipes, permissions and times."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from knit_workflows import archive
from knit_workflows.archive import walk
from tests.properties import examples


class Link(NamedTuple):
    target: str


class File(NamedTuple):
    pieces: dict[int, bytes]
    """By block of 4 KiB."""
    size: int
    mode: int


class Pipe(NamedTuple):
    mode: int


class Folder(NamedTuple):
    entries: dict[str, object]
    mode: int
    mtime: int


def fits(name: str) -> bool:
    return name not in (".", "..", "lost+found") and len(os.fsencode(name)) <= 255


texts = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1)
names = st.one_of(
    texts.filter(fits),
    st.sampled_from(
        ["a", "a.", "a0", " ", "new\nline", "日本語", "x" * 255, "-rf", "\udcff\udcfe"]
    ),
)
targets = st.one_of(
    st.sampled_from([".", "..", "/", "/etc/passwd", "a", "a/../../b", "../../..", "x" * 4095]),
    texts,
)
modes = st.integers(0, 0o777).map(lambda mode: mode | 0o600)
files = st.builds(
    File, st.dictionaries(st.integers(0, 20), st.binary(max_size=9000), max_size=3),
    st.integers(0, 200_000), modes,
)  # fmt: skip
leaves = st.one_of(files, st.builds(Link, targets), st.builds(Pipe, modes))
folders = st.recursive(
    leaves,
    lambda children: st.builds(
        Folder, st.dictionaries(names, children, max_size=4),
        modes.map(lambda mode: mode | 0o700), st.integers(0, 1 << 33),
    ),
    max_leaves=15,
).filter(lambda tree: isinstance(tree, Folder))  # fmt: skip


def make(path: Path, what: object) -> None:
    match what:
        case Folder(entries, mode, mtime):
            path.mkdir(exist_ok=True)
            for name, entry in entries.items():
                make(path / name, entry)
            path.chmod(mode)
            os.utime(path, (mtime, mtime))
        case Link(target):
            path.symlink_to(target)
        case Pipe(mode):
            os.mkfifo(path)
            path.chmod(mode)
        case File(pieces, size, mode):
            with path.open("wb") as file:
                file.truncate(size)
                for block, content in pieces.items():
                    file.seek(block << 12)
                    file.write(content)
            path.chmod(mode)


def listed(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for one in walk.walk(root):
        path, info = root / one.path, one.info
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = path.readlink()
        found.append((one.path, info.st_mode, int(info.st_mtime), content))
    return found


@settings(max_examples=examples(80), deadline=None)
@given(folders)
def test_any_tree_comes_out_as_it_went_in(tree: Folder) -> None:
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as after:
        make(Path(before), tree)
        stream = b"".join(archive.iter_pack(Path(before)))
        summary = archive.unpack(io.BytesIO(stream), Path(after))
        assert listed(Path(after)) == listed(Path(before))
        there = [mode for _, mode, *_ in listed(Path(before))]
        assert summary.files == sum(not stat.S_ISDIR(int(str(mode))) for mode in there)
        assert stream == b"".join(archive.iter_pack(Path(after)))


@settings(max_examples=examples(40), deadline=None)
@given(folders)
def test_files_and_links_alone_are_the_same_for_every_reader(tree: Folder) -> None:
    """As a client reads them that makes a link of each link, and a file of each other entry."""
    with tempfile.TemporaryDirectory() as before:
        make(Path(before), tree)
        stream = b"".join(archive.iter_pack(Path(before), archive.FILES_AND_LINKS))
        wanted = {
            path: content for path, _, _, content in listed(Path(before)) if content is not None
        }
        with tarfile.open(fileobj=io.BytesIO(stream)) as witness:
            found = {
                one.name: Path(one.linkname) if one.issym() else witness.extractfile(one).read()  # type: ignore[union-attr]
                for one in witness
            }
        assert found == wanted
