"""`knit hook list`, `deliveries`, `skip` and `test`."""

from __future__ import annotations

import os
import pwd
import sys
from datetime import timedelta

import pytest

from knit_cli.views.hook import describe
from knit_workflows.contracts.hook_test import HookTestResult
from knit_workflows.domain.hooks import (
    DeliveryQuery,
    HookAnswer,
    HookPhase,
    Hooks,
    HooksSource,
    Transition,
)
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.wire.hooks.deliveries import HookDelivery
from tests.cli.real_api import START, at_once, error

S = RunStatus
URL, OTHER = "http://hooks.example/a", "http://hooks.example/b"
BUSY = HookAnswer(False, "answered 503 Service Unavailable: busy", timedelta(milliseconds=41), 503)
AGREED = HookAnswer(True, "", timedelta(milliseconds=7), 200)


@pytest.fixture
def call(api):
    """Calls a hook for a new Run; gives the Run's id and that of the delivery."""

    def called(answer=BUSY, url=URL, phase=HookPhase.BEFORE):
        run, _ = api.add_run({}, {}, status="waiting")
        step = Transition(run.run_id, 1, S.WAITING, S.READY)
        hooks = api.store.hooks
        at_once(hooks.begin(step, phase, url))
        at_once(hooks.ended(step, phase, url, answer, attempt=1, next_in=timedelta(seconds=2)))
        return run.run_id, step.delivery_id(phase, url)

    return called


@pytest.fixture
def terminal(knit, monkeypatch):
    """Gives the lines that a command shows on a terminal."""

    def shown(*arguments):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        ended = knit(*arguments)
        assert ended.code == 0, ended.err
        return ended.out.decode().splitlines(), ended.err

    return shown


def test_list_shows_the_hooks_in_their_order(knit, api):
    at_once(api.store.hooks.configure(Hooks(before=(OTHER, URL), after=(URL,))))
    ended = knit("hook", "list")
    assert (ended.json["before"], ended.json["after"]) == ([OTHER, URL], [URL])
    assert ended.err == ""
    source = HooksSource("1@one", "hooks.yaml", "")
    at_once(api.store.hooks.follow(source, "hooks.yaml: line 3: …"))
    ended = knit("hook", "list")
    assert ended.json["problem"] == "hooks.yaml: line 3: …"
    assert "in need of attention: hooks.yaml: line 3" in ended.err


def test_list_shows_workers_that_disagree(knit, api):
    for worker, digest in (("1@one", "ab" * 32), ("2@two", "cd" * 32)):
        source = HooksSource(worker, "/etc/hooks.yaml", digest)
        at_once(api.store.hooks.configure(Hooks(before=(f"http://{digest}.example/",)), source))
        at_once(api.store.hooks.follow(source))
    ended = knit("hook", "list")
    assert [one["worker"] for one in ended.json["followers"]] == ["1@one", "2@two"]
    assert ended.json["source"]["worker"] == "2@two"
    assert "workers follow different hooks files" in ended.err
    assert "that of 2@two" in ended.err


def test_deliveries_are_json_when_piped(knit, call):
    run_id, delivery = call()
    (one,) = knit("hook", "deliveries").json
    assert (one["id"], one["runId"], one["state"]) == (delivery, run_id, "failed")
    assert (one["from"], one["to"], one["status_code"]) == ("waiting", "ready", 503)


def test_the_flags_of_deliveries_are_the_filter(knit, api, call):
    run_id, delivery = call()
    call(AGREED)
    since = "2025-02-01T00:00:00+09:00"
    found = knit("hook", "deliveries", "--run", run_id, "--failed", "--since", since).json
    assert [one["id"] for one in found] == [delivery]
    asked = [one for one in api.store.memory.asked if isinstance(one, DeliveryQuery)]
    assert (asked[-1].run_id, asked[-1].failed) == (run_id, True)
    assert dict(api.requests[-1].url.params) == {
        "run": run_id,
        "failed": "true",
        "since": since,
        "limit": "100",
    }
    assert len(knit("hook", "deliveries").json) == 2


def test_what_is_cut_off_is_told(knit, call):
    for _ in range(3):
        call()
    ended = knit("hook", "deliveries", "--limit", "2")
    assert len(ended.json) == 2
    assert "only the latest 2 are shown" in ended.err
    ended = knit("hook", "deliveries", "--limit", "3")
    assert (len(ended.json), ended.err) == (3, "")


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
def test_a_limit_that_is_none(knit, api, limit):
    assert knit("hook", "deliveries", "--limit", limit).code == 2
    assert api.requests == []


def test_a_run_that_is_unknown_is_refused(knit):
    ended = knit("hook", "deliveries", "--run", "nobody")
    assert ended.code == 1
    assert "there is no Run" in ended.err


