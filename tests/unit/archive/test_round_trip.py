"""What is packed comes out the same, and other tools agree about the format."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knit_workflows import archive
from tests.properties import examples

names = st.one_of(
    st.text(
        st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from(["a", "b", " ", "new\nline", "日本語", "x" * 255, "-rf", "\udcff\udcfe", "é"]),
).filter(lambda name: name not in (".", "..", "lost+found") and len(os.fsencode(name)) <= 255)
trees = st.recursive(
    st.one_of(st.binary(max_size=2000), st.sampled_from([b"", b"x" * 512, b"y" * 70_000])),
    lambda children: st.dictionaries(names, children, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


def make(folder: Path, tree: dict) -> None:
    for name, content in tree.items():
        if isinstance(content, dict):
            (folder / name).mkdir()
            make(folder / name, content)
        else:
            (folder / name).write_bytes(content)


def read(folder: Path) -> dict:
    return {
        path.name: read(path) if path.is_dir() else path.read_bytes() for path in folder.iterdir()
    }


def packed(folder: Path, **options: bool) -> bytes:
    sink = io.BytesIO()
    archive.pack(folder, sink, **options)
    return sink.getvalue()


def unpacked(stream: bytes, root: Path) -> archive.Summary:
    return archive.unpack(io.BytesIO(stream), root)


@settings(max_examples=examples(80), deadline=None)
@given(trees)
def test_any_tree_comes_out_as_it_went_in(tree: dict) -> None:
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as after:
        make(Path(before), tree)
        stream = packed(Path(before))
        unpacked(stream, Path(after))
        assert read(Path(after)) == tree
        with tarfile.open(fileobj=io.BytesIO(stream)) as witness:
            entries = sum(1 for _ in Path(before).rglob("*"))
            assert len(witness.getmembers()) == entries


@settings(max_examples=examples(40), deadline=None)
@given(trees, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_archives_of_other_tools_come_out_right(tree: dict, form: int) -> None:
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as after:
        make(Path(before), tree)
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as other:
            other.add(before, arcname=".")
        unpacked(sink.getvalue(), Path(after))
        assert read(Path(after)) == tree


def test_gnu_tar_reads_what_we_pack_and_we_read_what_it_packs(root: Path, tmp_path: Path) -> None:
    deep = root / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"deep")
    (root / "link").symlink_to("d" * 200)
    stream = packed(root)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "xf", "-", "-C", theirs], input=stream, check=True)
    assert read(theirs) == read(root)
    made = subprocess.run(["tar", "cf", "-", "-C", root, "."], capture_output=True, check=True)
    ours = tmp_path / "ours"
    ours.mkdir()
    unpacked(made.stdout, ours)
    assert read(ours) == read(root)
    assert (ours / "link").is_symlink()


def test_links_times_and_permission_bits_are_kept_but_not_setuid(
    root: Path, tmp_path: Path
) -> None:
    (root / "sub").mkdir()
    tool = root / "sub" / "tool"
    tool.write_bytes(b"#!")
    tool.chmod(0o4751)
    os.utime(tool, (1_000_000, 1_000_000))
    (root / "to-tool").symlink_to("sub/tool")
    (root / "sub" / "up").symlink_to("../to-tool")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    after = tmp_path / "after"
    after.mkdir()
    assert unpacked(packed(root), after) == archive.Summary(files=5, bytes=2)
    info = (after / "sub" / "tool").stat()
    assert (info.st_mode & 0o7777, info.st_mtime) == (0o751, 1_000_000)
    assert (after / "sub" / "up").readlink() == Path("../to-tool")
    assert (after / "dangling").is_symlink()


def test_hard_links_inside_are_made_and_packed_as_files(root: Path, tmp_path: Path) -> None:
    (root / "a").write_bytes(b"same")
    (root / "b").hardlink_to(root / "a")
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as other:
        other.add(root, arcname=".")
    after = tmp_path / "after"
    after.mkdir()
    unpacked(sink.getvalue(), after)
    assert (after / "a").stat().st_ino == (after / "b").stat().st_ino
    again = tmp_path / "again"
    again.mkdir()
    unpacked(packed(after), again)
    assert read(again) == {"a": b"same", "b": b"same"}


def test_packing_is_deterministic_and_sorted(root: Path) -> None:
    for name in ("b", "a", "c"):
        (root / name).mkdir()
        (root / name / "x").write_bytes(name.encode())
    first = packed(root)
    assert first == packed(root) == b"".join(archive.iter_pack(root))
    with tarfile.open(fileobj=io.BytesIO(first)) as witness:
        assert witness.getnames() == ["a", "a/x", "b", "b/x", "c", "c/x"]


def test_a_file_is_packed_under_its_base_name(root: Path, tmp_path: Path) -> None:
    (root / "model.bin").write_bytes(b"weights")
    after = tmp_path / "after"
    after.mkdir()
    assert unpacked(packed(root / "model.bin"), after) == archive.Summary(1, 7)
    assert read(after) == {"model.bin": b"weights"}


def test_dereference_puts_contents_in_place_of_links(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"1")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "x")
    after = tmp_path / "after"
    after.mkdir()
    unpacked(packed(root, dereference=True), after)
    assert read(after) == {"folder": {"x": b"1"}, "file": b"1"}
    assert not (after / "folder").is_symlink()


@pytest.mark.parametrize("target", [".", "../../root"])
def test_a_loop_of_folder_links_is_an_error_when_dereferencing(root: Path, target: str) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "back").symlink_to("../sub" if target == "." else target)
    with pytest.raises(archive.CannotPack, match="sub/back"):
        packed(root, dereference=True)


def test_a_link_to_itself_or_to_nothing_is_an_error_when_dereferencing(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        packed(root, dereference=True)
    (root / "loop").unlink()
    (root / "nothing").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="root/nothing"):
        packed(root, dereference=True)


@pytest.mark.parametrize("change", [3_000_000, 10])
def test_a_file_that_changes_its_size_while_read_is_named(root: Path, change: int) -> None:
    file = root / "changing"
    file.write_bytes(bytes(2_000_000))
    pieces = archive.iter_pack(root)
    next(pieces)
    os.truncate(file, change)
    with pytest.raises(archive.CannotPack, match=r"changing.*size changed"):
        list(pieces)


@pytest.mark.parametrize("other", [Path.mkdir, os.mkfifo])
def test_a_file_that_becomes_something_else_while_read_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, other
) -> None:
    """In the moment between the look at it and its opening."""
    (root / "file").touch()

    def late(name: str, *flags: int, **where: int) -> int:
        if name == "file":
            (root / "file").unlink()
            other(root / "file")
        return real(name, *flags, **where)

    real = os.open
    monkeypatch.setattr(os, "open", late)
    with pytest.raises(archive.CannotPack, match=r"file.*replaced while being read"):
        packed(root)


def test_an_unreadable_file_is_named_with_its_path(root: Path) -> None:
    (root / "secret").mkdir()
    (root / "secret" / "key").write_bytes(b"")
    (root / "secret" / "key").chmod(0)
    code = (
        "try: archive.pack(root, lambda piece: None)\n"
        "except PermissionError as error: print(os.path.relpath(error.filename, root))"
    )
    assert as_nobody(root, code) == "secret/key"


def test_a_closed_lost_and_found_keeps_nobody_from_writing(root: Path) -> None:
    """As mkfs makes it, for root alone; the agent is another user where `restricted` is wanted."""
    root.chmod(0o777)
    (root / "lost+found").mkdir(mode=0o700)
    make(root.parent, {"other": {"sub": {"file": b"content"}}})
    content = packed(root.parent / "other")
    code = (
        f"archive.unpack(io.BytesIO({content!r}), root, sync=True)\n"
        "print((root / 'sub' / 'file').read_text())"
    )
    if os.getuid() != 0:
        (root / "lost+found").chmod(0)
    assert as_nobody(root, code) == "content"


def as_nobody(root: Path, code: str) -> str:
    """Runs code as another user than root, who may reach the folder `root`; gives what it says."""
    start = (
        "import io, os, sys; from pathlib import Path; from knit_workflows import archive\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "root = Path(sys.argv[1])\n"
    )
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        readable = Path(open_to_all) / "root"
        root.rename(readable)
        done = subprocess.run(
            [sys.executable, "-c", start + code, readable],
            capture_output=True, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def test_what_the_file_system_keeps_at_the_top_is_not_data(root: Path, tmp_path: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "lost+found" / "#1").write_bytes(b"")
    (root / "sub" / "lost+found").mkdir(parents=True)
    assert not archive.is_empty(root)
    after = tmp_path / "after"
    after.mkdir()
    unpacked(packed(root), after)
    assert read(after) == {"sub": {"lost+found": {}}}


def test_a_folder_that_is_not_empty_is_left_alone(root: Path) -> None:
    (root / "mine").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        unpacked(bytes(1024), root)
    assert read(root) == {"mine": b"mine"}


def test_a_short_writing_sink_gets_everything(root: Path) -> None:
    (root / "x").write_bytes(os.urandom(300_000))
    got = bytearray()

    class Short:
        def write(self, data: bytes) -> int:
            got.extend(data[:1000])
            return min(len(data), 1000)

    archive.pack(root, Short())
    assert bytes(got) == packed(root)


def test_concatenation_is_in_name_order_and_skips_links(root: Path) -> None:
    (root / "b").write_bytes(b"2")
    (root / "a").mkdir()
    (root / "a" / "z").write_bytes(b"1")
    (root / "c").symlink_to("b")
    assert b"".join(archive.read_concatenated(root)) == b"12"


@pytest.mark.parametrize("count", [3, 40])
def test_synced_unpacking_gives_the_same(root: Path, tmp_path: Path, count: int) -> None:
    for number in range(count):
        (root / f"f{number}").mkdir()
        (root / f"f{number}" / "x").write_bytes(b"x")
    after = tmp_path / "after"
    after.mkdir()
    archive.unpack(io.BytesIO(packed(root)), after, sync=True)
    assert read(after) == read(root)
