"""Folders with more names than anybody wants in memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from knit_workflows import archive
from knit_workflows.archive import removal
from knit_workflows.archive.walk import walk

MANY = 20_000


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with so many links, which are quickly made."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(MANY):
        (root / f"a-name-of-some-length-for-its-weight-{number:06}").symlink_to("x")
    return root


def peak(of: Callable[[], object]) -> int:
    """The most bytes that it has used at a time."""
    tracemalloc.start()
    try:
        of()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.patient
def test_names_are_read_in_passes(many: Path) -> None:
    """As many at a time as there is room for, in the order in which one pass gives them."""

    def found(at_once: int) -> list[str]:
        return [each.path for each in walk(many, at_once=at_once)]

    assert (
        found(1_000)
        == sorted(each.name for each in many.iterdir())
        == found(MANY)
        == found(MANY - 1)
    )

    def visited(at_once: int) -> Callable[[], object]:
        return lambda: sum(1 for _ in walk(many, at_once=at_once))

    assert peak(visited(1_000)) < 400_000 < 1_500_000 < peak(visited(10 * MANY))


@pytest.mark.patient
def test_folders_on_the_way_share_the_room(tmp_path: Path) -> None:
    """Nobody visits the content of one before its name is known, at any depth."""
    folder = tmp_path / "top"
    expected = []
    for depth in range(3):
        folder.mkdir()
        names = [f"{number:05}" for number in range(2_500)]
        for name in names:
            (folder / name).symlink_to("x")
        above = "01200z/" * depth
        expected += [above + name for name in (*names, "01200z")]
        folder = folder / "01200z"
    folder.mkdir()
    walked = [each.path for each in walk(tmp_path / "top", at_once=1_500)]
    assert sorted(walked) == sorted(expected)
    assert len(walked) == len(set(walked))
    assert walked == [each.path for each in walk(tmp_path / "top")]


@pytest.mark.patient
def test_what_comes_and_goes_meanwhile_is_met_once_at_most(many: Path) -> None:
    walked = []
    for each in walk(many, at_once=1_000):
        walked.append(each.name)
        if len(walked) == 500:
            (many / "a-name-of-some-length-for-its-weight-010000").unlink()
            (many / "a-name-before").touch()
            (many / "b").touch()
    assert walked == sorted(set(walked))
    assert walked[-1] == "b"
    assert len(walked) == MANY


@pytest.mark.patient
def test_they_go_as_they_are_found(many: Path) -> None:
    assert peak(lambda: archive.clear(many)) < 400_000
    assert not list(many.iterdir())


def test_files_that_a_scan_passed_over_while_others_went_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some file systems may."""
    for number in range(10):
        (tmp_path / str(number)).touch()

    class EverySecond:
        def __init__(self, folder: int) -> None:
            self.whole = os_scandir(folder)

        def __enter__(self):
            return list(self.whole.__enter__())[::2]

        def __exit__(self, *error: object) -> None:
            self.whole.__exit__(*error)

    os_scandir = os.scandir
    monkeypatch.setattr(removal.os, "scandir", EverySecond)
    archive.clear(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
