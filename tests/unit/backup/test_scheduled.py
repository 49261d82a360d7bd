"""Backups that a schedule takes: the process that takes one, and what is told of the schedule."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities.backups import COMMAND, ProcessBackupActivities
from knit_workflows.backup.scheduled import take as take_program
from knit_workflows.contracts.backups import BackupTaken, TakeBackup
from knit_workflows.metrics.instruments import BACKUP_PERIOD, BACKUP_SUCCESS
from knit_workflows.settings import ComputeSettings, KubernetesSettings, Settings, StoreSettings
from knit_workflows.temporal.backup_schedule import BackupSchedule, FoundSchedule, instant_of
from knit_workflows.upkeep.backups import measure
from tests.unit.backup.memory import Knit
from tests.waiting import PATIENCE

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FOUND = FoundSchedule(
    destination="/kept",
    when="every 1 h",
    keep=3,
    is_paused=False,
    made_at=NOW - timedelta(hours=1, minutes=59),  # when the set was noted
    running=False,
    last_set="20261130T100000000000Z-0123abcd",
    last_at=NOW - timedelta(hours=2),
    period=timedelta(hours=1),
)


@pytest.mark.parametrize(
    ("every", "words"),
    [
        (timedelta(hours=24), "every 1 d"),
        (timedelta(hours=6), "every 6 h"),
        (timedelta(minutes=90), "every 1 h 30 min"),
        (timedelta(days=1, seconds=59, microseconds=123456), "every 1 d 59.123456 s"),
    ],
)
def test_how_often_is_told_in_words(every: timedelta, words: str):
    assert BackupSchedule("/kept", every=every).when == words


def printing(words: str) -> ProcessBackupActivities:
    return ProcessBackupActivities((sys.executable, "-S", "-c", f"print({words!r})"))


def take(activities: ProcessBackupActivities) -> object:
    request = TakeBackup(destination="/kept", keep=2)
    return asyncio.run(ActivityEnvironment().run(activities.take_backup, request))


def test_what_the_process_prints_is_the_result():
    made = {
        "set_id": "20261130T120000000000Z-0123abcd",
        "volumes": 3,
        "volumes_read": 1,
        "bytes_stored": 9,
        "seconds": 0.1,
    }
    taken = take(printing(json.dumps(made)))
    assert taken.model_dump(exclude={"unreadable", "removed_sets", "unpruned"}) == made  # type: ignore[attr-defined]


def test_a_set_beside_older_ones_that_cannot_be_removed_is_taken_once(
    caplog: pytest.LogCaptureFixture,
):
    made = {"volumes": 3, "volumes_read": 1, "bytes_stored": 9, "seconds": 0.1}
    take(printing(json.dumps({**made, "set_id": "x", "unpruned": "a set is damaged"})))
    [warned] = [one for one in caplog.messages if "older sets" in one]
    assert warned == "older sets cannot be removed: a set is damaged"


def test_the_process_says_why_older_sets_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(take_program, "read_settings", lambda: None)
    monkeypatch.setattr(take_program, "_installation", lambda _: nullcontext(Knit({"a": b"1"})))
    first = take_program._take(str(tmp_path), 2)
    assert (first["unpruned"], first["volumes_read"]) == ("", 1)
    (tmp_path / "sets" / f"{first['set_id']}.json").write_bytes(b"rotten")
    second = take_program._take(str(tmp_path), 2)
    assert "is damaged" in second["unpruned"]
    assert BackupTaken.model_validate(second).removed_sets == 0


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ('{"problem": "cannot write; the disk is full"}', "cannot write; the disk is full"),
        ("", "ended with code 0"),
        ("[1", "ended with code 0"),
    ],
)
def test_why_there_is_no_set_is_said(printed: str, said: str):
    with pytest.raises(ApplicationError, match=said) as failed:
        take(printing(printed))
    assert not failed.value.non_retryable


def test_it_needs_no_mounts_of_other_workers(monkeypatch: pytest.MonkeyPatch):
    class Asked(Exception):
        pass

    def backend_from(compute: ComputeSettings) -> None:
        cluster = compute.kubernetes
        raise Asked(compute.kind, cluster.volume_folders, cluster.transfer_port)

    cluster = KubernetesSettings(transfer_port=2000, volume_folders="/mnt/{pv}")
    store = StoreSettings(url=SecretStr("postgresql:///never-opened"))
    compute = ComputeSettings(kind="kubernetes", kubernetes=cluster)
    monkeypatch.setattr("knit_workflows.worker.backend_from", backend_from)
    with (
        pytest.raises(Asked) as asked,
        take_program._installation(Settings(store=store, compute=compute)),
    ):
        pass
    assert asked.value.args == ("kubernetes", None, 2000)


def test_a_cancelled_backup_leaves_no_process_behind(capfd: pytest.CaptureFixture[str]):
    script = "import os,sys,time; sys.stderr.write(f'{os.getpid()}\\n'); time.sleep(60)"
    activities = ProcessBackupActivities((sys.executable, "-S", "-c", script))

    async def cancelled() -> None:
        request = TakeBackup(destination="/kept")
        taking = asyncio.ensure_future(ActivityEnvironment().run(activities.take_backup, request))
        pid = ""
        while not pid:
            await asyncio.sleep(0.02)
            pid = capfd.readouterr().err.strip()
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)

    asyncio.run(cancelled())


def cancelled(script: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Gives what a process says that is cancelled once it has said that it has begun."""
    activities = ProcessBackupActivities((sys.executable, "-c", script))

    async def run() -> str:
        request = TakeBackup(destination="/kept")
        taking = asyncio.ensure_future(ActivityEnvironment().run(activities.take_backup, request))
        said = ""
        while "begun" not in said:
            await asyncio.sleep(0.02)
            said += capfd.readouterr().err
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        return said + capfd.readouterr().err

    return asyncio.run(run())


