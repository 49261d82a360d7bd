"""What `knit dev` says when there is nothing to show, or when it cannot do what is asked."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from knit_cli.dev import __main__ as own_process
from knit_cli.dev import app, prerequisites, services, shutdown, startup, supervisor, view
from knit_cli.dev.dev_folder import DevFolder, DevState, Ports, ProcessIdentity
from knit_cli.errors import CliError, render
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from knit_workflows.embedded import EmbeddedRefused

PORTS = Ports(api=1, temporal=2, web_ui=3)


@pytest.fixture
def folder(tmp_path: Path) -> DevFolder:
    folder = DevFolder(tmp_path / ".knit" / "dev")
    folder.create()
    return folder


@pytest.fixture
def knit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `knit dev …` in the folder and gives what it said, after its exit code."""

    def call(*arguments: str, **variables: str) -> str:
        here = Surroundings(tmp_path, home=tmp_path, variables=variables)
        code = run(["dev", *arguments], here)
        out, err = capsys.readouterr()
        return f"{code}\n{out}{err}"

    return call


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)


def test_without_a_stack(monkeypatch: pytest.MonkeyPatch, knit: Callable[..., str]) -> None:
    assert knit("down") == "0\nknit: knit is not running here\n"
    on_a_terminal(monkeypatch)
    assert knit("status") == "1\nknit: knit is not running here; start it with `knit dev up`\n"


def test_after_a_stack(
    monkeypatch: pytest.MonkeyPatch, knit: Callable[..., str], folder: DevFolder
) -> None:
    assert "knit is not running here" in knit("down")
    monkeypatch.setattr(app, "stop_leftovers", lambda _: True)
    assert f"knit is down; its state is kept in {folder.root}\n" in knit("down")
    on_a_terminal(monkeypatch)
    monkeypatch.setattr(app, "leftovers", lambda _: [1])
    assert "its supervisor was killed, but other processes run" in knit("status")


