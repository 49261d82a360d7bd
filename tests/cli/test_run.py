"""`knit run find`, `show`, `stop`, `retry` and `rm`."""

from __future__ import annotations

import httpx
import pytest

from knit_cli.api import requests
from knit_cli.views.run import print_history, print_timing, remarks
from knit_workflows.domain.instants import format_instant
from knit_workflows.wire.options import MadeVolume, Pod
from knit_workflows.wire.runs import Exit, HookWait, PhaseTime, RunEvent, RunTiming, Used, Waiting
from tests.cli.real_api import START, error


def test_find_joins_the_values_of_one_flag(knit, api):
    run, _ = api.add_run({}, {"/out": "a:b"}, status="running")
    api.add_run({}, {"/out": "a:b"})
    found = knit("run", "find", "-s", "running", "-s", "failed", "-p", run.plan.plan_id).json
    assert [one["runId"] for one in found] == [run.run_id]
    ended = knit(
        *("run", "find", "-p", "p1", "--planid", "p2", "-i", "i", "-o", "o1", "-o", "o2"),
        *("--status", "running", "-s", "failed", "--since", "2025-02-01T00:00:00+09:00"),
        *("--duration", "24h"),
    )
    assert ended.json == []
    assert dict(api.requests[-1].url.params) == {
        "plan": "p1,p2",
        "knitIdInput": "i",
        "knitIdOutput": "o1,o2",
        "status": "running,failed",
        "since": "2025-02-01T00:00:00+09:00",
        "duration": "24h",
        "limit": "1000",
    }


def test_a_run_that_changes_between_two_pages_is_found_once(knit, api, monkeypatch):
    """As it was seen last, in the place of that."""
    ids = [api.add_run({}, {}, status="running")[0] for _ in range(5)]
    monkeypatch.setattr(requests, "PAGE", 2)

    def changed(request):
        api.end(ids[0])
        return api.forward(request)

    api.interrupt["GET", "/runs"] = [api.forward, changed]
    found = knit("run", "find").json
    assert [one["runId"] for one in found] == [one.run_id for one in [*ids[1:], ids[0]]]
    assert [one["status"] for one in found] == ["running"] * 4 + ["done"]
    assert len(api.requests) == 3


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
        f'{{\n    "runId": "{run.run_id}",\n    "status": "done",\n'
        f'    "updatedAt": "{format_instant(run.updated_at)}",\n'
        '    "exit": {\n        "code": 0,\n        "message": ""\n    },\n'
        f'    "plan": {{\n        "planId": "{run.plan.plan_id}",\n'
        '        "image": "example/work:v1"\n    },\n    "inputs": [],\n'
        '    "outputs": [\n        {\n            "path": "/out",\n            "tags": [\n'
        f'                "a:b"\n            ],\n            "knitId": "{run.outputs[0].knit_id}"'
        '\n        }\n    ],\n    "log": {\n        "tags": [\n            "type:log"\n        ],\n'
        f'        "knitId": "{run.log.knit_id}"\n    }},\n    "generation": 1\n}}\n'
    )


def test_keys_that_a_newer_api_adds_are_shown(knit, api):
    run, _ = api.add_run({}, {})
    newer = run.model_copy(update={"waiting_for": "a hook"}).model_dump(mode="json")
    api.interrupt[("GET", f"/runs/{run.run_id}")] = [httpx.Response(200, json=newer)]
    assert knit("run", "show", run.run_id).json["waiting_for"] == "a hook"


def test_log_copies_the_bytes_to_stdout(knit, api):
    run, _ = api.add_run({}, {}, log=True)
    api.write_log(run, b"line 1\nline \xff 2\nno end")
    for flags in (["--log"], ["--log", "--follow"], ["-f", "--log"]):
        ended = knit("run", "show", run.run_id, *flags)
        assert (ended.code, ended.out, ended.err) == (0, b"line 1\nline \xff 2\nno end", "")
    log = f"GET /runs/{run.run_id}/log"
    # What ends a log that is followed is the Run's status; what is there then is all.
    follow = [log, f"GET /runs/{run.run_id}", log]
    assert api.asked() == [log, *follow, *follow]
    follows = ["follow" in request.url.params for request in api.requests]
    assert follows == [False, True, False, False, True, False, False]


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
    api.write_log(run, b"hello\n")
    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [error(503, "wait"), error(503, "wait")]
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out) == (0, b"hello\n")
    assert knit.slept_for(0.5, 1.0)


