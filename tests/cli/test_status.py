"""`knit status`."""

from __future__ import annotations

import io
import json
import sys
from datetime import timedelta

import pytest
from rich.console import Console
from rich.text import Text

from knit_cli.commands import watching
from knit_cli.views.status import describe
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.ports import situation
from knit_workflows.wire.situation import (
    COUNTED,
    Backlog,
    Backups,
    Disk,
    EndedRuns,
    FailedRun,
    InstallationStatus,
    Limits,
    RunsHeldUp,
    RunsOfStatus,
    Versions,
    WorkersOfRole,
    WorkerVersion,
)
from tests.cli.real_api import START, error

HOUR_AGO = START - timedelta(hours=3)


BACKUPS = Backups(destination="/kept", when="every 6 h", paused=False, unreadable=0)


def status(**more) -> InstallationStatus:
    parts = {
        "at": START,
        "problems": [],
        "runs": [],
        "held_up": [],
        "ended": EndedRuns(hours=24, done=0, failed=0, failures=[]),
        "backlog": Backlog(events=0, oldest_event_seconds=0, transfers=0, discarded=0),
        "limits": Limits(),
        "workers": [],
        "versions": Versions(knit="1", database="0012"),
        "disk": Disk(database=1 << 20),
    }
    return InstallationStatus(**{**parts, **more})


def test_versions_of_workers_are_shown_as_long_as_they_matter():
    versions = [
        WorkerVersion(build_id="0.2.0", state="current", since=HOUR_AGO, workers=2),
        WorkerVersion(build_id="0.1.0", state="draining", since=HOUR_AGO, workers=1, workflows=3),
        WorkerVersion(build_id="0.0.9", state="drained", since=HOUR_AGO, workers=1),
        WorkerVersion(build_id="0.0.8", state="drained", since=HOUR_AGO, workers=0),
    ]
    lines = describe(status(worker_versions=versions))
    shown = lines[lines.index("versions") + 1 :][:3]
    assert [line.split("  ")[0] for line in shown] == ["0.2.0", "0.1.0", "0.0.9"]
    assert "draining for 3 h" in shown[1] and shown[1].endswith("1 workers  3 workflows left")
    assert "versions" not in describe(status())


@pytest.mark.parametrize(
    ("workers", "backups", "shown"),
    [(0, None, False), (1, None, True), (0, BACKUPS, True)],
)
def test_workers_of_backups_are_shown_where_backups_are_set_up(workers, backups, shown):
    one = WorkersOfRole(role="backup", queue="knit-backup", workers=workers, waiting=0)
    lines = describe(status(workers=[one], backups=backups))
    assert any(line.startswith("backup ") for line in lines) is shown


def test_it_is_json_when_piped_and_0_while_all_is_well(knit, api):
    run, _ = api.add_run({}, {}, status="waiting")
    found = knit("status").json
    assert [(one["status"], one["runId"]) for one in found["runs"]] == [("waiting", run.run_id)]
    assert found["problems"] == []


def test_what_needs_attention_is_told_by_the_exit_code_3(knit, api):
    api.transfers.broken = EngineUnavailable("nobody listens")
    ended = knit("status", "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["problems"] == ["Temporal does not answer: nobody listens"]


def test_an_api_that_does_not_answer_is_1(knit, api):
    api.interrupt[("GET", "/status")] = [error(500, "it is broken")]
    assert knit("status").code == 1


def test_people_see_lines(knit, api, monkeypatch):
    api.add_run({}, {}, status="failed")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ended = knit("status")
    lines = ended.out.decode().splitlines()
    assert lines[0] == "all is well"
    assert "ended within 24 hours: 0 done, 1 failed" in lines


def test_watching_without_a_terminal_is_a_line_of_json_each_time(knit, api, monkeypatch):
    turns = iter([None, None])

    def pause(_):
        if next(turns, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pause)
    ended = knit("status", "--watch")
    assert ended.code == 1
    lines = ended.out.decode().splitlines()
    assert len(lines) == 3
    assert {tuple(json.loads(line)["problems"]) for line in lines} == {()}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"problems": ["no worker"]}, "! no worker"),
        (
            {"runs": [RunsOfStatus(status="waiting", runs=1200, since=HOUR_AGO, run_id="r1")]},
            "waiting  1,200  oldest for 3 h  r1",
        ),
        (
            {
                "held_up": [
                    RunsHeldUp(
                        kind="image",
                        code="ErrImagePull",
                        runs=2,
                        since=HOUR_AGO,
                        run_id="r2",
                        message="not\nfound",
                    )
                ]
            },
            "image ErrImagePull  2  for 3 h  r2  not found",
        ),
        (
            {
                "ended": EndedRuns(
                    hours=24,
                    done=0,
                    failed=1,
                    failures=[FailedRun(run_id="r3", at=HOUR_AGO, plan="a:1")],
                )
            },
            "r3  3 h ago  a:1",
        ),
        (
            {"workers": [WorkersOfRole(role="engine", queue="knit", workers=2, waiting=7)]},
            "engine   2  7 steps wait",
        ),
        (
            {
                "runs": [RunsOfStatus(status="ready", runs=1, since=START, run_id="r1")],
                "limits": Limits(total=9, per_plan=3),
            },
            "at most 9 are under way at once, 3 of one Plan",
        ),
        (
            {"ended": EndedRuns(hours=24, done=COUNTED, failed=COUNTED - 1, failures=[])},
            "ended within 24 hours: 10,000 or more done, 9,999 failed",
        ),
        (
            {
                "backlog": Backlog(
                    events=COUNTED, oldest_event_seconds=9, transfers=COUNTED, discarded=COUNTED
                )
            },
            "to do: 10,000 or more commits to project (oldest for 9 s), 10,000 or more transfers "
            "open, 10,000 or more volumes to delete",
        ),
    ],
)
def test_each_part_has_its_line(more, line):
    lines = describe(status(**more))
    assert line in lines


def test_a_cap_is_known_as_such_on_both_sides():
    assert COUNTED == situation.COUNTED


@pytest.mark.parametrize(
    ("height", "seen"),
    [
        (5, ["1", "2", "3", "4", "5"]),
        (4, ["1", "2", "3", "… 2 more lines: without --watch all are shown"]),
    ],
)
def test_watching_says_how_much_has_no_room(height, seen):
    output = io.StringIO()
    console = Console(file=output, width=80, height=height)
    console.print(watching.fitted(Text("1\n2\n3\n4\n5"), console), end="")
    assert output.getvalue().splitlines() == seen