@pytest.mark.patient
def test_a_stack_that_is_just_started_is_not_ended(
    knit: Callable[..., str], folder: DevFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder.locked():
        said = knit("down")
    assert "error: knit is being restarted\n" in said
    assert f"reason: another command holds {folder.root}\n" in said
    assert "hint: check it with `knit dev status`\n" in said


def test_a_stack_that_runs_is_shown(
    monkeypatch: pytest.MonkeyPatch, knit: Callable[..., str], tmp_path: Path
) -> None:
    monkeypatch.setattr(app, "wait_until_settled", lambda _: DevState(ports=PORTS))
    said = knit("up")
    assert "knit: knit is already running\n" in said
    assert "Temporal Web UI" in said
    assert (tmp_path / ".knitprofile").exists()


def test_what_was_ignored_does_not_end_the_stack(
    folder: DevFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGHUP is under nohup: the terminal may go."""
    seen: list[bool] = []

    class Told:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self, until: Callable[[], bool]) -> None:
            for number in (signal.SIGHUP, signal.SIGTERM):
                signal.raise_signal(number)
                seen.append(until())

    monkeypatch.setattr(startup, "Supervisor", Told)
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert startup.supervise(folder, {})
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [False, True]


@pytest.mark.patient
def test_a_folder_that_another_start_holds(
    monkeypatch: pytest.MonkeyPatch, knit: Callable[..., str]
) -> None:
    monkeypatch.setattr(app, "supervise", lambda *_, **__: False)
    said = knit("up")
    assert "error: another `knit dev up` is using this state folder\n" in said
    assert "choose another --state" in said


def test_a_stack_of_somebody_else_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        def terminate(self) -> None:
            raise psutil.AccessDenied

    monkeypatch.setattr(ProcessIdentity, "process", lambda _: Theirs())
    with pytest.raises(CliError) as caught:
        shutdown.stop_supervisor(ProcessIdentity(7, "b"))
    assert render(caught.value) == (
        "error: this stack belongs to another user\n"
        "reason: there is no permission to stop its process 7\n"
        "hint: stop it as the user who started it"
    )


def test_a_supervisor_whose_end_nobody_heeds_has_ended() -> None:
    """In a container, for one, where the first process fetches no exit codes."""
    with subprocess.Popen(["sleep", "100"]) as process:
        began = time.monotonic()
        shutdown.stop_supervisor(ProcessIdentity.of(process.pid))
        assert time.monotonic() - began < shutdown.STACK_STOP_TIMEOUT / 2


def test_a_supervisor_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def terminate(self) -> None: ...
        def kill(self) -> None: ...
        def is_running(self) -> bool:
            return True

        def status(self) -> str:
            return psutil.STATUS_DISK_SLEEP

    monkeypatch.setattr(ProcessIdentity, "process", lambda _: Stuck())
    monkeypatch.setattr(shutdown, "STACK_STOP_TIMEOUT", 0)
    monkeypatch.setattr(shutdown, "_KILL_TIMEOUT", 0)
    with pytest.raises(CliError, match="process 7 of this stack does not end"):
        shutdown.stop_supervisor(ProcessIdentity(7, "b"))


def test_a_machine_without_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "find_temporal", lambda: None)
    with pytest.raises(CliError, match="no Temporal command line") as caught:
        prerequisites.require_temporal()
    assert caught.value.advice == prerequisites.ADVICE


@pytest.mark.parametrize(
    ("code", "words", "reason"),
    [
        (-9, "", "its supervisor was killed by signal 9"),
        (1, "Traceback\nKeyError: 'x'", "Traceback\nKeyError: 'x'"),
        (1, json.dumps({"summary": "s", "reason": "r", "advice": "a"}), "r"),
    ],
)
def test_why_a_detached_start_failed(folder: DevFolder, code: int, words: str, reason: str) -> None:
    failure = startup.start_failure(folder, code, io.BytesIO(words.encode()))
    assert failure.reason == reason
    assert failure.advice


def test_a_bad_hooks_file_refuses_the_start(tmp_path: Path, knit: Callable[..., str]) -> None:
    (tmp_path / "hooks.yaml").write_text("lifecycle-hooks:\n  before:\n  - http:///x\n")
    said = knit("up", "--hooks", "hooks.yaml")
    assert said.startswith("1\nerror: the hooks file cannot be used\n")
    assert (
        f"{tmp_path}/hooks.yaml, line 3: lifecycle-hooks.before[0]: http:///x has no host" in said
    )
    assert "correct it; docs/reference/hooks.md describes it" in said
    said = knit("up", "--hooks", "none.yaml")
    assert f"{tmp_path}/none.yaml cannot be read: No such file or directory" in said
    assert not (tmp_path / ".knit").exists()


@pytest.mark.patient
def test_settings_that_are_paths_mean_the_folder_of_the_command(
    tmp_path: Path, knit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the stack's processes; and what the stack needs itself is not replaced."""
    given: dict[str, str] = {}

    def supervise(*_: Any, settings: dict[str, str], **__: Any) -> bool:
        given.update(settings)
        return False

    monkeypatch.setattr(app, "supervise", supervise)
    knit("up", KNIT_HOOKS__SECRETS_FILE="secrets", KNIT_HOOKS__CA_FILE="", KNIT_STORE__FOLDER="x")
    assert given == {
        "KNIT_HOOKS__SECRETS_FILE": f"{tmp_path}/secrets",
        "KNIT_STORE__FOLDER": f"{tmp_path}/x",
    }
    database: Any = SimpleNamespace(
        address=lambda: "url", command=lambda: (), is_ready=None, user=None, group=None,
        before_start=None,
    )  # fmt: skip
    folder = DevFolder(tmp_path / "dev")
    [first, *_] = services.services(folder, PORTS, database, lambda: None, given)
    assert first.environment["KNIT_HOOKS__SECRETS_FILE"] == f"{tmp_path}/secrets"
    assert first.environment["KNIT_STORE__FOLDER"] == str(folder.postgres)


def test_a_stack_that_runs_does_not_take_another_hooks_file(
    folder: DevFolder, tmp_path: Path, knit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hooks.yaml").write_text("")
    record = DevState(PORTS, ready=True, supervisor=ProcessIdentity.of(os.getpid()))
    monkeypatch.setattr(app, "wait_until_settled", lambda _: record)
    said = knit("up", "--hooks", "hooks.yaml")
    assert said.startswith("0\n")
    assert "--hooks counts only when it starts; use it after `knit dev down`" in said


def test_a_bad_file_of_extra_apis_refuses_the_start(
    tmp_path: Path, knit: Callable[..., str]
) -> None:
    entry = "endpoints: [{path: /api/x, proxy_to: http://h}]"
    (tmp_path / "extra.yaml").write_text(entry)
    said = knit("up", "--extra-apis", "extra.yaml")
    assert said.startswith("1\nerror: the file of extra APIs cannot be used\n")
    assert f"{tmp_path}/extra.yaml: endpoints[0].path: /api/x is taken" in said
    assert "docs/how-to/extra-apis.md" in said
    said = knit("up", "--extra-apis", "none.yaml")
    assert f"{tmp_path}/none.yaml cannot be read: No such file or directory" in said
    assert not (tmp_path / ".knit").exists()


@pytest.mark.parametrize(
    "settings",
    [{}, {"KNIT_HOOKS__FILE": "/etc/hooks.yaml", "KNIT_EXTRA_APIS__CONFIG": "/etc/extra.yaml"}],
)
def test_the_processes_are_told_of_the_files(
    folder: DevFolder, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    """Without one there are no hooks, whatever was in force when the stack ran last."""
    monkeypatch.delenv("KNIT_HOOKS__FILE", raising=False)
    database: Any = SimpleNamespace(
        address=lambda: "url", command=lambda: (), is_ready=None, user=None, group=None,
        before_start=None,
    )  # fmt: skip
    made = services.services(folder, PORTS, database, lambda: None, settings)
    for one in made:
        assert one.environment["KNIT_HOOKS__ALLOW_LOOPBACK"] == "true"
        assert one.environment["KNIT_HOOKS__FILE"] == settings.get("KNIT_HOOKS__FILE", os.devnull)
        extra_apis = settings.get("KNIT_EXTRA_APIS__CONFIG")
        assert one.environment.get("KNIT_EXTRA_APIS__CONFIG") == extra_apis


def test_a_detached_start_that_takes_too_long(folder: DevFolder) -> None:
    with pytest.raises(CliError, match="knit does not start") as caught:
        startup.running_detached(folder, {}, timeout=0)
    assert caught.value.reason == "it takes too long"


def test_the_supervisor_tells_whoever_started_it(
    folder: DevFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def failure(error: Exception) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        return fail

    monkeypatch.setattr(sys, "argv", ["knit", str(folder.root)])
    monkeypatch.setattr(own_process, "supervise", failure(CliError("s", reason="r", advice="a")))
    assert own_process.main() == 1
    assert json.loads(capsys.readouterr().err) == {"summary": "s", "reason": "r", "advice": "a"}
    monkeypatch.setattr(own_process, "supervise", failure(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        own_process.main()
    assert "the supervisor failed" in caplog.text


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), "make room"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/x"), "right"),
        (supervisor.subprocess.CalledProcessError(1, ["initdb"]), "check the free space in"),
        (EmbeddedRefused("it is closed", "chmod o+x /x"), "chmod o+x /x"),
    ],
)
def test_a_database_that_cannot_be_made(
    folder: DevFolder, monkeypatch: pytest.MonkeyPatch, cause: Exception, hint: str
) -> None:
    def fail(_: Any) -> None:
        raise cause

    monkeypatch.setattr(supervisor.EmbeddedPostgres, "prepare", fail)
    one = supervisor.Supervisor(folder, {})
    one.ports = PORTS
    with pytest.raises(CliError, match="PostgreSQL cannot be set up") as caught:
        one._make_children()
    assert hint in str(caught.value.advice)


def test_a_process_that_does_not_start(folder: DevFolder) -> None:
    one = supervisor.Supervisor(folder, {})
    one.ports = PORTS
    dying = SimpleNamespace(name="api", failed_starts=99, last_error="", is_ready=False,
                            process=None, poll=lambda **_: False,
                            service=SimpleNamespace(needs=()))  # fmt: skip
    one.children = [dying]  # type: ignore[list-item]
    with pytest.raises(CliError, match="api does not start") as caught:
        one._start(lambda: False)
    assert caught.value.reason == "it takes too long"
    one.children = []
    console = Console(file=io.StringIO(), width=200)
    console.print(view.live(one, folder))
    assert "Ctrl-C stops it, nothing is lost" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_record_that_cannot_be_written_ends_nothing(
    folder: DevFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DevFolder, "save", fail)
    one = supervisor.Supervisor(folder, {})
    one.ports = PORTS
    one._save()
    assert "the record is outdated" in caplog.text
