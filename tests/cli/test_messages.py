"""Messages that no other test brings about: each says why, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from knit_cli.dev.app import DEFAULT_STATE
from knit_cli.dev.dev_folder import RECORD
from knit_cli.errors import BadInput
from knit_cli.plans.difference import differences, is_equivalent
from knit_cli.plans.file import read_plan
from knit_cli.transfer.push_source import STACK, survey
from knit_workflows.wire.plans import Plan
from tests.cli.test_plan import PLAN


def test_a_template_needs_an_image_or_none(bare_knit, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ended = bare_knit("plan", "template")
    assert ended.code == 2
    assert "pipe an image in" in ended.err


def test_a_plan_that_is_no_text(bare_knit):
    bare_knit.write("plan.yaml", b"image: \xff\xfe\n")
    ended = bare_knit("plan", "validate", "plan.yaml")
    assert ended.code == 1
    assert "plan.yaml is not text in UTF-8" in ended.err
    assert "nothing was sent" in ended.err


def test_what_is_neither_a_folder_nor_a_file_is_not_pushed(knit, api):
    os.mkfifo(knit.cwd / "pipe")
    ended = knit("data", "push", "pipe")
    assert ended.code == 1
    assert "reason: it is neither a folder nor a file\n" in ended.err
    assert "hint: push a folder; nothing was uploaded\n" in ended.err
    assert api.requests == []


def test_the_folder_of_an_embedded_stack_is_not_pushed(knit, api):
    """Its own database and volumes would go into the Data, while they change."""
    assert Path(DEFAULT_STATE, RECORD) == STACK
    knit.write(f"project/{STACK}", "{}")
    knit.write("project/set/file", "x")
    ended = knit("data", "push", "project")
    assert ended.code == 1
    assert "is the state of an embedded knit" in ended.err
    assert "hint: push a folder below it; nothing was uploaded\n" in ended.err
    assert api.requests == []
    assert knit("data", "push", "project/set").code == 0


def test_an_archive_given_as_an_image_is_told_to_be_a_file(bare_knit):
    bare_knit.write("x.tar", "")
    ended = bare_knit("plan", "template", "x.tar")
    assert ended.code == 2
    assert "to read that file, write --input x.tar" in " ".join(ended.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EACCES, "make it readable, or remove it from there; nothing was uploaded"),
        (errno.EIO, "look into the system's log (dmesg), and check the disk; nothing was uploaded"),
        (errno.EDOM, "remove it from there, or push a copy; nothing was uploaded"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_sent(tmp_path, monkeypatch, code, hint):
    (tmp_path / "file").touch()

    def refuse(_path, _mode, **_more):
        raise OSError(code, os.strerror(code), str(tmp_path / "file"))

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(BadInput) as caught:
        survey(tmp_path, "folder", lambda *_: None, dereference=False)
    assert caught.value.advice == hint
    assert str(caught.value.reason).endswith(": " + str(tmp_path / "file"))


def test_what_is_removed_while_it_is_looked_through_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()

    def gone(path, _mode, **_more):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "file"))

    monkeypatch.setattr(os, "access", gone)
    with pytest.raises(BadInput) as caught:
        survey(tmp_path, "folder", lambda *_: None, dereference=False)
    assert caught.value.summary == f"cannot push folder: {tmp_path}/file"
    assert caught.value.reason == "it has been removed in the meantime"
    assert caught.value.advice == "push again; nothing was uploaded"


def test_a_link_that_leads_back_to_itself_is_no_source(knit, api):
    (knit.cwd / "loop").symlink_to("loop")
    ended = knit("data", "push", "loop")
    assert ended.code == 1
    assert "error: cannot push loop\nreason: the link leads to itself\n" in ended.err
    assert "hint: push its target instead; nothing was uploaded\n" in ended.err
    assert api.requests == []


def test_an_answer_that_was_cut_where_nothing_tells_its_length_is_told(knit, api):
    """As through a hop that speaks HTTP/1.0."""
    cut = httpx.Response(200, stream=httpx.ByteStream(b'[{"knitId": "x'))
    api.interrupt[("GET", "/runs")] = [cut] * 3
    ended = knit("run", "find")
    assert ended.code == 1
    assert "the API's response was cut\nreason: Invalid JSON: EOF while parsing" in ended.err
    assert "although the connection was closed cleanly\n" in ended.err
    assert "look for a proxy that cuts connections\n" in ended.err


def test_an_answer_of_something_else_is_told(knit, api):
    api.interrupt[("GET", "/runs")] = [httpx.Response(200, json=[{"id": 1}])]
    ended = knit("run", "find")
    assert ended.code == 1
    assert "reason: the response is not one of knit's API: 0." in ended.err
    assert "hint: check that apiRoot in the profile is the address of a knit API" in ended.err


def test_what_breaks_while_it_is_sent_is_told(knit, api, monkeypatch):
    knit.write("folder/file", "x")

    def broken(*_arguments, **_more):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/folder/file")
        yield b""

    monkeypatch.setattr("knit_cli.transfer.push_source.iter_pack", broken)
    ended = knit("data", "push", "folder")
    assert ended.code == 1
    assert "reason: the disk reports an error: /folder/file\n" in ended.err
    assert "check the disk; nothing of this upload is kept\n" in ended.err


def test_a_resource_that_only_the_plan_has_is_a_difference(knit, api):
    path = knit.write("plan.yaml", PLAN)
    plan = Plan.model_validate(knit("plan", "apply", "plan.yaml").json)
    more = plan.model_copy(update={"resources": {**plan.resources, "a.b/gpu": "1"}})
    [difference] = differences(read_plan(path).spec, more, "plan.yaml")
    assert difference.description == "resources.a.b/gpu is 1, the file has none"
    assert difference.command == f"knit plan resource --unset a.b/gpu {plan.plan_id}"


def test_quantities_written_otherwise_do_not_differ(knit, api):
    path = knit.write("plan.yaml", PLAN)
    plan = Plan.model_validate(knit("plan", "apply", "plan.yaml").json)
    same = plan.model_copy(update={"resources": {"cpu": "2000m", "memory": "1024Mi"}})
    assert is_equivalent(read_plan(path).spec, same)
    assert differences(read_plan(path).spec, same, "plan.yaml") == []


def test_an_extension_that_is_no_program_for_this_machine(knit, tmp_path):
    program = tmp_path / "knit-odd"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    knit.variables["PATH"] = str(tmp_path)
    ended = knit("odd")
    assert ended.code == 1
    assert "hint: it is not a program for this machine: check what it is\n" in ended.err


def test_a_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    script = f"import os; os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}\nfrom knit_cli.main import main; main()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert (
        ended.stderr == "error: the current folder no longer exists\nhint: change to another one\n"
    )
