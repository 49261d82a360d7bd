"""Holes stay holes where the reader can, and archives with holes are read in every dialect."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knit_workflows import archive
from knit_workflows.archive import ArchiveRefused, Limits, sparse
from tests.properties import examples

END = bytes(1024)
DIALECTS = [
    ["--format=gnu"],
    ["--format=posix", "--sparse-version=0.0"],
    ["--format=posix", "--sparse-version=0.1"],
    ["--format=posix", "--sparse-version=1.0"],
]
"""As GNU tar calls them; bsdtar and Go write 1.0, Rust's tar crate that of `gnu`."""


def holey(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)
        for at, content in data.items():
            file.seek(at)
            file.write(content)


@pytest.fixture
def after(tmp_path: Path) -> Path:
    after = tmp_path / "after"
    after.mkdir()
    return after


SHAPES: dict[str, tuple[int, dict[int, bytes]]] = {
    "only a hole": (5 << 20, {}),
    "data first": (5 << 20, {0: b"head"}),
    "data last": (5 << 20, {(5 << 20) - 4: b"tail"}),
    "an odd end": ((5 << 20) + 3, {1 << 20: b"middle" * 1000}),
    "many": (40 << 20, {n << 20: b"%d" % n for n in range(40)}),
}


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def data_in(path: Path) -> list[tuple[int, int]]:
    """Gives where there is data; blocks are no measure, since a list of them may need some."""
    found, at = [], 0
    with path.open("rb") as file:
        while True:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return found
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, at))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.patient
def test_holes_come_out_as_they_went_in_and_other_tools_agree(
    root: Path, after: Path, tmp_path: Path, shape: str
) -> None:
    size, data = SHAPES[shape]
    holey(root / "x", size, data)
    stream = b"".join(archive.iter_pack(root))
    assert len(stream) < 1 << 20
    assert archive.unpack(io.BytesIO(stream), after) == archive.Summary(1, size)
    assert data_in(after / "x") == data_in(root / "x")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "xf", "-", "-C", theirs], input=stream, check=True)
    python = tmp_path / "python"
    with tarfile.open(fileobj=io.BytesIO(stream)) as witness:
        witness.extractall(python, filter="tar")
    for folder in (after, theirs, python):
        assert (folder / "x").read_bytes() == (root / "x").read_bytes()


def test_spans_and_pieces_of_a_file_with_holes_are_the_same(root: Path) -> None:
    holey(root / "x", 20 << 20, {1 << 20: os.urandom(1 << 20), 10 << 20: b"small"})
    joined = b"".join(
        item if isinstance(item, bytes) else os.pread(item.descriptor, item.size, item.start)
        for item in archive.iter_spans(root, archive.WHOLE)
    )
    assert joined == b"".join(archive.iter_pack(root))
    assert 1 << 20 < len(joined) < 2 << 20


def test_who_does_not_ask_for_holes_gets_zeros(root: Path) -> None:
    holey(root / "x", 5 << 20, {0: b"head"})
    stream = b"".join(archive.iter_pack(root, archive.FILES_AND_LINKS))
    with tarfile.open(fileobj=io.BytesIO(stream)) as witness:
        (member,) = witness.getmembers()
        assert not member.issparse()
    assert len(stream) > 5 << 20


def test_five_gibibytes_of_holes_are_a_few_kilobytes(root: Path, after: Path) -> None:
    holey(root / "x", 5 << 30, {4 << 30: b"here"})
    stream = b"".join(archive.iter_pack(root))
    assert len(stream) < 16 << 10
    assert archive.look_through(root, print) == 5632
    archive.unpack(io.BytesIO(stream), after)
    assert (after / "x").stat().st_size == 5 << 30
    assert allocated(after / "x") < 1 << 20


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one[-1])
@pytest.mark.parametrize(
    "shape",
    [pytest.param(one, marks=pytest.mark.patient if one == "many" else ()) for one in SHAPES],
)
def test_every_dialect_of_gnu_tar_is_read(
    root: Path, after: Path, shape: str, dialect: list[str]
) -> None:
    holey(root / "x", *SHAPES[shape])
    (root / "y").write_bytes(b"behind it")
    made = subprocess.run(
        ["tar", "cSf", "-", *dialect, "-C", root, "x", "y"], capture_output=True, check=True
    )
    archive.unpack(io.BytesIO(made.stdout), after)
    assert (after / "x").read_bytes() == (root / "x").read_bytes()
    assert data_in(after / "x") == data_in(root / "x")
    assert (after / "y").read_bytes() == b"behind it"


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=3000)), max_size=6),
    st.integers(0, 5000),
)
def test_any_file_with_holes_comes_out_as_it_went_in(pieces, more: int) -> None:
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as out:
        data = {at << 16: content for at, content in pieces}
        end = max((at + len(content) for at, content in data.items()), default=0)
        holey(Path(before) / "x", end + more, data)
        archive.unpack(io.BytesIO(b"".join(archive.iter_pack(Path(before)))), Path(out))
        assert (Path(out) / "x").read_bytes() == (Path(before) / "x").read_bytes()


