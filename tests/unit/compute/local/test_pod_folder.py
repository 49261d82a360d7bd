"""What a pod's folder says, at any instant of its writing."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.local import pod_folder
from knit_workflows.compute.local.pod_folder import Account, parse_account, read_account


def write_state(folder: Path, text: str) -> None:
    """Writes as a supervisor does: over a block of zeros."""
    pod_folder.reserve(folder)
    with (folder / "state").open("r+b") as state:
        state.write(text.encode())


def test_a_state_is_read_line_by_line() -> None:
    """Bubblewrap's own account of itself is among the lines."""
    account = parse_account(
        'started 12 3456 b0\n{\n    "child-pid": 14,\n    "ipc-namespace": 4026532182\n}\n'
        "running\nexited 3 0\n"
    )
    assert account == Account(
        supervisor=(12, 3456), boot="b0", sandbox=14, running=True, exit=(3, 0), complaints=()
    )


def test_a_container_is_read_too() -> None:
    """An image that is there ends the failure about it."""
    account = parse_account(
        "started 12 3456\nfailure manifest unknown\nimage sha256:ab name@sha256:cd\n"
        "running\nfacts 137 true false\nexited 137 0\n"
    )
    assert account.failure is None
    assert account.image == "sha256:ab name@sha256:cd"
    assert account.facts == (137, True, False)


def test_other_lines_are_complaints() -> None:
    """A message never looks like a fact."""
    account = parse_account("started 12 3456 b0\nbwrap: Can't mkdir /usr/x\nexited early\n")
    assert account.complaints == ("bwrap: Can't mkdir /usr/x", "exited early")
    assert account.exit is None


@pytest.mark.parametrize("length", range(len("started 1 2 b\nrunning\nexited 0 0\n")))
def test_a_half_written_line_says_nothing(tmp_path: Path, length: int) -> None:
    """A reader may come at any byte."""
    write_state(tmp_path, "started 1 2 b\nrunning\nexited 0 0\n"[:length])
    account = read_account(tmp_path)
    assert account is not None
    assert not account.ended
    assert account.ended_at is None
    assert account.running == (length >= len("started 1 2 b\nrunning\n"))


def test_the_end_has_the_time_of_the_last_line(tmp_path: Path) -> None:
    """In UTC."""
    write_state(tmp_path, "started 1 2 b\nrunning\nexited 0 0\n")
    os.utime(tmp_path / "state", (0, 86400.25))
    account = read_account(tmp_path)
    assert account is not None
    assert account.ended_at is not None
    assert account.ended_at.isoformat() == "1970-01-02T00:00:00.250000+00:00"


def test_a_missing_folder_has_no_account(tmp_path: Path) -> None:
    """What is gone is not an error."""
    assert read_account(tmp_path / "none") is None
    assert not pod_folder.is_locked(tmp_path / "none")
    assert pod_folder.stop_deadline(tmp_path / "none") is None


def test_a_lock_is_held_by_whoever_inherits_it(tmp_path: Path) -> None:
    """Looking at it does not disturb it."""
    path = tmp_path / "lock"
    lock = pod_folder.try_lock(path, make=True)
    assert lock is not None
    copy = os.dup(lock)
    os.close(lock)
    assert pod_folder.is_locked(path)
    assert pod_folder.try_lock(path) is None
    os.close(copy)
    assert not pod_folder.is_locked(path)


def test_a_stop_can_be_made_earlier_but_not_later(tmp_path: Path) -> None:
    """The first grace counts, unless a shorter one follows."""
    pod_folder.reserve(tmp_path)
    assert pod_folder.stop_deadline(tmp_path) is None
    first = pod_folder.request_stop(tmp_path, timedelta(hours=3))
    assert first == pytest.approx(3 * 3600)
    assert 0 < pod_folder.request_stop(tmp_path, timedelta(hours=9)) <= first
    assert pod_folder.request_stop(tmp_path, timedelta()) == pytest.approx(0)
    deadline = pod_folder.stop_deadline(tmp_path)
    assert deadline is not None
    assert pod_folder.is_overdue(deadline)