def test_on_a_terminal_deliveries_are_lines(terminal, call):
    assert terminal("hook", "deliveries") == ([], "knit: there are none\n")
    run_id, delivery = call()
    (first, second, third), _ = terminal("hook", "deliveries")
    assert first.endswith(f"failed  before waiting → ready of Run {run_id}")
    assert second.startswith(
        f"    {URL}: call 1, 41 ms: answered 503 Service Unavailable: busy; called again at "
    )
    assert third == f"    go on without it: knit hook skip {delivery} --reason …"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"state": "succeeded", "duration_ms": 7, "status_code": 200}, "call 2, 7 ms, 200"),
        ({"state": "calling"}, "call 2"),
        ({"state": "failed", "answer": "no answer\nin 30 s"}, "call 2: no answer in 30 s"),
        (
            {"state": "skipped", "skipped_by": "ada", "skip_reason": "it is down"},
            "skipped by ada: it is down",
        ),
        ({"state": "failed", "phase": "after", "answer": "no"}, "no"),
    ],
)
def test_what_became_of_a_call(more, told):
    usual = {"id": "d", "run_id": "r", "generation": 1, "phase": "before", "url": URL}
    step = {"from_status": "ready", "to_status": "starting", "attempts": 2}
    one = HookDelivery(**usual | step | {"created_at": START, "called_at": START} | more)
    lines = describe(one)
    when = format_instant(START.astimezone())
    assert lines[0] == f"{when}  {one.state}  {one.phase} ready → starting of Run r"
    assert lines[1] == f"    {URL}: {told}"
    can_be_skipped = one.state in ("failed", "calling") and one.phase == "before"
    assert len(lines) == 2 + can_be_skipped


def test_an_answer_cannot_control_the_terminal(terminal, call):
    call(HookAnswer(False, "\x1b[2J\rhello", timedelta(), 500))
    (_, second, _), _ = terminal("hook", "deliveries")
    assert "\x1b" not in second
    assert "hello" in second


def test_skip_keeps_who_and_why(knit, api, call):
    run_id, delivery = call()
    knit.variables["LOGNAME"] = "ada"
    ended = knit("hook", "skip", delivery, "--reason", "it is down")
    assert (ended.code, ended.out) == (0, b"")
    assert f"Run {run_id} goes on to ready without {URL}, as ada says" in ended.err
    assert api.transfers.told == [(run_id, 1)]
    assert api.runs[run_id].events[-1].actor == "ada"
    (one,) = knit("hook", "deliveries").json
    assert (one["state"], one["skipped_by"], one["skip_reason"]) == ("skipped", "ada", "it is down")


def test_whoever_skips_may_say_so(knit, call):
    _, delivery = call()
    assert knit("hook", "skip", delivery, "--by", "Ada L.", "--reason", "x").code == 0
    assert knit("hook", "deliveries").json[0]["skipped_by"] == "Ada L."


def test_without_a_login_in_the_environment_the_system_is_asked(knit, call):
    _, delivery = call()
    assert knit("hook", "skip", delivery, "--reason", "x").code == 0
    expected = pwd.getpwuid(os.getuid()).pw_name
    assert knit("hook", "deliveries").json[0]["skipped_by"] == expected


def test_where_nobody_has_a_name_it_is_the_number_of_the_user(knit, call, monkeypatch):
    """As in many containers."""

    def no_entry(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    _, delivery = call()
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert knit("hook", "skip", delivery, "--reason", "x").code == 0
    assert knit("hook", "deliveries").json[0]["skipped_by"] == f"uid {os.getuid()}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--reason", "a\nb"], "--reason cannot be used"),
        (["--reason", " "], "--reason cannot be used"),
        (["--reason", "x" * 501], "--reason cannot be used"),
        (["--reason", "x", "--by", "a\x1b"], "--by cannot be used"),
        (["--reason", "x", "--by", "y" * 101], "--by cannot be used"),
    ],
    ids=["two lines", "blank", "too long", "escape", "long name"],
)
def test_reasons_and_names_that_are_none(knit, api, flags, words):
    ended = knit("hook", "skip", "d", *flags)
    assert ended.code == 1
    assert words in ended.err
    assert api.requests == []


def test_nobody_is_knit_itself(knit, call):
    _, delivery = call()
    ended = knit("hook", "skip", delivery, "--reason", "x", "--by", "knit")
    assert ended.code == 1
    assert "hint: say who skips the hook" in ended.err


def test_a_skip_needs_a_reason(knit, api):
    assert knit("hook", "skip", "d").code == 2
    assert api.requests == []


def test_what_nothing_waits_for_is_not_skipped(knit, call):
    _, delivery = call(AGREED)
    ended = knit("hook", "skip", delivery, "--reason", "x")
    assert ended.code == 1
    assert "nothing waits for this hook any more" in ended.err
    assert knit("hook", "skip", "no-such", "--reason", "x").code == 1


def test_a_hook_that_agrees(knit, api):
    at_once(api.store.hooks.configure(Hooks(before=(URL,))))
    said = {"url": URL, "succeeded": True, "duration_ms": 31, "status_code": 200}
    assert knit("hook", "test", URL).json == {**said, "answer": "fine", "environment": []}
    assert api.transfers.tested == [(URL, HookPhase.BEFORE)]


def test_a_hook_that_does_not_agree_is_an_error_with_its_answer(knit, api):
    at_once(api.store.hooks.configure(Hooks(after=(URL,))))
    api.transfers.hook_answer = HookTestResult(
        succeeded=False, text="no answer within 30 s", duration=timedelta(seconds=30)
    )
    ended = knit("hook", "test", URL)
    assert ended.code == 1
    assert b'"succeeded": false' in ended.out
    assert "reason: no answer within 30 s" in ended.err


def test_another_url_is_not_tested(knit, api):
    ended = knit("hook", "test", URL)
    assert ended.code == 1
    assert "knit hook list" in ended.err
    assert api.transfers.tested == []


def test_without_a_worker_for_hooks_a_test_says_so(knit, api):
    api.interrupt[("POST", "/hooks/test")] = [
        error(503, "no worker is up that calls hooks", "see that one runs")
    ]
    ended = knit("hook", "test", URL)
    assert ended.code == 1
    assert "no worker is up that calls hooks" in ended.err
    assert knit.slept == []
