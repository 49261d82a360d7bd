"""Completion on the command line: what is offered, and that it never disturbs."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import pytest

from knit_cli.accounts.credentials import CredentialsFile, Login
from knit_cli.shell.arguments import join_bash_words
from knit_workflows.domain.hooks import HookPhase, Hooks, Transition
from knit_workflows.domain.runs.run import RunStatus
from tests.cli.real_api import API_ROOT, at_once, error


@pytest.fixture
def complete(knit, monkeypatch):
    """Gives what is offered for the last of the words."""

    def offered(*words, prefix=""):
        # Typer looks at the environment of the process itself.
        monkeypatch.setenv("_KNIT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["knit", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        knit.variables["KNIT_COMPLETE_PREFIX"] = prefix
        ended = knit()
        assert (ended.code, ended.err) == (0, "")
        return ended.out.decode().split()

    return offered


def test_names_of_commands(complete):
    assert complete("ru") == ["run"]
    assert complete("run", "re") == ["retry"]


def test_ids_of_data_and_runs(complete, knit, api):
    data = api.add_data("type:x")
    run, _ = api.add_run({}, {})
    assert complete("data", "pull", data.knit_id[:20]) == [data.knit_id]
    assert run.run_id in complete("run", "show", run.run_id[:1])
    assert complete("run", "show", "no") == []
    assert complete("run", "find", "--in-knitid", data.knit_id[:20]) == [data.knit_id]


def test_tags_statuses_and_keys(complete, api):
    api.add_data("type:x", "type:y", "note:z")
    assert complete("data", "find", "--tag", "ty") == ["type:x", "type:y"]
    assert complete("data", "tag", "id", "--remove-key", "t") == ["type"]
    assert complete("run", "find", "-s", "d") == ["deactivated", "done"]


def test_hooks_and_deliveries_that_may_be_skipped(complete, api):
    url = "http://hooks.example/a"
    at_once(api.store.hooks.configure(Hooks(before=(url,), after=(url,))))
    run, _ = api.add_run({}, {}, status="waiting")
    step = Transition(run.run_id, 1, RunStatus.WAITING, RunStatus.READY)
    for phase in HookPhase:
        at_once(api.store.hooks.begin(step, phase, url))
    offered = complete("hook", "skip", "")
    assert offered == [step.delivery_id(HookPhase.BEFORE, url)]
    assert complete("hook", "test", "//ho", prefix="http:") == ["//hooks.example/a"]


def test_what_bash_split_off_is_not_repeated(complete, api):
    """Bash replaces only what is behind the colon."""
    api.add_data("type:x", "type:y", "other:x")
    assert complete("data", "find", "--tag", "", prefix="type:") == ["x", "y"]
    assert complete("data", "find", "--tag", "y", prefix="type:") == ["y"]


def test_the_common_flags_on_the_line_count(complete, knit, api):
    api.add_data("type:x")
    assert complete("data", "find", "--profile", "another", "--tag", "t") == []
    assert complete("data", "find", "--profile", str(knit.cwd), "--tag", "t") == ["type:x"]


def test_the_api_is_asked_once_in_some_seconds(complete, api):
    api.add_data("type:x")
    assert complete("data", "find", "--tag", "t") == ["type:x"]
    asked = len(api.requests)
    assert complete("data", "find", "--tag", "t") == ["type:x"]
    assert len(api.requests) == asked
    assert all(int(one.url.params.get("limit", 0)) <= 100 for one in api.requests)


def test_what_was_cut_off_is_asked_for_again(complete, api):
    """Of 12,000 Runs some are offered, and whoever types on gets those that are meant."""
    runs = [api.add_run({}, {})[0].run_id for _ in range(400)]
    assert complete("run", "show", "") == runs[:-101:-1]
    assert runs[0] in complete("run", "show", runs[0][:2])
    asked = len(api.requests)
    assert complete("run", "show", runs[0]) == [runs[0]]  # of what is remembered
    assert len(api.requests) == asked


@pytest.mark.parametrize("trouble", ["away", "broken", "no profile", "no room to remember"])
def test_nothing_is_offered_and_nothing_said_when_something_is_wrong(complete, knit, api, trouble):
    if trouble == "no profile":
        knit.store.unlink()
    elif trouble == "no room to remember":
        (knit.home / ".cache").write_text("no folder")
    else:
        answer = httpx.Response(500, text="oops") if trouble == "broken" else _refuse
        api.interrupt[("GET", "/completions")] = [answer] * 3
    assert complete("data", "find", "--tag", "t") == []


def _refuse(_request):
    raise httpx.ConnectError("refused")


def test_all_statuses_a_run_can_be_found_by(complete):
    assert set(complete("run", "find", "-s", "")) == set(RunStatus) - {RunStatus.INVALIDATED}


@pytest.mark.parametrize(
    ("words", "joined", "split_off"),
    [
        ("knit data find", "knit data find", ""),
        ("knit find --tag type : da", "knit find --tag da", "type:"),
        ("knit find --tag a : b -t c", "knit find --tag a:b -t c", ""),
        ("knit find --tag a : b : c", "knit find --tag c", "a:b:"),
        ("knit find --tag type:da", "knit find --tag type:da", ""),
    ],
)
def test_words_that_bash_split_are_joined(words, joined, split_off):
    given = words.split()
    assert join_bash_words(given, len(given) - 1) == (joined.split(), split_off)


def test_behind_a_colon_everything_is_still_open():
    words = ["knit", "find", "--tag", "type", ":"]
    assert join_bash_words(words, 4) == (["knit", "find", "--tag", ""], "type:")


@pytest.mark.patient
def test_the_real_program_in_a_real_bash(tmp_path, api):
    """The script that `--show-completion` prints, as bash runs it."""
    (tmp_path / "knit").write_text(f'#!/bin/sh\nexec {sys.executable} -m knit_cli "$@"\n')
    (tmp_path / "knit").chmod(0o755)
    script = """
    eval "$(knit --show-completion)"
    COMP_WORDS=(knit run find --status c); COMP_CWORD=4
    _knit_completion knit
    echo "${COMPREPLY[@]}"
    """
    ended = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("completing\n", "")


def test_ids_of_tokens_that_can_be_revoked(complete, knit, api):
    for name in ("one", "two"):
        assert knit("admin", "token", "create", "--name", name, "--role", "viewer").code == 0
    two, one = knit("admin", "token", "list").json
    knit("admin", "token", "revoke", one["tokenId"])
    assert complete("admin", "token", "revoke", "") == [two["tokenId"]]
    assert complete("admin", "to") == ["token"]
    assert complete("admin", "token", "re") == ["revoke"]


def test_completion_sends_the_token(complete, knit, api):
    api.add_data("type:x")
    knit.variables["KNIT_TOKEN"] = "knit_secret"
    assert complete("data", "find", "--tag", "t") == ["type:x"]
    assert api.requests[-1].headers["Authorization"] == "Bearer knit_secret"


def test_completion_uses_a_login_but_never_renews_it(complete, knit, api):
    """It is given up after a second, and the answer would be the only copy of the next one."""
    api.add_data("type:x")
    login = Login(
        "https://login.test", "c", "id_token", "a.b.c", 0.0, "r", "https://login.test/t", None
    )
    CredentialsFile(knit.home / ".knit" / "credentials").put(API_ROOT, login)
    assert complete("data", "find", "--tag", "t") == ["type:x"]
    assert api.requests[-1].headers["Authorization"] == "Bearer a.b.c"
    api.interrupt[("GET", "/completions")] = [error(401, "expired")]
    assert complete("data", "find", "--tag", "no") == []
    assert {one.url.host for one in api.requests} == {"knit.test"}


def test_a_tag_is_no_command_in_zsh(knit, api, monkeypatch, tmp_path):
    """zsh evaluates what is between the brackets; bash does so alike, and is there."""
    api.add_data("x:plain", "x:a b$HOME`id`\"'", "x:\\$(touch evil)", "y:ends\\")
    shell = "complete_zsh"
    monkeypatch.setenv("_KNIT_COMPLETE", shell)
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "knit data pull ")
    knit.variables["_KNIT_COMPLETE"] = shell
    offered = []
    for words in ("knit data pull ", "knit data find --tag "):
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        said = knit().out.decode()
        body = said.partition("((")[2].rpartition("))")[0]
        run = ["bash", "-c", 'eval ws="( $1 )"; printf "%s\\n" "${ws[@]}"', "bash", body]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        offered += done.stdout.splitlines()
    assert list(tmp_path.glob("evil")) == []
    assert "x\\:plain" in offered
    assert not any("touch" in one for one in offered if one.startswith("x"))
