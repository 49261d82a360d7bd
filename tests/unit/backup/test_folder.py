"""A folder as a destination: files of its owner, and nothing of what was not finished."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.destinations.folder import Folder
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import check_set, choose_set
from knit_workflows.backup.sets import set_ids
from knit_workflows.backup.taking import take_backup
from tests.unit.backup.memory import Knit, Silent


@pytest.mark.parametrize("name", ["s3:/bucket/x", "S3://bucket/x", "gs:/b", "https://host/x"])
def test_an_address_is_not_taken_for_a_folder(tmp_path: Path, name: str):
    with pytest.raises(BackupProblem, match="is no destination"):
        open_destination(name, tmp_path, new=True)
    assert not list(tmp_path.iterdir())


def test_only_the_owner_reads_it(tmp_path: Path):
    folder = Folder.at(tmp_path / "new", new=True)
    with folder.locked():
        folder.write("blobs/aa/1", b"secret")
        folder.settle()
    modes = {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "new").rglob("*")}
    assert modes == {0o700, 0o600}


@pytest.mark.parametrize(
    "step", ["knit_workflows.backup.destinations.folder.sync_file_system", "pathlib.Path.rename"]
)
def test_what_was_not_finished_has_no_name_and_goes(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder.at(tmp_path, new=True)

    class Gone(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Gone

    monkeypatch.setattr(step, killed)
    monkeypatch.setattr("pathlib.Path.unlink", killed)  # a killed process removes nothing
    with pytest.raises(Gone), folder.locked():
        folder.write("blobs/aa/1", b"whole")
        folder.settle()
    monkeypatch.undo()
    folder = Folder.at(tmp_path, new=True)
    assert len(list((tmp_path / "drafts").iterdir())) == 1
    assert folder.read("blobs/aa/1") is None
    with folder.locked():
        assert list(folder.names("blobs/")) == []
        assert not list((tmp_path / "drafts").iterdir())


def test_what_cannot_be_is_said_in_words(tmp_path: Path):
    with pytest.raises(BackupProblem, match="there is no folder"):
        open_destination("none", tmp_path, new=False)
    with pytest.raises(BackupProblem, match="gs://x is no destination"):
        open_destination("gs://x", tmp_path, new=True)
    (tmp_path / "file").touch()
    with pytest.raises(BackupProblem, match="cannot make"):
        open_destination("file", tmp_path, new=True)


def failing_lists_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """Has the disk fail where names of a folder are asked for, once they were so many times."""
    really, left = os.scandir, after

    def scandir(path: Any) -> Any:
        nonlocal left
        if Path(path) == folder:
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("failing", ["blobs", "blobs/aa"])
def test_names_that_cannot_be_listed_are_not_taken_for_none(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder.at(tmp_path, new=True)
    with folder.locked():
        folder.write("blobs/aa/1", b"x")
        folder.settle()
    failing_lists_of(tmp_path / failing, monkeypatch)
    with pytest.raises(BackupProblem, match="cannot read") as refused:
        list(folder.names("blobs/"))
    assert refused.value.reason
    assert list(folder.names("sets/")) == []  # there is no such folder yet


def test_sets_that_cannot_be_listed_keep_all_their_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder.at(tmp_path, new=True)
    take_backup(Knit({"a": b"1"}), folder, Silent())
    failing_lists_of(tmp_path / "sets", monkeypatch, after=1)
    taken = take_backup(Knit({"b": b"2"}), folder, Silent(), keep=1)
    assert (taken.pruned, "cannot read" in taken.unpruned) == ((), True)
    monkeypatch.undo()
    ids = set_ids(folder)
    assert ids[1:] == [taken.set.id]
    for one in ids:
        assert check_set(folder, choose_set(folder, one), Silent()) > 0


def test_the_same_object_may_be_written_by_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("knit_workflows.backup.destinations.folder._UNSETTLED_BYTES", 3)
    folder = Folder.at(tmp_path, new=True)
    with folder.locked(), ThreadPoolExecutor(8) as pool:
        for written in [pool.submit(folder.write, f"blobs/aa/{n % 3}", b"x") for n in range(60)]:
            written.result()
        folder.settle()
    assert sorted(folder.names("blobs/")) == ["blobs/aa/0", "blobs/aa/1", "blobs/aa/2"]
    assert not list((tmp_path / "drafts").iterdir())


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder.at(tmp_path, new=True)
    with folder.locked():
        folder.write("sets/1", b"x")
        folder.settle()
    really = os.open

    def read_only(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(path, flags, *rest, **more)

    for has_lock in (True, False):
        if not has_lock:
            (tmp_path / "lock").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", read_only)
            with Folder.at(tmp_path, new=False).held():
                assert folder.read("sets/1") == b"x"