def broken_after(*chunks: bytes):
    """An answer that says where it ends, and breaks off behind these pieces."""

    def answer(_request):
        def coming():
            yield from chunks
            raise httpx.ReadError("reset")

        return httpx.Response(200, content=coming())

    return answer


def test_a_log_that_breaks_shows_what_came_and_fails(knit, api):
    cuts = [broken_after(b"first\n"), *[broken_after()] * 5]
    api.interrupt[("GET", "/runs/r/log")] = cuts
    ended = knit("run", "show", "r", "--log")
    assert (ended.code, ended.out) == (1, b"first\n")
    assert "was cut" in ended.err


@pytest.mark.parametrize("flags", [["--log"], ["--log", "--follow"]])
def test_a_log_that_breaks_goes_on_where_it_was(knit, api, flags):
    """Nothing is shown twice, nothing left out, wherever the cuts are."""
    run, _ = api.add_run({}, {}, log=True)
    whole = b"first\nsecond\nthird\n"
    api.write_log(run, whole)

    def broken(upto):
        def answer(request):
            offset = int(request.url.params.get("offset", "0"))
            return broken_after(whole[offset : max(offset, 4)], whole[max(offset, 4) : upto])(
                request
            )

        return answer

    cuts = [broken(upto) for upto in (5, 8, 8, 13, 13)]
    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = cuts
    ended = knit("run", "show", run.run_id, *flags)
    assert (ended.code, ended.out) == (0, whole)
    assert cuts == []


@pytest.mark.parametrize("flags", [["--log"], ["--log", "--follow"]])
def test_a_log_that_became_another_one_is_not_mixed(knit, api, flags):
    run, _ = api.add_run({}, {}, log=True)
    api.write_log(run, b"new\n")
    said = b"what the first execution said\n"
    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [broken_after(said)]
    ended = knit("run", "show", run.run_id, *flags)
    assert (ended.code, ended.out) == (1, said)
    assert "retried" in ended.err


@pytest.mark.parametrize("flags", [["--log"], ["--log", "--follow"]])
@pytest.mark.parametrize("status", ["running", "done"])
def test_a_log_that_is_another_and_longer_one_is_not_mixed(knit, api, flags, status):
    """How long it is tells nothing: each generation has its own Data."""
    run, _ = api.add_run({}, {}, status=status, log=True)
    api.write_log(run, b"the log of the second generation\n")

    def first(request):
        answer = broken_after(b"first\n")(request)
        answer.headers["Log-Knit-Id"] = "data-of-the-first"
        return answer

    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [first]
    ended = knit("run", "show", run.run_id, *flags)
    assert (ended.code, ended.out) == (1, b"first\n")
    assert "retried" in ended.err


@pytest.mark.patient
def test_a_silent_run_is_followed_for_as_long_as_it_goes_on(knit, api):
    """However often a proxy takes its silence for an idle connection; and without a word of it."""
    run, _ = api.add_run({}, {}, status="running", log=True)
    api.write_log(run, b"begun\nended\n")
    idle_cuts = 50

    def silent(request):
        offset = int(request.url.params.get("offset", "0"))
        return broken_after(b"begun\n"[offset:])(request)

    def last(request):
        api.end(run)
        return silent(request)

    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [silent] * idle_cuts + [last]
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out, ended.err) == (0, b"begun\nended\n", "")
    assert len(knit.slept) == idle_cuts
    assert 2.5 <= max(knit.slept) <= 5.0


def test_a_log_that_ends_before_its_run_does_is_followed_on(knit, api):
    """An API that is restarted, or a proxy before it, may end the answer in faultless order."""
    run, _ = api.add_run({}, {}, status="running", log=True)
    api.write_log(run, b"begun\nended\n")

    def ended_in_order(_request):
        return httpx.Response(200, content=iter([b"begun\n"]))

    def then_done(request):
        api.end(run)
        return error(503, "the API is starting")

    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [ended_in_order, then_done]
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out) == (0, b"begun\nended\n")


