"""Archives that are broken or mean harm are refused, and nothing of them remains anywhere."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knit_workflows import archive
from knit_workflows.archive import ArchiveRefused, Limits
from tests.properties import examples

END = bytes(1024)
REPOSITORY = Path(__file__).parents[3]
Entry = Callable[..., bytes]


@pytest.fixture
def refuse(root: Path) -> Callable[..., ArchiveRefused]:
    """Unpacks, expects a refusal, and that nothing changed inside or outside the root."""
    outer = root.parent
    (outer / "victim").write_bytes(b"untouched")

    def refuse(stream: bytes, limits: Limits = archive.DEFAULT_LIMITS) -> ArchiveRefused:
        with pytest.raises(ArchiveRefused) as caught:
            archive.unpack(io.BytesIO(stream), root, limits)
        assert list(root.iterdir()) == []
        assert sorted(path.name for path in outer.iterdir()) == ["root", "victim"]
        assert (outer / "victim").read_bytes() == b"untouched"
        return caught.value

    return refuse


@pytest.mark.parametrize(
    "name",
    [
        b"/etc/x",
        b"../x",
        b"a/../../x",
        b"a/..",
        b"..",
        b"./../x",
        b"//x",
        b"",
        b".",
        b"lost+found/x",
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"2", b"1"])
def test_names_that_lead_elsewhere_are_refused(
    refuse: Callable[..., ArchiveRefused], entry: Entry, name: bytes, kind: bytes
) -> None:
    link = b"ok" if kind != b"0" else b""
    refuse(entry(b"ok", b"fine") + entry(name, kind=kind, link=link) + END)


@pytest.mark.parametrize("name", [b"/abs/", b"../up/", b"a/../../b/"])
def test_folders_that_lead_elsewhere_are_refused(refuse, entry: Entry, name: bytes) -> None:
    refuse(entry(name, kind=b"5") + END)


TARGETS_OUTSIDE = [
    b"/etc/passwd", b"..", b"../victim", b"sub/../../victim", b"x/..", b"./../victim",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS_OUTSIDE)
def test_links_are_data_wherever_they_lead(root: Path, entry: Entry, target: bytes) -> None:
    victim = root.parent / "victim"
    victim.write_bytes(b"untouched")
    stream = entry(b"a/link", kind=b"2", link=target) + entry(b"a/file", b"x") + END
    assert archive.unpack(io.BytesIO(stream), root).files == 2
    assert os.fsencode((root / "a/link").readlink()) == os.fsencode(Path(os.fsdecode(target)))
    assert victim.read_bytes() == b"untouched"
    archive.clear(root)
    assert victim.read_bytes() == b"untouched"
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("target", [b"", b"x" * 4096, b"a\0b"])
def test_links_that_no_file_system_stores_are_refused(refuse, entry, pax, target) -> None:
    link = pax({b"linkpath": target}) if target else b""
    assert refuse(link + entry(b"link", kind=b"2") + END).member == "link"


@pytest.mark.parametrize("target", [b".", b"sub", *TARGETS_OUTSIDE])
def test_nothing_is_written_through_a_link_of_the_same_archive(refuse, entry, target) -> None:
    first = entry(b"sub/", kind=b"5") + entry(b"swap", kind=b"2", link=target)
    refuse(first + entry(b"swap/file", b"x") + END)
    refuse(first + entry(b"swap/deep/file", b"x") + END)
    refuse(first + entry(b"swap/", kind=b"5") + END)
    refuse(first + entry(b"swap", b"x") + END)
    refuse(first + entry(b"swap/again", kind=b"2", link=b"x") + END)
    refuse(first + entry(b"swap/pipe", kind=b"6") + END)
    refuse(first + entry(b"sub/x", b"x") + entry(b"swap/hard", kind=b"1", link=b"sub/x") + END)
    refuse(first + entry(b"file", b"x") + entry(b"hard", kind=b"1", link=b"swap/sub") + END)


def test_nothing_is_written_through_a_link_by_way_of_another(refuse, entry: Entry) -> None:
    """`out` leads to the folder around the root, by a second link and in either order."""
    links = [entry(b"a/up", kind=b"2", link=b"../.."), entry(b"out", kind=b"2", link=b"a/up")]
    for pair in (links, links[::-1]):
        for kind in (b"0", b"6"):
            refuse(b"".join(pair) + entry(b"out/victim", kind=kind) + END)
            refuse(entry(b"out/victim", kind=kind) + b"".join(pair) + END)
        refuse(b"".join(pair) + entry(b"out/new/", kind=b"5", mode=0o700) + END)
        refuse(b"".join(pair) + entry(b"out/victim", kind=b"2", link=b"x") + END)


def test_nothing_is_written_below_a_file(refuse, entry: Entry) -> None:
    refuse(entry(b"file", b"x") + entry(b"file/below", b"x") + END)


@pytest.mark.parametrize(
    "target", [b"../victim", b"/etc/passwd", b"missing", b"folder", b"way/real", b""]
)
def test_hard_links_only_go_to_files_unpacked_before(refuse, entry: Entry, target: bytes) -> None:
    before = (
        entry(b"folder/real", b"x")
        + entry(b"link", kind=b"2", link=b"folder/real")
        + entry(b"way", kind=b"2", link=b"folder")
    )
    refuse(before + entry(b"hard", kind=b"1", link=target) + END)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"3", "character device"), (b"4", "block device"), (b"V", "volume label"),
        (b"M", "--multi-volume"), (b"D", "--listed-incremental"), (b"N", "long names"),
        (b"A", "access list"), (b"E", "attribute"), (b"I", "without content"),
        (b"?", "kind '?' are not known"),
    ],
)  # fmt: skip
def test_every_kind_that_is_refused_is_named_in_words(refuse, entry, kind, words) -> None:
    refused = refuse(entry(b"ok", b"x") + entry(b"odd", kind=kind) + END)
    assert words in refused.reason
    assert refused.member == "odd"


def test_a_name_may_be_255_bytes_and_not_more(refuse, root: Path, entry, pax) -> None:
    refuse(pax({b"path": b"n" * 256}) + entry(b"x", b"1") + END)
    refuse(pax({b"path": "é".encode() * 128}) + entry(b"x", b"1") + END)
    archive.unpack(io.BytesIO(pax({b"path": b"n" * 255}) + entry(b"x", b"1") + END), root)


def test_too_long_and_too_deep_a_path_is_refused(refuse, entry, pax) -> None:
    too_long = b"/".join([b"d" * 240] * 4400)
    assert (
        "longer than 1048576" in refuse(pax({b"path": too_long}) + entry(b"x", b"1") + END).reason
    )
    too_deep = b"d/" * 65536 + b"x"
    refused = refuse(pax({b"path": too_deep}) + entry(b"x", b"1") + END)
    assert "deeper than 65536" in refused.reason
    assert refused.member is not None
    assert len(refused.member) < 5000


def test_too_many_entries_and_too_many_bytes_are_refused(refuse, entry: Entry) -> None:
    stream = b"".join(entry(b"f%d" % n, b"12345") for n in range(10)) + END
    refuse(stream, Limits(entries=9))
    refuse(stream, Limits(content_bytes=49))
    refuse(stream[:512] + END, Limits(content_bytes=4))


def test_a_lying_size_is_refused_before_anything_is_written(refuse, entry, pax) -> None:
    refuse(entry(b"x", size=0o77777777777) + END)
    refuse(pax({b"size": b"99999999999999999999999"}) + entry(b"x") + END)
    refuse(pax({b"size": b"-5"}) + entry(b"x") + END)


def test_the_same_name_twice_is_refused(refuse, entry: Entry) -> None:
    file, link = entry(b"x", b"1"), entry(b"x", kind=b"2", link=b"y")
    for pair in (file + file, file + link, link + link, file + entry(b"./x", b"2")):
        assert "twice" in refuse(pair + END).reason
    refuse(entry(b"x/", kind=b"5") + file + END)
    refuse(file + entry(b"x/", kind=b"5") + END)


def test_a_folder_stated_twice_or_after_its_content_is_harmless(root: Path, entry: Entry) -> None:
    folder = entry(b"d/", kind=b"5", mode=0o0)
    archive.unpack(io.BytesIO(entry(b"d/x", b"1") + folder + folder + entry(b"d/y") + END), root)
    assert sorted(path.name for path in (root / "d").iterdir()) == ["x", "y"]


def test_a_giant_header_extension_is_refused_without_reading_it(root: Path, entry: Entry) -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        source = io.BytesIO(entry(b"pax", kind=kind, size=1 << 30))
        with pytest.raises(ArchiveRefused, match="too large"):
            archive.unpack(source, root)


def test_endless_header_extensions_are_refused(refuse, entry: Entry, pax) -> None:
    refuse(pax({b"comment": b"x"}) * 1000 + entry(b"x") + END)
    refuse(pax({b"comment": b"x"}, kind=b"g") * 1000 + entry(b"x") + END)
    refuse(entry(b"x") + pax({b"comment": b"x"}) + END)


@pytest.mark.parametrize(
    "text", [b"x", b"5 a=b", b"9999 path=x\n", b"6 a=b\n6 ", b"5 ab\n", b"0 a=\n", b"-6 a=b\n"]
)
def test_malformed_header_extensions_are_refused(refuse, entry: Entry, text: bytes) -> None:
    refuse(entry(b"pax", text, kind=b"x") + entry(b"x") + END)


def test_header_extensions_with_traps_are_refused(refuse, entry: Entry, pax) -> None:
    refuse(pax({b"path": b"/etc/x"}) + entry(b"x") + END)
    refuse(pax({b"path": b"a\0b"}) + entry(b"x") + END)
    refuse(pax({b"path": b"x"}, kind=b"g") + entry(b"y") + END)
    refuse(entry(b"l", b"../x\0", kind=b"L") + entry(b"y") + END)
    refuse(entry(b"l", b"../x\0", kind=b"K") + entry(b"y", kind=b"1", link=b"ok") + END)
    refuse(pax({b"path": b"y"}) + pax({b"comment": b"left out by knit: a: b"}, kind=b"g") + END)


def test_links_and_folders_with_content_are_refused(refuse, entry: Entry) -> None:
    for kind in (b"1", b"2", b"5"):
        refuse(entry(b"f", b"1") + entry(b"x", b"data", kind=kind, link=b"f") + END)


def test_a_harmless_global_header_is_fine(root: Path, entry: Entry, pax) -> None:
    stream = pax({b"comment": b"commit"}, kind=b"g") + entry(b"x", b"1") + END
    assert archive.unpack(io.BytesIO(stream), root).files == 1


def test_other_streams_are_refused(refuse, entry: Entry) -> None:
    refuse(b"")
    refuse(b"\x1f\x8b" + os.urandom(4000))
    refuse(os.urandom(4096))
    refuse(b"hello")
    refuse(bytes(512) + entry(b"x") + END)


def test_what_follows_the_end_is_refused_unless_it_is_padding(
    refuse, root: Path, entry: Entry
) -> None:
    one = entry(b"x", b"1") + END
    refuse(one + entry(b"second", b"2") + END)
    refuse(one + b"\0" * 511 + b"!")
    archive.unpack(io.BytesIO(one + bytes(9000)), root)


def test_a_damaged_header_is_refused(refuse, entry: Entry) -> None:
    stream = bytearray(entry(b"x", b"1") + END)
    stream[3] ^= 1
    refuse(bytes(stream))


def test_a_number_that_is_not_octal_is_refused(refuse, entry: Entry) -> None:
    block = bytearray(entry(b"x", b"1")[:512])
    block[124:136] = b"00000000009\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert refuse(bytes(block) + END).reason == "a header's size is not octal"


def test_what_cannot_be_removed_again_is_told_with_the_refusal(
    root: Path, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(name: str, **_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(ArchiveRefused) as refused:
        archive.unpack(io.BytesIO(entry(b"x", b"1") + entry(b"..", b"1") + END), root)
    [note] = refused.value.__notes__
    assert note.startswith("What had been written could not be removed: ")
    assert "Input/output error: 'x'" in note


def test_a_stream_cut_at_any_block_is_refused(refuse, entry: Entry, pax) -> None:
    whole = (
        entry(b"d/", kind=b"5") + entry(b"d/x", b"1" * 1500) + entry(b"l", kind=b"2", link=b"d")
        + pax({b"path": b"p" * 200}) + entry(b"short", b"2" * 512) + END
    )  # fmt: skip
    for cut in range(0, len(whole), 512):
        refuse(whole[:cut])
    for cut in range(1, len(whole), 97):
        refuse(whole[:cut])


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_no_damage_makes_it_touch_anything_else(tmp_path_factory, data: st.DataObject) -> None:
    """Whatever bytes change, unpacking succeeds or refuses; it neither crashes nor escapes."""
    outer = tmp_path_factory.mktemp("outer")
    root = outer / "root"
    root.mkdir()
    source = bytearray(data.draw(st.sampled_from(list(_seeds()))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source) - 1))
        source[at] = data.draw(st.integers(0, 255))
        start = at - at % 512
        block = source[start : start + 512]
        block[148:156] = b" " * 8
        source[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        archive.unpack(io.BytesIO(bytes(source)), root)
    except ArchiveRefused:
        assert list(root.iterdir()) == []
    except OSError as error:  # a name the file system itself does not take
        assert list(root.iterdir()) == [], error
    assert [path.name for path in outer.iterdir()] == ["root"]


def _seeds() -> Iterator[bytes]:
    import tarfile

    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as made:
            for name, kind in (("d", b"5"), ("d/x", b"0"), ("d/l", b"2"), ("n" * 120, b"0")):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "x" if kind == b"2" else ""
                info.size = 3 if kind == b"0" else 0
                made.addfile(info, io.BytesIO(b"abc"))
        yield sink.getvalue()


def test_a_source_that_fails_leaves_nothing(root: Path, entry: Entry) -> None:
    class Failing:
        def __init__(self) -> None:
            self.pieces = [entry(b"x", b"1"), entry(b"y", b"2", size=5000)]

        def read(self, size: int) -> bytes:
            if not self.pieces:
                raise ConnectionResetError("gone")
            return self.pieces.pop(0)

    with pytest.raises(ConnectionResetError):
        archive.unpack(Failing(), root)
    assert list(root.iterdir()) == []


def test_a_file_larger_than_allowed_by_the_system_leaves_nothing(root: Path, entry: Entry) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the error comes in the middle of a write."""
    code = (
        "import resource, sys; from pathlib import Path; from knit_workflows import archive\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: archive.unpack(sys.stdin.buffer, Path(sys.argv[1]))\n"
        "except OSError as error: print(error.errno)"
    )
    stream = entry(b"a/small", b"1") + entry(b"a/large", bytes(300_000)) + END
    done = subprocess.run(
        [sys.executable, "-c", code, root],
        input=stream, capture_output=True, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.stdout.strip() == b"27"
    assert list(root.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing(tiny_disk: Path, entry: Entry) -> None:
    stream = b"".join(entry(b"f%d" % n, bytes(300_000)) for n in range(10)) + END
    with pytest.raises(OSError, match="No space left"):
        archive.unpack(io.BytesIO(stream), tiny_disk)
    assert list(tiny_disk.iterdir()) == []


MEASURE = """
import sys
from pathlib import Path
from knit_workflows import archive

def peak():
    text = Path("/proc/self/status").read_text()
    return int(next(l for l in text.splitlines() if l.startswith("VmHWM")).split()[1])

class Stream:
    def __init__(self, pieces):
        self.pieces, self.buffer = pieces, b""
    def read(self, size):
        self.buffer = self.buffer or next(self.pieces, b"")
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece

before = peak()
if sys.argv[2] == "unpack":
    archive.unpack(Stream(iter(lambda: sys.stdin.buffer.read(1 << 20), b"")), Path(sys.argv[1]))
else:
    archive.pack(Path(sys.argv[1]), lambda piece: None)
print(peak() - before)
"""


@pytest.mark.patient
def test_memory_is_bounded_whatever_the_size(root: Path, entry: Entry) -> None:
    def measured(action: str, stream: Iterator[bytes]) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURE, root, action],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        with process, process.stdin:
            for piece in stream:
                process.stdin.write(piece)
            process.stdin.close()
            return int(process.stdout.read())

    def stream() -> Iterator[bytes]:
        yield entry(b"large", size=290 << 20)
        for _ in range(290):
            yield bytes(1 << 20)
        for number in range(5000):
            yield entry(b"many/f%d" % number, bytes(1000))
        yield END

    assert measured("unpack", stream()) < 30 << 10
    assert (root / "large").stat().st_size == 290 << 20
    assert measured("pack", iter([])) < 30 << 10
