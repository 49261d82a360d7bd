"""The real program on odd machines: whatever is missing there, it says so in words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from knit_cli.config.profile import Profile, save_profile
from knit_cli.os_failures import explain
from tests.processes import bare_environment

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def shell(tmp_path):
    """Runs a line of shell in a folder of its own, where $knit is knit with a profile."""
    home = tmp_path / "home"
    home.mkdir()
    project = tmp_path / "project"
    project.mkdir()
    save_profile(Profile("http://127.0.0.1:1/api"), store=home / ".knit/profile", name="p")
    environment = bare_environment(HOME=str(home), knit=f"{sys.executable} -m knit_cli --profile p")

    def run(line, **variables):
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=project,
            env={k: v for k, v in {**environment, **variables}.items() if v is not None},
            capture_output=True,
            check=False,
        )
        err = ended.stderr.decode()
        assert "because of a bug" not in err and "Traceback" not in err, err
        return ended.returncode, ended.stdout.decode(), err

    run.home, run.project = home, project
    return run


# ------------------------------------------------------------ standard streams


CLOSED, FULL = (">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")


@pytest.mark.parametrize(
    ("command", "out", "reason"),
    [
        ("version", *FULL),
        pytest.param("version", *CLOSED, marks=pytest.mark.patient),
        *(
            pytest.param(command, *out, marks=pytest.mark.patient)
            for command in ("plan template --scratch", "--help")
            for out in (CLOSED, FULL)
        ),
    ],
)
@pytest.mark.patient
def test_a_result_that_cannot_be_written_is_an_error(shell, command, out, reason):
    code, _, err = shell(f"$knit {command} {out}")
    assert code == 1
    assert reason in err and "hint: " in err


@pytest.mark.patient
@pytest.mark.parametrize("err", ["2>&-", "2>/dev/full"])
def test_talk_that_nobody_hears_is_no_trouble(shell, err):
    assert shell(f"$knit version {err}")[0] == 0
    assert shell(f"$knit plan validate nowhere {err}") == (1, "", "")
    shell.project.joinpath("p").write_text("apiRoot: http://127.0.0.1:1/api")
    assert shell(f"$knit init p {err}") == (0, "", "")


@pytest.mark.patient
def test_no_stdin_is_an_error_where_it_is_read(shell):
    code, out, err = shell("$knit plan template <&-")
    assert (code, out) == (1, "")
    assert "cannot read stdin\nreason: Bad file descriptor" in err
    assert shell("$knit version <&-")[0] == 0


@pytest.mark.patient
def test_none_of_the_three_is_there(shell):
    assert shell("$knit plan template <&- >&- 2>&-") == (1, "", "")


@pytest.mark.patient
def test_no_file_gets_the_number_of_stdout(shell):
    """What goes to stdout would else go into the next file that is opened, here the profile's."""
    shell.project.joinpath("p").write_text("apiRoot: http://127.0.0.1:1/api")
    assert shell("$knit init p >&- 2>&-")[0] == 0
    assert (shell.project / ".knitprofile").read_text() == "p"


# ------------------------------------------------------------ names


@pytest.mark.patient
def test_a_folder_whose_name_is_not_utf8(shell):
    folder = shell.project / NOT_UTF8
    folder.mkdir()
    code, out, err = shell("$knit data push --name caf*")
    assert (code, out) == (1, "")
    assert err == (
        "error: caf\\xe9 is not UTF-8\n"
        "reason: ids, tags and everything else that knit stores is text in UTF-8\n"
        "hint: leave out --name, and choose a name yourself: --tag name:NAME\n"
    )


@pytest.mark.patient
def test_a_file_whose_name_has_a_line_end(shell):
    (shell.project / "a\nb").mkdir()
    code, _, err = shell("$knit data push --name a*; $knit plan apply $'x\\ny'")
    assert code == 1
    assert "127.0.0.1:1" in err and "x\n    y" in err


@pytest.mark.parametrize(
    "command",
    [
        "data find --tag {}:x",
        "data tag ID --add x:{}",
        "data tag ID --remove-key {}",
        "data push . --tag {}:x",
        "data lineage {}",
        "run show {}",
        "run find --in-knitid {}",
        "plan show {}",
        "plan find --image {}",
        "plan annotate ID --add {}=x",
        "plan resource ID --set cpu={}",
        "plan serviceaccount ID --set {}",
        "plan apply {}",
        "plan template -i {}",
        "data pull {}",
        "init {}",
        "{}",
        "--profile {} run find",
        "--profile-store {} run find",
    ],
)
def test_arguments_that_are_not_utf8(knit, command):
    ended = knit(*(word.format(NOT_UTF8) for word in command.split()))
    assert (ended.code in (1, 2), ended.out) == (True, b"")
    assert "error" in ended.err.lower() and "because of a bug" not in ended.err