def test_following_outlives_an_api_that_is_away_for_a_moment(knit, api):
    run, _ = api.add_run({}, {}, status="running", log=True)
    api.write_log(run, b"begun\nended\n")

    def unreachable(_request):
        raise httpx.ConnectError("refused")

    def back(request):
        api.end(run)
        return api.forward(request)

    bad_gateway = error(502, "nobody there")
    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [broken_after(b"begun\n")]
    away = [unreachable] * 4 + [bad_gateway]
    api.interrupt[("GET", f"/runs/{run.run_id}")] = [*away, back]
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out) == (0, b"begun\nended\n")
    assert "does not answer" in ended.err


def test_an_api_that_stays_away_ends_the_following(knit, api):
    run, _ = api.add_run({}, {}, status="running", log=True)

    def unreachable(_request):
        raise httpx.ConnectError("refused")

    api.interrupt[("GET", f"/runs/{run.run_id}/log")] = [broken_after(b"begun\n")]
    api.interrupt[("GET", f"/runs/{run.run_id}")] = [unreachable] * 100
    ended = knit("run", "show", run.run_id, "--log", "--follow")
    assert (ended.code, ended.out) == (1, b"begun\n")
    assert "does not answer" in ended.err


def test_a_log_whose_end_nothing_proves_is_shown_and_fails(knit, api):
    """A proxy that speaks HTTP/1.0 to us leaves out what says where it ends."""

    def bare(_request):
        answer = httpx.Response(200, content=iter([b"all of it?\n"]))
        del answer.headers["Transfer-Encoding"]
        return answer

    api.interrupt[("GET", "/runs/r/log")] = [bare]
    ended = knit("run", "show", "r", "--log")
    assert (ended.code, ended.out) == (1, b"all of it?\n")
    assert "may be incomplete" in ended.err
    assert "HTTP/1.1" in ended.err


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


# ------------------------------------------------------------ retry and rm


def test_retry_says_so_on_stderr_only(knit, api):
    run, _ = api.add_run({}, {})
    ended = knit("run", "retry", run.run_id)
    assert (ended.code, ended.out) == (0, b"")
    assert "will be retried" in ended.err
    assert api.asked() == [f"PUT /runs/{run.run_id}/retry"]


def test_rm_says_so_on_stderr_only_and_only_once(knit, api):
    run, _ = api.add_run({}, {})
    ended = knit("run", "rm", run.run_id)
    assert (ended.code, ended.out, ended.err) == (0, b"", f"knit: Run {run.run_id} was deleted\n")
    assert api.runs == {}
    assert knit("run", "rm", run.run_id).code == 1


def test_rm_whose_answer_was_lost_finds_the_run_gone(knit, api):
    """Gone is what was asked for, whichever attempt did it."""
    run, _ = api.add_run({}, {})

    def lost(_request):
        del api.runs[run.run_id]
        raise httpx.ReadError("reset")

    api.interrupt[("DELETE", f"/runs/{run.run_id}")] = [lost]
    assert knit("run", "rm", run.run_id).code == 0


@pytest.mark.parametrize("verb", ["retry", "rm"])
def test_a_run_in_use_is_refused_with_the_way_out(knit, api, verb):
    method, path = {"retry": ("PUT", "/runs/r/retry"), "rm": ("DELETE", "/runs/r")}[verb]
    api.interrupt[(method, path)] = [error(409, "output of the run is in use", "delete r2", "r2")]
    ended = knit("run", verb, "r")
    assert ended.code == 1
    assert "reason: output of the run is in use\nhint: delete r2\nsee: r2\n" in ended.err


