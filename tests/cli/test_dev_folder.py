"""Which stack `knit dev` means: the one of this folder, or the nearest above."""

from __future__ import annotations

import json
import os

import pytest

from knit_cli.dev.dev_folder import DevFolder, DevState, Ports, ProcessIdentity

PORTS = Ports(api=11, temporal=12, web_ui=13)

pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")


@pytest.fixture
def running(knit):
    """A stack in the project's folder; this very process stands for its supervisor."""
    return record(knit.cwd, alive=True)


def record(project, *, alive):
    folder = DevFolder(project / ".knit" / "dev")
    folder.create()
    mark = (
        ProcessIdentity.of(os.getpid()) if alive else ProcessIdentity(os.getpid(), "another birth")
    )
    folder.save(DevState(PORTS, supervisor=mark, ready=True))
    return folder


def test_status_is_that_of_the_stack_above(knit, running):
    below = knit.write("some/where/x").parent
    for cwd in (knit.cwd, below):
        ended = knit("dev", "status", "--json", cwd=cwd)
        assert ended.json["api"] == "http://127.0.0.1:11/api"


def test_the_nearest_stack_counts(knit, running):
    nearer = knit.write("nearer/below/x").parent
    record(nearer.parent, alive=False)
    ended = knit("dev", "status", "--json", cwd=nearer)
    assert (ended.code, json.loads(ended.out)) == (1, {"running": False})
    assert knit("dev", "status", "--json", "--state", "../../.knit/dev", cwd=nearer).code == 0


def test_down_in_a_folder_below_is_about_the_stack_above(knit):
    folder = record(knit.cwd, alive=False)
    ended = knit("dev", "down", cwd=knit.write("below/x").parent)
    assert (ended.code, ended.err) == (0, "knit: knit is not running here\n")
    assert folder.load().supervisor is None  # it was looked after
    assert not (knit.cwd / "below" / ".knit").exists()


def test_without_any_stack_nothing_is_found_and_nothing_made(knit):
    assert knit("dev", "status", "--json").code == 1
    assert knit("dev", "down").code == 0
    assert not (knit.cwd / ".knit").exists()


def test_up_below_another_stack_says_that_it_is_another(knit, running):
    below = knit.write("below/.knit", "no folder, so that nothing is started").parent
    ended = knit("dev", "up", cwd=below)
    assert ended.code == 1
    assert f"another knit runs in a parent folder ({running.root})" in ended.err