@pytest.mark.patient
def test_a_project_in_a_folder_whose_name_is_not_utf8(shell):
    """It has a profile of that name, which is found again from below."""
    folder = shell.project / NOT_UTF8 / "below"
    folder.mkdir(parents=True)
    (folder.parent / "p").write_text("apiRoot: http://127.0.0.1:1/api")
    knit = f"{sys.executable} -m knit_cli"
    code, _, err = shell(f"cd caf* && {knit} init p && cd below && {knit} run find")
    assert code == 1
    assert f"profile {shell.project}/caf\\xe9)" in err
    assert "127.0.0.1:1/api does not answer" in err


# ------------------------------------------------------------ the environment


@pytest.mark.patient
@pytest.mark.parametrize(
    "variables",
    [
        # Several at once, as they have nothing to do with each other: each costs a process.
        {"TERM": "dumb", "COLUMNS": "1", "LC_ALL": "C", "TZ": "Nowhere/Nonsense"},
        {"TERM": "", "COLUMNS": "0", "LC_ALL": "xx_YY.nonsense", "TMPDIR": "/nowhere"},
        {"NO_COLOR": "1", "COLUMNS": "none", "PATH": f"/nowhere::\x01:{os.environ['PATH']}"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_odd_variables(shell, variables):
    shell.project.joinpath("knitenv").write_text('tag: ["naïve:日本"]')
    code, out, err = shell(f"{sys.executable} -m knit_cli plan template --scratch", **variables)
    assert (code, "error" in err) == (0, False)  # bash itself may warn of a locale
    assert "naïve:日本" in out


@pytest.mark.patient
@pytest.mark.parametrize("home", [None, "", "/nowhere", "/dev/null", "relative"])
def test_a_home_that_is_none(shell, home):
    knit = f"{sys.executable} -m knit_cli"
    code, out, err = shell(f"{knit} --profile not-there run find", HOME=home)
    assert (code, out) == (1, "")
    assert "profile" in err and "hint: " in err


@pytest.mark.patient
def test_a_home_that_cannot_be_written(shell):
    shell.project.joinpath("p").write_text("apiRoot: http://127.0.0.1:1/api")
    code, _, err = shell(f"{sys.executable} -m knit_cli init p", HOME="/dev/null")
    assert code == 1
    assert err == (
        "error: cannot write /dev/null/.knit/profile\n"
        "reason: Not a directory: /dev/null/.knit\n"
        "hint: a part of the path is a file, where a folder is needed: check the path "
        "(--profile-store)\n"
    )


@pytest.mark.patient
@pytest.mark.parametrize("limit", ["-n 8", "-f 0"])
def test_low_limits(shell, limit):
    code, out, err = shell(f"ulimit {limit}; $knit run find")
    assert (code, out) == (1, "")
    assert "error: " in err


@pytest.mark.patient
def test_a_mask_that_takes_all_rights(shell):
    shell.project.joinpath("p").write_text("apiRoot: http://127.0.0.1:1/api")
    code, _, err = shell(f"umask 777; {sys.executable} -m knit_cli --profile q init p")
    assert (code, err[:6]) in ((0, "knit: "), (1, "error:"))


# ------------------------------------------------------------ files of the user's


@pytest.mark.parametrize(
    "text",
    [
        "tag: [2026-99-99]",
        pytest.param("[" * 1500, marks=pytest.mark.patient),  # the parser takes a second
        "{{}: 1}",
        "tag: [\x01]",
        "!!python/object:os.x {}",
    ],
)
def test_yaml_that_makes_the_parser_stumble(knit, text):
    """Not all that the parser raises is an error of YAML to it."""
    for name in ("knitenv", "plan.yaml", "profile"):
        knit.write(name, text)
    for command in ("plan template --scratch", "plan validate plan.yaml", "init profile"):
        ended = knit(*command.split())
        assert (ended.code, ended.out) == (1, b"")
        assert "hint: " in ended.err and "because of a bug" not in ended.err


# ------------------------------------------------------------ what Python raises then


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(24, "Too many open files"), "ulimit -n"),
        (OSError(28, "No space left on device", "/x"), "make room"),
        (OSError("odd"), "odd"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (ModuleNotFoundError("No module named 'x'"), "reinstall knit"),
        (UnicodeEncodeError("utf-8", NOT_UTF8, 3, 4, "surrogates not allowed"), "not UTF-8"),
    ],
)
def test_trouble_with_the_machine_is_no_bug(error, said):
    told = explain(error)
    assert said in f"{told.summary} {told.reason} {told.advice}"
    assert told.advice


@pytest.mark.parametrize("error", [RuntimeError("x"), ValueError("x"), KeyError("x")])
def test_a_bug_is_not_blamed_on_the_machine(error):
    assert explain(error) is None