# ------------------------------------------------------------ switches


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["--fail", "true"], "abort"),
        (["-x", "ON"], "abort"),
        (["--fail=1"], "abort"),
        (["-x=yes"], "abort"),
        (["--fail", "false"], "tearoff"),
        (["--fail=no"], "tearoff"),
        (["-x", "0"], "tearoff"),
    ],
)
def test_a_switch_may_be_followed_by_yes_or_no(knit, api, words, how):
    run, _ = api.add_run({}, {}, status="running")
    for arguments in ([*words, run.run_id], [run.run_id, *words]):
        assert knit("run", "stop", *arguments).code == 0
        assert api.asked()[-1] == f"PUT /runs/{run.run_id}/{how}"


def test_a_switch_leaves_any_other_word_alone(knit, api):
    run, _ = api.add_run({}, {}, status="running")
    assert knit("run", "stop", "--fail", run.run_id).code == 0
    assert knit("run", "stop", "--fail=perhaps", run.run_id).code == 2


# ------------------------------------------------------------ history


def history(*statuses):
    pairs = zip([None, *statuses], statuses, strict=False)
    return [
        RunEvent(
            at=START,
            generation=1,
            from_status=before,
            to_status=after,
            cause=f"because [of] {after}",
            exit=Exit(code=1, message="Error") if after == "failed" else None,
        )
        for before, after in pairs
    ]


def test_the_history_is_json_when_piped(knit, api):
    run, _ = api.add_run({}, {}, status="ready")
    found = knit("run", "show", "--events", run.run_id).json
    assert [one["to"] for one in found] == ["waiting", "ready"]
    assert found[1]["from"] == "waiting"


def test_log_history_and_timing_are_three_things(knit, api):
    assert knit("run", "show", "--events", "--log", "r").code == 2
    assert knit("run", "show", "--timing", "--events", "r").code == 2
    assert api.requests == []


def test_the_timing_is_json_when_piped(knit, api):
    run, _ = api.add_run({}, {}, status="done")
    found = knit("run", "show", "--timing", run.run_id).json
    assert found["status"] == "done"
    assert found["milliseconds"] == sum(one["milliseconds"] for one in found["phases"])


def test_on_a_terminal_the_timing_is_a_table_with_bars(capsys):
    phases = [
        PhaseTime(phase="queue", milliseconds=12),
        PhaseTime(phase="container", milliseconds=1200),
    ]
    print_timing(RunTiming(generation=1, status="done", milliseconds=1212, phases=phases))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["phase", "ms"]
    assert lines[1] == ["queue", "12"]
    assert lines[2] == ["container", "1,200", "█" * 30]
    assert lines[3] == ["total", "1,212", "done"]


