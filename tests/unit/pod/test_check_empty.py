"""`empty` lets a Run begin only if its outputs and log are empty folders."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from knit_workflows.pod import empty


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    return path


def test_empty_folders_pass_and_nothing_is_said(tmp_path: Path, told: Path, capsys) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "lost+found").mkdir()
    assert empty.main([str(tmp_path / "a"), str(tmp_path / "b")], str(told)) == 0
    assert (capsys.readouterr().err, told.read_text()) == ("", "")


@pytest.mark.parametrize("name", ["full", "file", "missing", "fake"])
def test_anything_else_is_told_on_stderr_and_to_kubernetes(
    tmp_path: Path, told: Path, capsys, name: str
) -> None:
    for folder in ("fine", "full", "fake"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "fake" / "lost+found").touch()
    (tmp_path / "file").touch()
    assert empty.main([str(tmp_path / "fine"), str(tmp_path / name)], str(told)) == 1
    assert told.read_text().startswith(str(tmp_path / name))
    assert capsys.readouterr().err == told.read_text() + "\n"


def test_no_path_is_wrong_use(told: Path) -> None:
    assert empty.main([], str(told)) == 2


def test_outside_a_pod_no_termination_log_is_made(tmp_path: Path) -> None:
    assert empty.main([str(tmp_path / "missing")], str(tmp_path / "none")) == 1
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(empty.tree, "is_empty", broken)
    assert (
        empty.complaint(str(tmp_path))
        == f"{tmp_path} cannot be read: [Errno 5] Input/output error."
    )
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert empty.main([str(loop)], str(told)) == 1
    assert "cannot be read" in told.read_text()
