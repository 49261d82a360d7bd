"""Which folders may become Data; and how much room they take up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knit_workflows.compute.adopted_folders import adoptable_folder, bytes_on_disk
from knit_workflows.domain.errors import VolumeRefused

ROOT = Path("/")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """knit's own folder."""
    folder = tmp_path / "knit" / "state"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder.resolve()


def adoptable(name: str | Path, own: Path, *allowed: Path) -> str:
    return adoptable_folder(str(name), allowed=allowed or (ROOT,), own=own)


def test_links_and_detours_lead_to_one_name(own: Path, theirs: Path, tmp_path: Path) -> None:
    """So that the same folder is the same Data."""
    link = tmp_path / "link"
    link.symlink_to(theirs)
    for name in (theirs, link, f"{theirs}/", f"{theirs}/../theirs", f"{own}/../../theirs"):
        assert adoptable(name, own) == str(theirs)


def test_knits_own_folder_is_refused_with_all_around_it(own: Path, tmp_path: Path) -> None:
    """Runs write there; a link does not help."""
    (own / "volumes").mkdir()
    link = tmp_path / "link"
    link.symlink_to(own / "volumes")
    for name in (own, own / "volumes", link):
        with pytest.raises(VolumeRefused, match="inside knit's own folder"):
            adoptable(name, own)
    with pytest.raises(VolumeRefused, match="holds knit's own folder"):
        adoptable(own.parent, own)


def test_the_root_is_refused(own: Path) -> None:
    for name in ("/", "//", "/tmp/.."):
        with pytest.raises(VolumeRefused, match="root of the file system"):
            adoptable(name, own)


def test_what_is_no_folder_is_refused_in_words(own: Path, theirs: Path) -> None:
    (theirs / "file").touch()
    (theirs / "loop").symlink_to("loop")
    for name, why in {
        theirs / "file": "is not a folder",
        theirs / "none": "cannot be adopted",
        theirs / "loop": "loop|itself",
        Path("relative"): "not an absolute path",
        theirs / "a\nb": "no path",
    }.items():
        with pytest.raises(VolumeRefused, match=why) as refused:
            adoptable(name, own)
        assert refused.value.advice


def test_an_operator_says_from_where_is_adopted(own: Path, theirs: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "in").mkdir(parents=True)
    (allowed / "out").symlink_to(theirs)
    assert adoptable(allowed / "in", own, allowed) == str((allowed / "in").resolve())
    for name in (theirs, allowed / "out", f"{allowed}/../theirs"):
        with pytest.raises(VolumeRefused, match="outside of the folders") as refused:
            adoptable(name, own, allowed)
        assert "KNIT_COMPUTE__LOCAL__ADOPTABLE" in refused.value.advice


def test_a_terabyte_of_holes_takes_up_next_to_nothing(own: Path, theirs: Path) -> None:
    """And nothing of it is read: its time of access stays."""
    big = theirs / "big"
    with big.open("wb") as file:
        file.truncate(1 << 40)
    os.utime(big, ns=(0, 0))
    before = {path.name: path.stat() for path in (big, theirs)}
    assert adoptable(theirs, own) == str(theirs)
    assert {path.name: path.stat() for path in (big, theirs)} == before
    size = bytes_on_disk(theirs)
    assert size is not None
    assert size < 1 << 20


def test_a_file_with_two_names_is_counted_once(theirs: Path) -> None:
    (theirs / "a").write_bytes(b"x" * 1_000_000)
    alone = bytes_on_disk(theirs)
    os.link(theirs / "a", theirs / "b")
    assert bytes_on_disk(theirs) == alone


def test_what_is_gone_has_no_size(theirs: Path) -> None:
    assert bytes_on_disk(theirs / "none") is None
