"""Extension commands: an executable `knit-NAME` on PATH is `knit NAME`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, wait_until


def extension(knit, name: str, script: str, folder: str = "bin") -> Path:
    path = knit.write(f"{folder}/{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    knit.variables["PATH"] = f"/nowhere:{path.parent}:/bin:/usr/bin"
    return path


SAYS = 'printf "%s\\n" "$@" > said'


def said(knit) -> list[str]:
    return (knit.cwd / "said").read_text().splitlines()


@pytest.mark.parametrize("suffix", ["", ".exe", ".bat", ".cmd", ".com", ".CMD"])
def test_an_executable_on_path_is_a_command(knit, suffix):
    extension(knit, f"knit-hello{suffix}", SAYS)
    assert knit("hello", "you").code == 0
    assert said(knit) == ["you"]


def test_only_one_suffix_is_trimmed(knit):
    extension(knit, "knit-hello.sh.exe", SAYS)
    assert knit("hello").code == 2
    assert knit("hello.sh").code == 0


def test_help_lists_them_after_the_built_in_ones(knit):
    extension(knit, "knit-zebra", SAYS)
    path = extension(knit, "knit-antelope", SAYS)
    lines = knit("--help").out.decode().splitlines()
    [at] = [number for number, line in enumerate(lines) if line.split()[:1] == ["antelope"]]
    assert str(path.parent)[:20] in lines[at] or "Extension" in lines[at]
    assert lines[at + 1].split()[0] == "zebra"
    assert any(line.split()[:1] == ["license"] for line in lines[:at])


@pytest.mark.parametrize(
    "words",
    [
        ["a b", "--flag", "-x", "", "-"],
        ["-x=1", "--y=2", "-vh", "-n", "3", "--version"],
        ["--tag", "a:b", "--tag=c:d", "--no-such", "*", "$HOME"],
    ],
)
def test_arguments_arrive_as_they_were_typed(knit, words):
    extension(knit, "knit-hello", SAYS)
    assert knit("hello", *words).code == 0
    assert said(knit) == words


def test_common_flags_are_knits_wherever_they_stand_before_two_dashes(knit):
    extension(knit, "knit-hello", SAYS)
    line = (
        "--env",
        "e",
        "hello",
        "a",
        "--profile",
        "mine",
        "-b",
        "--quiet",
        "--",
        "--profile",
        "c",
    )
    assert knit(*line).code == 0
    assert said(knit) == ["a", "-b", "--profile", "c"]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_knits_too(knit, flag):
    path = extension(knit, "knit-hello", SAYS)
    ended = knit("hello", "a", flag)
    assert ended.code == 0
    assert str(path) in ended.out.decode().replace("\n", "").replace(" ", "")
    assert not (knit.cwd / "said").exists()
    assert knit("hello", "--", flag).code == 0
    assert said(knit) == [flag]


ENVIRONMENT = 'printf "%s\\n" "$KNIT_PROFILE" "$KNIT_PROFILE_STORE" "$KNIT_ENV" "$MINE" > said'


def test_the_common_flags_are_in_its_environment(knit):
    extension(knit, "knit-hello", ENVIRONMENT)
    knit.variables["MINE"] = "mine"
    assert knit("hello", "--profile", "p", "--profile-store", "s", "--env", "e").code == 0
    assert said(knit) == ["p", str(knit.cwd / "s"), str(knit.cwd / "e"), "mine"]


def test_without_flags_it_learns_what_knit_would_use(knit):
    extension(knit, "knit-hello", ENVIRONMENT)
    knit.write(".knitprofile", "nearest\n")
    assert knit("hello").code == 0
    assert said(knit)[:3] == ["nearest", str(knit.store), str(knit.cwd / "knitenv")]


def test_it_needs_no_profile(bare_knit):
    extension(bare_knit, "knit-hello", ENVIRONMENT)
    assert bare_knit("hello").code == 0
    assert said(bare_knit)[0] == str(bare_knit.cwd)


@pytest.mark.parametrize(("script", "how"), [("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")])
def test_its_failure_is_knits_with_1(knit, script, how):
    extension(knit, "knit-fail", script)
    ended = knit("fail")
    assert ended.code == 1
    assert "knit-fail failed" in ended.err
    assert how in ended.err


def test_a_builtin_command_wins_over_an_extension(knit):
    extension(knit, "knit-version", "exit 7")
    assert knit("version").code == 0


def test_the_first_on_path_wins(knit):
    first = extension(knit, "knit-hello", "echo first > said", folder="one")
    second = extension(knit, "knit-hello", "echo second > said", folder="two")
    knit.variables["PATH"] = f"{first.parent}:{second.parent}"
    assert knit("hello").code == 0
    assert said(knit) == ["first"]


def test_an_empty_entry_of_path_is_this_folder(knit):
    extension(knit, "knit-hello", "echo here > said", folder=".")
    knit.variables["PATH"] = "/nowhere::/bin"
    assert knit("hello").code == 0
    del knit.variables["PATH"]
    assert knit("hello").code == 2, "without PATH nothing is found, not even here"


def test_what_is_not_executable_or_no_file_is_no_command(knit):
    knit.write("bin/knit-plain").chmod(0o644)
    (knit.cwd / "bin" / "knit-folder").mkdir()
    extension(knit, "knit-", SAYS)
    for name in ("plain", "folder", ""):
        assert knit(name).code == 2


@pytest.mark.patient
def test_its_streams_are_knits_own(tmp_path: Path):
    """The real program: what it reads and writes goes through no hands of ours."""
    program = tmp_path / "knit-shout"
    program.write_text("#!/bin/sh\ntr a-z A-Z\necho told >&2\n")
    program.chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-m", "knit_cli", "shout"],
        input="hello",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("HELLO", "told\n")


@pytest.mark.patient
@pytest.mark.parametrize(("then", "code"), [("exit 0", 0), ("trap - INT; kill -INT $$", 1)])
def test_ctrl_c_is_for_the_extension_to_obey_or_not(tmp_path: Path, then: str, code: int):
    """Whoever presses it gets the prompt back when the extension has ended, not before."""
    program = tmp_path / "knit-careful"
    told = f"trap 'sleep 1; echo told >>said; {then}' INT; : >begun; while :; do sleep 0.05; done"
    program.write_text(f"#!/bin/sh\n{told}\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "knit_cli", "careful"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, start_new_session=True
    ) as knit:
        try:
            wait_until((tmp_path / "begun").exists)
            os.killpg(knit.pid, signal.SIGINT)
            assert knit.wait(PATIENCE) == code
            assert (tmp_path / "said").read_text() == "told\n"
        finally:
            if knit.poll() is None:
                os.killpg(knit.pid, signal.SIGKILL)
