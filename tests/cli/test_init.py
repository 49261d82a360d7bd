"""`knit init`, profiles and where they are looked for."""

from __future__ import annotations

import base64
import stat
import subprocess
import sys

import pytest
import yaml

from tests.cli.real_api import API_ROOT

# A CA made for this test alone; its key was thrown away.
CA = """\
-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUb6vVvgRkBhPpBqKXhYVj5FIw5JQwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----
"""


def test_init_keeps_the_profile_and_marks_the_folder(bare_knit, api):
    bare_knit.write("profile.yaml", f"apiRoot: {API_ROOT}/\n")
    ended = bare_knit("init", "profile.yaml")
    assert (ended.code, ended.out) == (0, b"")
    assert yaml.safe_load(bare_knit.store.read_text()) == {
        str(bare_knit.cwd): {"apiRoot": API_ROOT}
    }
    assert (bare_knit.cwd / ".knitprofile").read_text() == str(bare_knit.cwd)
    assert stat.S_IMODE(bare_knit.store.stat().st_mode) == 0o600
    assert stat.S_IMODE(bare_knit.store.parent.stat().st_mode) == 0o700
    assert api.requests == []
    below = bare_knit.cwd / "a" / "b"
    below.mkdir(parents=True)
    assert bare_knit("data", "find", cwd=below).code == 0


def test_init_leaves_other_profiles_as_they_are(bare_knit):
    bare_knit.store.parent.mkdir()
    bare_knit.store.write_text("other: {apiRoot: 'http://x/api', later: [1]}\n")
    bare_knit.store.chmod(0o644)
    bare_knit.write("profile.yaml", f"apiRoot: {API_ROOT}")
    assert bare_knit("init", "profile.yaml", "--profile", "mine").code == 0
    store = yaml.safe_load(bare_knit.store.read_text())
    assert store["other"] == {"apiRoot": "http://x/api", "later": [1]}
    assert store["mine"] == {"apiRoot": API_ROOT}
    assert stat.S_IMODE(bare_knit.store.stat().st_mode) == 0o600
    assert (bare_knit.cwd / ".knitprofile").read_text() == "mine"


@pytest.mark.patient
def test_many_inits_at_once_lose_nothing(bare_knit):
    """Each process reads the store and writes it whole; without a lock the last would win."""
    program = (
        "import sys; from pathlib import Path\n"
        "from knit_cli.config.profile import Profile, save_profile\n"
        "sys.stdin.read()\n"
        "for number in range(20):\n"
        "    name = f'{sys.argv[2]}-{number}'\n"
        "    save_profile(Profile('http://x/api'), store=Path(sys.argv[1]), name=name)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(bare_knit.store), name], stdin=subprocess.PIPE
        )
        for name in "abc"
    ]
    for writer in writers:  # all have been started, then all begin
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(yaml.safe_load(bare_knit.store.read_text())) == 60


def test_init_below_a_marked_folder_renews_the_profile_of_that_folder(knit):
    knit.write(".knitprofile", f"{knit.cwd}\nrest is ignored")
    below = knit.cwd / "below"
    below.mkdir()
    (below / "profile.yaml").write_text("apiRoot: http://new/api")
    assert knit("init", "profile.yaml", cwd=below).code == 0
    assert yaml.safe_load(knit.store.read_text()) == {str(knit.cwd): {"apiRoot": "http://new/api"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("apiRoot: [", "not valid YAML"),
        ("", "not a mapping"),
        ("apiRoot: /api", "not an absolute"),
        ("apiRoot: |\n  http://x/api\n", "not an absolute"),
        ("apiRoot: http://x/api\ntokenFile: ~nobody-here/t", "a user that is not known here"),
        ("apiRoot: ftp://x/api", "not an absolute"),
        ("apiRoot: http://x:port/api", "not an absolute"),
        ("apiroot: http://x/api", "None"),
        ("apiRoot: https://x/api\ncert: {ca: '###'}", "cert.ca"),
        (f"apiRoot: https://x/api\ncert: {{ca: {base64.b64encode(b'no pem').decode()}}}", "PEM"),
        (f"apiRoot: https://x/api\ncert: {{ca: {base64.b64encode(CA.encode()).decode()}}}", "used"),
    ],
)
def test_a_broken_profile_is_refused_and_changes_nothing(bare_knit, content, said):
    bare_knit.write("profile.yaml", content)
    ended = bare_knit("init", "profile.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert said in ended.err
    assert not bare_knit.store.exists()
    assert not (bare_knit.cwd / ".knitprofile").exists()


def test_a_missing_profile_file(bare_knit):
    assert "nowhere" in bare_knit("init", "nowhere").err


@pytest.mark.parametrize("command", [["data", "find"], ["plan", "find"], ["run", "find"]])
def test_without_a_profile_a_command_says_how_to_get_one(bare_knit, command):
    ended = bare_knit(*command)
    assert (ended.code, ended.out) == (1, b"")
    assert "hint: run `knit init KNIT_PROFILE_FILE`" in ended.err
    bare_knit.use_profile()
    ended = bare_knit(*command, "--profile", "another")
    assert ended.code == 1
    assert "no profile named another" in ended.err


def test_the_common_flags_may_stand_anywhere(knit, tmp_path):
    store = tmp_path / "elsewhere"
    knit.store.rename(store)
    name = str(knit.cwd)
    for arguments in (
        ["--profile-store", str(store), "--profile", name, "data", "find"],
        ["data", f"--profile-store={store}", "find", "--profile", name],
        ["data", "find", "--profile", name, "--profile-store", str(store), "--quiet"],
    ):
        assert knit(*arguments, cwd=tmp_path).code == 0
    assert knit("data", "find", "--profile").code == 2


def test_a_broken_store_says_so(bare_knit):
    bare_knit.store.parent.mkdir()
    for content in ("[", "- a"):
        bare_knit.store.write_text(content)
        ended = bare_knit("data", "find")
        assert ended.code == 1
        assert str(bare_knit.store) in ended.err


@pytest.mark.parametrize(
    "content", ["tag: [no-colon]", "tag: x", "tag: [1]", "[", "- a", "resource: [a]"]
)
def test_broken_project_defaults_are_an_error(knit, api, content):
    knit.write("knitenv", content)
    knit.write("a/x")
    ended = knit("data", "push", "a")
    assert ended.code == 1
    assert "knitenv" in ended.err
    assert api.requests == []


def test_project_defaults_may_be_named_and_may_be_missing(knit, api):
    knit.write("a/x")
    knit.write("other-env", 'tag: ["from:other"]')
    assert "from:other" in knit("data", "push", "a", "--env", "other-env").json["tags"]
    assert knit("data", "push", "a", "--env", "nowhere").code == 0