def test_too_many_segments_are_joined_at_the_end(root: Path, after: Path) -> None:
    holey(root / "x", 10 << 20, {n << 20: b"x" for n in range(9)})
    descriptor = os.open(root / "x", os.O_RDONLY)
    segments = sparse.segments_of(descriptor, 10 << 20, limit=3)
    os.close(descriptor)
    assert segments is not None
    assert list(segments[-4:]) == [1 << 20, 4096, 2 << 20, 8 << 20]
    archive.unpack(io.BytesIO(b"".join(archive.iter_pack(root))), after)
    assert (after / "x").read_bytes() == (root / "x").read_bytes()


def version_1(text: bytes, data: bytes, size: bytes, entry, pax) -> bytes:
    records = {
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": b"sub/real", b"GNU.sparse.realsize": size,
    }  # fmt: skip
    content = text + bytes(-len(text) % 512) + data
    return pax(records) + entry(b"GNUSparseFile.0/real", content) + END


def test_the_name_and_size_are_those_in_the_extension(after: Path, entry, pax) -> None:
    stream = version_1(b"1\n600\n3\n", b"abc", b"1000", entry, pax)
    assert archive.unpack(io.BytesIO(stream), after).bytes == 1000
    assert (after / "sub" / "real").read_bytes() == bytes(600) + b"abc" + bytes(397)


@pytest.mark.parametrize(
    ("text", "data", "size"),
    [
        (b"1\n0\n4\n", b"abc", b"100"),  # less data than the map says
        (b"1\n0\n2\n", b"abc", b"100"),  # more
        (b"1\n99\n3\n", b"abc", b"100"),  # beyond the end
        (b"2\n5\n2\n6\n1\n", b"abc", b"100"),  # over one another
        (b"2\n5\n2\n1\n1\n", b"abc", b"100"),  # backwards
        (b"1\n-1\n3\n", b"abc", b"100"),
        (b"1\n0\nx\n", b"abc", b"100"),
        (b"1\n" + b"1" * 600, b"abc", b"100"),
        (b"99999999\n", b"abc", b"100"),  # a map without end
        (b"3\n0\n1\n", b"ab", b"100"),  # a map that is cut off
        (b"1\n18446744073709551615\n3\n", b"abc", b"100"),
        (b"1\n0\n3\n", b"abc", b"99999999999999999999"),
        (b"1\n0\n3\n", b"abc", b"9999999999999999999"),
    ],
)
def test_maps_that_lie_are_refused(after: Path, entry, pax, text, data, size) -> None:
    with pytest.raises(ArchiveRefused):
        archive.unpack(io.BytesIO(version_1(text, data, size, entry, pax)), after)
    assert list(after.iterdir()) == []


@pytest.mark.parametrize(
    "records",
    [
        {b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"},
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"},
        {b"GNU.sparse.map": b"0,1,2", b"GNU.sparse.size": b"9"},
        {b"GNU.sparse.map": b"0,1"},
        {b"GNU.sparse.map": b"0,,1", b"GNU.sparse.size": b"9"},
    ],
)
def test_extensions_that_lie_are_refused(after: Path, entry, pax, records) -> None:
    with pytest.raises(ArchiveRefused):
        archive.unpack(io.BytesIO(pax(records) + entry(b"x", b"1") + END), after)
    assert list(after.iterdir()) == []


@pytest.mark.patient
def test_a_map_without_end_is_refused_before_it_is_gathered(after: Path, entry) -> None:
    header = bytearray(entry(b"x", kind=b"S", magic=b"ustar  \0", size=1 << 30))
    header[482:483] = b"\1"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    more = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)

    class Endless:
        pieces = 0

        def read(self, size: int) -> bytes:
            self.pieces += 1
            return bytes(header) if self.pieces == 1 else more * 256

    source = Endless()
    with pytest.raises(ArchiveRefused, match="more than 262144 segments"):
        archive.unpack(source, after)
    assert source.pieces < 200


def test_what_holes_expand_to_counts(after: Path, entry, pax) -> None:
    stream = version_1(b"1\n0\n3\n", b"abc", b"1000", entry, pax)
    with pytest.raises(ArchiveRefused, match="more than 999 bytes"):
        archive.unpack(io.BytesIO(stream), after, Limits(content_bytes=999))
    with pytest.raises(ArchiveRefused, match="17592186044416 bytes"):
        endless = version_1(b"1\n0\n3\n", b"abc", b"%d" % (1 << 45), entry, pax)
        archive.unpack(io.BytesIO(endless), after)


@pytest.mark.patient
def test_no_damage_to_an_old_sparse_header_does_any_harm(root: Path, tmp_path: Path) -> None:
    holey(root / "x", 40 << 20, {n << 20: b"%d" % n for n in range(40)})
    made = subprocess.run(
        ["tar", "cSf", "-", "--format=gnu", "-C", root, "x"], capture_output=True, check=True
    ).stdout
    dice = random.Random(8)
    for number in range(300):
        stream = bytearray(made)
        at = dice.choice([*range(386, 496), *range(512, 2048)])
        stream[at] = dice.choice(b"\x00\x80\xff 0179")
        stream[148:156] = b" " * 8
        stream[148:156] = b"%06o\0 " % sum(stream[:512])
        out = tmp_path / f"out{number}"
        out.mkdir()
        try:
            archive.unpack(io.BytesIO(stream), out)
        except ArchiveRefused:
            assert list(out.iterdir()) == []
        except OSError as error:  # larger than the file system's files can be
            assert list(out.iterdir()) == [], error
        archive.clear(out)
