"""`knit run find`, `show` and `stop`."""

import httpx
import pytest

from tests.cli.fake_api import error


def test_find_joins_the_values_of_one_flag(knit, api):
    run, _ = api.add_run({}, {"/out": "a:b"}, status="running")
    api.add_run({}, {"/out": "a:b"})
    ended = knit(
        *("run", "find", "-p", "p1", "--planid", "p2", "-i", "i", "-o", "o1", "-o", "o2"),
        *("--status", "running", "-s", "failed", "--since", "2025-02-01T00:00:00+09:00"),
        *("--duration", "24h"),
    )
    assert [one["runId"] for one in ended.json] == [run.run_id]
    assert dict(api.requests[-1].url.params) == {
        "plan": "p1,p2",
        "knitIdInput": "i",
        "knitIdOutput": "o1,o2",
        "status": "running,failed",
        "since": "2025-02-01T00:00:00+09:00",
        "duration": "24h",
    }


def test_find_needs_a_beginning_for_a_duration(knit):
    assert knit("run", "find", "--duration", "1h").code == 2


def test_an_unknown_status_is_refused_by_the_api(knit, api):
    api.interrupt[("GET", "/runs")] = [error(400, "bad request", "use running, done, …")]
    ended = knit("run", "find", "-s", "sleeping")
    assert ended.code == 1
    assert "hint: use running, done, …" in ended.err


def test_show_is_the_wire_json_with_four_blanks(knit, api):
    run, _ = api.add_run({}, {"/out": "a:b"}, log=True)
    ended = knit("run", "show", run.run_id)
    assert ended.out.decode() == (
        '{\n    "runId": "run-1",\n    "status": "done",\n'
        '    "updatedAt": "2025-02-01T10:00:00.12+00:00",\n'
        '    "exit": {\n        "code": 0,\n        "message": ""\n    },\n'
        '    "plan": {\n        "planId": "plan-4",\n        "image": "example/work:v1"\n    },\n'
        '    "inputs": [],\n'
        '    "outputs": [\n        {\n            "path": "/out",\n            "tags": [\n'
        '                "a:b"\n            ],\n            "knitId": "data-2"\n        }\n    ],\n'
        '    "log": {\n        "tags": [],\n        "knitId": "data-3"\n    }\n}\n'
    )


def test_keys_that_a_newer_api_adds_are_shown(knit, api):
    run, _ = api.add_run({}, {})
    newer = run.model_copy(update={"waiting_for": "a hook"}).model_dump(mode="json")
    api.interrupt[("GET", f"/runs/{run.run_id}")] = [httpx.Response(200, json=newer)]
    assert knit("run", "show", run.run_id).json["waiting_for"] == "a hook"


def test_log_copies_the_bytes_to_stdout(knit, api):
    run, _ = api.add_run({}, {}, log=True)
    api.logs[run.run_id] = b"line 1\nline \xff 2\nno end"
    for flags in (["--log"], ["--log", "--follow"], ["-f", "--log"]):
        ended = knit("run", "show", run.run_id, *flags)
        assert (ended.code, ended.out, ended.err) == (0, b"line 1\nline \xff 2\nno end", "")
    follows = ["follow" in request.url.params for request in api.requests]
    assert follows == [False, True, True]


def test_follow_alone_shows_the_run(knit, api):
    run, _ = api.add_run({}, {})
    assert knit("run", "show", run.run_id, "--follow").json["runId"] == run.run_id


def test_a_log_that_is_not_there_yet_is_told_at_once_without_follow(knit, api):
    busy = error(503, "service unavailable", "the Run has not started")
    api.interrupt[("GET", "/runs/r/log")] = [busy]
    ended = knit("run", "show", "r", "--log")
    assert ended.code == 1
    assert "hint: the Run has not started" in ended.err
    assert knit.slept == []


def test_follow_waits_a_little_for_the_run_to_start(knit, api):
    run, _ = api.add_run({}, {}, log=True)
    api.logs[run.run_id] = b"hello\n"
    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [error(503, "wait"), error(503, "wait")]
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out) == (0, b"hello\n")
    assert knit.slept == [0.5, 1.0]


def test_a_log_that_breaks_shows_what_came_and_fails(knit, api):
    def broken(_request):
        def pieces():
            yield b"first\n"
            raise httpx.ReadError("reset")

        return httpx.Response(200, content=pieces())

    api.interrupt[("GET", "/runs/r/log")] = [broken]
    ended = knit("run", "show", "r", "--log", "--follow")
    assert (ended.code, ended.out) == (1, b"first\n")
    assert "was cut" in ended.err


@pytest.mark.parametrize(
    ("flags", "path", "status"),
    [([], "tearoff", "completing"), (["--fail"], "abort", "aborting"), (["-x"], "abort", "abort")],
)
def test_stop_says_so_on_stderr_only(knit, api, flags, path, status):
    run, _ = api.add_run({}, {}, status="running")
    ended = knit("run", "stop", run.run_id, *flags)
    assert (ended.code, ended.out) == (0, b"")
    assert status in ended.err
    assert api.asked() == [f"PUT /runs/{run.run_id}/{path}"]


def test_a_run_that_cannot_be_stopped(knit, api):
    api.interrupt[("PUT", "/runs/r/abort")] = [error(409, "prohibited operation", "it is done")]
    ended = knit("run", "stop", "--fail", "r")
    assert ended.code == 1
    assert ended.err == (
        "error: cannot stop Run r\nreason: prohibited operation\nhint: it is done\n"
    )