@pytest.mark.patient
def test_a_cancelled_backup_gives_back_what_it_holds(capfd: pytest.CaptureFixture[str]):
    script = """
import sys, time
from knit_workflows.backup.scheduled import take
def slow(*_):
    try:
        sys.stderr.write("begun\\n")
        time.sleep(60)
    finally:
        sys.stderr.write("given back\\n")
take._take = slow
take.main(["/kept"])
"""
    assert "given back" in cancelled(script, capfd)


def test_a_process_that_does_not_end_is_killed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("knit_workflows.activities.backups._GIVING_BACK", 0.1)
    script = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "sys.stderr.write(f'{os.getpid()} begun'); sys.stderr.flush(); time.sleep(60)"
    )
    pid = cancelled(script, capfd).split()[0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.patient
def test_the_process_ends_with_who_has_started_it(tmp_path: Path):
    """A worker that is killed closes the pipe; the process must not go on with the lock."""
    began = subprocess.Popen(
        [*COMMAND, str(tmp_path / "kept")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={"KNIT_STORE__URL": "postgresql://192.0.2.1:9/knit"},  # where nobody answers
    )
    assert began.stdin is not None
    began.stdin.close()
    assert began.wait(PATIENCE) == 1


def test_it_is_overdue_after_two_periods():
    assert not FOUND.is_overdue(NOW)
    assert FOUND.is_overdue(NOW + timedelta(seconds=1))
    assert not dataclasses.replace(FOUND, period=None).is_overdue(NOW + timedelta(days=9))
    fresh = dataclasses.replace(FOUND, last_at=None, made_at=NOW)
    assert not fresh.is_overdue(NOW + timedelta(hours=2))
    assert fresh.is_overdue(NOW + timedelta(hours=3))


def test_a_set_of_a_clock_that_was_ahead_does_not_keep_backups_from_being_overdue():
    """Nor do those after it, whose ids come after its own; they count from when they are noted."""
    ahead = dataclasses.replace(FOUND, last_at=NOW + timedelta(days=365))
    noted = ahead.made_at
    assert not ahead.is_overdue(noted + timedelta(hours=2))
    for later in (timedelta(hours=3), timedelta(days=366)):
        assert ahead.is_overdue(noted + later)
    measure(ahead)
    [sample] = BACKUP_SUCCESS.collect()[0].samples
    assert sample.value == noted.timestamp()
    measure(None)


def test_the_id_of_a_set_says_when_it_was_complete():
    assert instant_of("20261130T100000000000Z-0123abcd") == NOW - timedelta(hours=2)
    assert instant_of("something else") is None


def test_what_is_measured_is_of_the_schedule_that_is_there():
    measure(FOUND)
    [sample] = BACKUP_SUCCESS.collect()[0].samples
    assert (sample.labels, sample.value) == (
        {"destination": "/kept"},
        (NOW - timedelta(hours=2)).timestamp(),
    )
    assert [one.value for one in BACKUP_PERIOD.collect()[0].samples] == [3600]
    measure(dataclasses.replace(FOUND, destination="/other", period=None))
    assert [one.labels for one in BACKUP_SUCCESS.collect()[0].samples] == [
        {"destination": "/other"}
    ]
    assert not BACKUP_PERIOD.collect()[0].samples
    measure(None)
    assert not BACKUP_SUCCESS.collect()[0].samples
