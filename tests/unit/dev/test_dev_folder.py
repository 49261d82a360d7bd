"""The state folder: marks of processes, the record, the lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from knit_cli.dev.dev_folder import DevFolder, DevState, Ports, ProcessIdentity
from knit_cli.errors import BadInput

PORTS = Ports(api=1, temporal=2, web_ui=3)


@pytest.fixture
def folder(tmp_path: Path) -> DevFolder:
    folder = DevFolder(tmp_path / "state")
    folder.create()
    return folder


def test_a_mark_finds_its_process_and_no_other() -> None:
    """The number alone is not enough, and a zombie does not count."""
    mine = ProcessIdentity.of(os.getpid())
    found = mine.process()
    assert found is not None
    assert found.pid == os.getpid()
    assert ProcessIdentity(os.getpid(), "another birth").process() is None
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL) as child:
        mark = ProcessIdentity.of(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert mark.process() is None  # a zombie, as nobody has asked for its end yet
    assert mark.process() is None
    assert ProcessIdentity.of(child.pid).process() is None


def test_a_record_comes_back_as_it_was(folder: DevFolder) -> None:
    """Nothing is lost on the way to the disk and back."""
    state = DevState(PORTS, ProcessIdentity(7, "b"), {"api": ProcessIdentity(8, "c")}, True, 5.5)
    folder.save(state)
    assert folder.load() == state
    assert folder.running() is None  # there is no such supervisor


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"ports": 3}', '{"ports": {"api": 1}}'])
def test_a_record_that_cannot_be_read_is_none(folder: DevFolder, text: str) -> None:
    """The stack is found by its processes then; nothing is raised."""
    (folder.root / "state.json").write_text(text)
    assert folder.load() is None


@pytest.mark.patient
def test_a_folder_is_held_by_one(folder: DevFolder) -> None:
    """The second is refused after a moment; who only asks does not hold it."""
    assert not folder.is_held()
    with folder.locked() as mine:
        assert mine
        assert folder.is_held()
        with DevFolder(folder.root).locked() as theirs:
            assert not theirs
    assert not folder.is_held()
    with folder.locked() as again:
        assert again


def test_asking_makes_nothing(tmp_path: Path) -> None:
    """A folder that is not there stays so."""
    folder = DevFolder(tmp_path / "nowhere")
    assert folder.load() is None
    assert not folder.is_held()
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    """With the place, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as raised:
        DevFolder(tmp_path / "file").create()
    assert str(tmp_path / "file") in raised.value.summary
    assert "--state" in str(raised.value.advice)
