"""Disks that run full: what is said about them, and the reserve."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from knit_workflows import disk
from knit_workflows.disk import (
    RESERVE_BYTES,
    DiskSpace,
    Reserve,
    format_bytes,
    require_room,
    storage_full,
)
from knit_workflows.domain.errors import StorageFull


def test_room_is_what_everybody_may_use(tmp_path: Path) -> None:
    """Also of a folder that is not there yet: it will be on the disk of the one above."""
    here = DiskSpace.of(tmp_path)
    assert 0 < here.free <= here.total
    assert DiskSpace.of(tmp_path / "not" / "there").folder == tmp_path


def test_a_floor_takes_a_twentieth_of_a_disk_at_most(tmp_path: Path) -> None:
    """So that a small disk can be used at all."""
    assert DiskSpace(tmp_path, 0, 100 << 30).share(256 << 20) == 256 << 20
    assert DiskSpace(tmp_path, 0, 400 << 20).share(256 << 20) == 20 << 20


def test_too_little_room_is_told_with_the_disk_and_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with what to do about it."""
    room = DiskSpace(tmp_path, 118 << 20, 10 << 30)
    monkeypatch.setattr(disk.DiskSpace, "of", classmethod(lambda _, __: room))
    require_room(tmp_path, 118 << 20)
    with pytest.raises(StorageFull) as failure:
        require_room(tmp_path, 256 << 20)
    assert failure.value.reason == (
        f"the disk of {tmp_path} has 118 MiB left, less than the floor of 256 MiB below which "
        "nothing new begins"
    )
    assert "knit run rm" in failure.value.advice


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_finds_no_room_names_its_disk(tmp_path: Path, number: int) -> None:
    """By the folder it is given, or by the file's own name; else without a disk."""
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    for full in (storage_full(error), storage_full(error, tmp_path)):
        assert full.reason.startswith(f"the disk of {tmp_path} has ")
        assert os.strerror(number) in full.reason
        assert full.see == str(tmp_path / "file")
    assert "no room left" in storage_full(OSError(number, "no")).reason


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 KiB"), (4096, "4 KiB"), (118 << 20, "118 MiB"), ((34 << 30) // 10, "3.4 GiB")],
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert format_bytes(size) == words


def test_a_reserve_is_real_room_and_is_given_back_in_slices(tmp_path: Path) -> None:
    """Slices of an eighth, until nothing is left; it can be made whole again."""
    reserve = Reserve(tmp_path / "reserve")
    assert (reserve.size(), reserve.give()) == (0, 0)
    reserve.fill(RESERVE_BYTES)
    reserve.fill(RESERVE_BYTES // 2)
    assert reserve.size() == RESERVE_BYTES
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    assert [reserve.give() for _ in range(9)] == [RESERVE_BYTES // 8] * 8 + [0]
    reserve.fill(RESERVE_BYTES)
    assert reserve.size() == RESERVE_BYTES


def test_a_small_disks_reserve_has_small_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of them, but none too small to be of use."""
    size = [400 << 20]
    room = classmethod(lambda cls, at: cls(at, size[0], size[0]))
    monkeypatch.setattr(disk.DiskSpace, "of", room)
    reserve = Reserve(tmp_path / "reserve")
    reserve.fill(20 << 20)
    assert reserve.give() == (20 << 20) // 8
    size[0] = 40 << 20
    assert reserve.give() == 1 << 20


def test_a_reserve_that_finds_no_room_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not fill the disk that it is to protect."""

    def full(handle: int, _: int, __: int) -> None:
        os.ftruncate(handle, 5 << 20)
        raise OSError(errno.ENOSPC, "no")

    reserve = Reserve(tmp_path / "reserve")
    reserve.fill(1 << 20)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no"):
        reserve.fill(RESERVE_BYTES)
    assert reserve.size() == 1 << 20


def test_each_slice_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when several ask at the same moment: what is given never comes back as a hole."""
    reserve = Reserve(tmp_path / "reserve")
    reserve.fill(RESERVE_BYTES)
    askers = threading.Barrier(4)
    shorten = os.ftruncate

    def slowly(handle: int, size: int) -> None:
        time.sleep(0.01)
        shorten(handle, size)

    def ask() -> list[int]:
        askers.wait()
        return [reserve.give() for _ in range(3)]

    monkeypatch.setattr(os, "ftruncate", slowly)
    with ThreadPoolExecutor(4) as threads:
        given = [one for asked in [threads.submit(ask) for _ in range(4)] for one in asked.result()]
    assert sorted(given) == [0] * 4 + [RESERVE_BYTES // 8] * 8
    assert reserve.size() == 0