def test_on_a_terminal_the_history_is_a_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_history(history("waiting", "failed"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["when", "change", "why", "by", "exit"]
    assert lines[2].split()[1:] == [
        "waiting",
        "→",
        "failed",
        "because",
        "[of]",
        "failed",
        "1:",
        "Error",
    ]


def test_remarks_tell_why_it_waits_what_it_used_and_how_it_went(api):
    run, _ = api.add_run({}, {}, status="waiting")
    told = run.model_copy(
        update={
            "waiting": Waiting(place=3, reason="2 Runs are before it"),
            "used": Used(resources={"memory": "1Gi", "cpu": "1"}, image_digest="sha256:ab"),
            "notes": ["output /out: 1 socket is not kept: s"],
        }
    )
    lines = remarks(told, history(*["waiting", "ready"] * 4))
    assert lines[:3] == [
        "waiting: 2 Runs are before it",
        "used: cpu 1, memory 1Gi, image sha256:ab",
        "output /out: 1 socket is not kept: s",
    ]
    assert "knit run show --events" in lines[3]
    assert len(lines) == 4 + 5
    assert remarks(api.add_run({}, {})[0], []) == []


def test_remarks_and_history_tell_with_what_a_run_was_made(api, capsys, monkeypatch):
    """The history of earlier launches too, of which the Run itself no longer tells."""
    monkeypatch.setenv("COLUMNS", "200")
    used = Used(
        resources={},
        pod=Pod(labels={"team": "x"}, tolerations=[{"key": "gpu"}, {"key": "spot"}], queue="q"),
        volumes={"/out": MadeVolume(storage_class="fast", size="5Gi")},
    )
    pod = "pod made with labels team=x, tolerations key=gpu; key=spot, queue q"
    volume = "volume of /out made with storage_class fast, size 5Gi"
    run, _ = api.add_run({}, {})
    assert remarks(run.model_copy(update={"used": used}), []) == [pod, volume]
    (event,) = history("starting")
    print_history([event.model_copy(update={"used": used})])
    assert f"{event.cause}; {pod}; {volume}" in capsys.readouterr().out


def test_nothing_of_a_history_is_cut_off(capsys, monkeypatch):
    """A terminal is narrow, and the URL of a hook long."""
    monkeypatch.setenv("COLUMNS", "80")
    cause = f"http://hooks.example/{'x' * 100}/end"
    (event,) = history("waiting")
    print_history([event.model_copy(update={"cause": cause, "actor": "ada"})])
    out = capsys.readouterr().out
    assert format_instant(START.astimezone()) in out
    assert "…" not in out
    assert out.count("x") == 1 + 100 + 1  # that of `example`, and that of the heading `exit`
    assert "/end" in out


def test_the_history_tells_who_made_a_change_unless_it_was_knit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    made = [
        one.model_copy(update={"actor": actor})
        for one, actor in zip(history("waiting", "aborting"), ("knit", "ada"), strict=True)
    ]
    print_history(made)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert ["ada" in row for row in rows] == [False, True]
    assert not any("knit" in row for row in rows)


def test_remarks_tell_which_hook_it_waits_for(api):
    run, _ = api.add_run({}, {}, status="ready")
    url = "https://policy.example/images"
    hook = HookWait(delivery="d1", url=url, to_status="starting", attempts=3, next_at=START)
    waits = Waiting(
        reason=f"the hook {url} has not agreed to → starting: answered 503 busy",
        kind="hook",
        since=START,
        outlook="the hook is asked again until it agrees",
        hook=hook,
    )
    when = format_instant(START.astimezone())
    event = history("waiting", "ready")[1].model_copy(update={"actor": "ada"})
    assert remarks(run.model_copy(update={"waiting": waits}), [event]) == [
        f"ready: the hook {url} has not agreed to → starting: answered 503 busy; since {when}; "
        "the hook is asked again until it agrees",
        f"before → starting: asked 3 times, the next try is at {when}",
        "go on without it: knit hook skip d1 --reason …",
        f"{when} waiting → ready because [of] ready by ada",
    ]
    asked = waits.model_copy(
        update={"hook": hook.model_copy(update={"attempts": 1, "next_at": None})}
    )
    assert remarks(run.model_copy(update={"waiting": asked}), [])[1] == (
        "before → starting: asked 1 time, it is asked now"
    )


def test_remarks_tell_why_it_has_not_started_and_what_becomes_of_it(api):
    run, _ = api.add_run({}, {}, status="starting")
    stuck = Waiting(
        reason="connection refused",
        kind="transient",
        code="RegistryUnreachable",
        since=START,
        until=START,
        outlook="tried again; the Run fails if it lasts",
    )
    when = format_instant(START.astimezone())
    assert remarks(run.model_copy(update={"waiting": stuck}), history("starting")) == [
        f"starting: [RegistryUnreachable] connection refused; since {when}; "
        f"tried again; the Run fails if it lasts; given up at {when}",
        f"{when} starting because [of] starting",
    ]


def test_a_reason_to_stay_is_shown_as_the_status_it_stays_in(capsys):
    stays = history("starting")[0].model_copy(update={"from_status": "starting"})
    print_history([stays])
    assert capsys.readouterr().out.splitlines()[1].split()[1:3] == ["starting", "because"]


def test_a_run_says_when_the_digest_that_ran_is_not_the_pinned_one(api):
    run, _ = api.add_run({}, {})
    plan = run.plan.model_copy(update={"image": "a/b:1@sha256:ab"})
    for ran, lines in (("sha256:ab", 1), ("other/b@sha256:ab", 1), ("sha256:cd", 2)):
        used = Used(resources={}, image_digest=ran)
        told = remarks(run.model_copy(update={"plan": plan, "used": used}), [])
        assert told[0] == f"used: image {ran}"
        assert len(told) == lines
    assert told[1].startswith("the Plan pins sha256:ab, but another digest ran")
