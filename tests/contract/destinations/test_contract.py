"""What every destination can do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import choose_set, restore
from knit_workflows.backup.taking import take_backup
from tests.unit.backup.memory import Knit, Silent

LARGE = bytes(range(256)) * (17 << 12)


def test_objects_are_as_they_were_written(destination: Destination):
    assert destination.read("blobs/aa/none") is None
    with destination.locked():
        for content in (b"", b"x", LARGE, b"replaced"):
            destination.write("blobs/aa/one", content)
            assert destination.read("blobs/aa/one") == content
        destination.settle()
        assert destination.read("blobs/aa/one") == b"replaced"


def test_names_are_those_below_a_prefix(destination: Destination):
    with destination.locked():
        for name in ("blobs/aa/1", "blobs/ab/2", "sets/3", "blobsy/4"):
            destination.write(name, b"x")
        destination.settle()
        assert sorted(destination.names("blobs/")) == ["blobs/aa/1", "blobs/ab/2"]
        assert list(destination.names("partial/")) == []
        destination.remove("blobs/aa/1")
        destination.remove("blobs/aa/1")
        assert list(destination.names("blobs/")) == ["blobs/ab/2"]


def test_one_at_a_time_changes_it(opened: Callable[[], Destination]):
    with opened().locked() as lock:
        lock.require()
        with pytest.raises(BackupProblem, match="another backup is at work"), opened().locked():
            pass
    with opened().locked() as lock:
        lock.require()


def test_nobody_changes_it_while_it_is_read(opened: Callable[[], Destination]):
    refused = pytest.raises(BackupProblem, match=r"another backup is at work on .* or a restore")
    with opened().held(), refused, opened().locked():
        pass
    with opened().locked(), refused, opened().held():
        pass
    with opened().held():
        pass


def test_a_backup_goes_there_and_comes_back(opened: Callable[[], Destination]):
    archives = {"a": b"A" * 5_000, "b": b"", "c": LARGE * 2}
    made = take_backup(Knit(archives, b"1\tx\n"), opened(), Silent(), keep=1).set
    filled = Knit()
    restore(opened(), choose_set(opened(), made.id), filled, Silent(), by="me")
    assert filled.archives == archives
