"""`knit admin verify`."""

from __future__ import annotations

import json

import pytest

from knit_cli.dev.dev_folder import RECORD
from tests.cli.admin.conftest import Admin

LOST = {
    "check": "runs",
    "subject": "Run r1",
    "message": "its workflow does not run",
    "cure": "the reconciliation starts it again",
    "repair": "reconcile",
}
COUNTED = {"counted": {"Runs": 1200, "volumes": 3}}


def say(admin: Admin, *lines: object) -> None:
    admin.tools.say("verified", "".join(f"{json.dumps(line)}\n" for line in lines))


def test_what_agrees_ends_with_0(installed: Admin):
    say(installed, COUNTED)
    assert (
        installed.succeed("verify").out.decode() == "compared: 1,200 Runs, 3 volumes; 0 findings\n"
    )


def test_each_finding_has_its_cure_and_the_exit_code_is_3(installed: Admin):
    say(installed, {"finding": LOST}, COUNTED)
    ended = installed("verify")
    assert ended.code == 3
    assert ended.out.decode().splitlines() == [
        "✘ runs: Run r1: its workflow does not run",
        "    cure: the reconciliation starts it again",
        "compared: 1,200 Runs, 3 volumes; 1 findings",
        "some of it is mended if you repeat the command with --repair",
    ]


def test_repairs_are_told_and_what_could_not_be_mended(installed: Admin):
    say(installed, {"finding": LOST}, {"repaired": "a turn"}, {"not_repaired": "b: away"}, COUNTED)
    ended = installed("verify", "--repair")
    assert ended.code == 3
    assert ended.out.decode().splitlines()[2:4] == ["✔ a turn", "✘ not mended: b: away"]
    assert "--repair" not in ended.out.decode().splitlines()[-1]
    found = json.loads(installed("verify", "--repair", "--json").out)
    assert found == {
        "findings": [LOST],
        "repaired": ["a turn"],
        "notRepaired": ["b: away"],
        "counted": COUNTED["counted"],
    }


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"problem": {"reason": "no database", "advice": "start it"}}], "no database"),
        ([{"finding": LOST}], "the verification was cut"),
        ([{"older": 1}], "in another form"),
        ([[1]], "in another form"),
    ],
)
def test_a_verification_that_did_not_take_place_ends_with_1(installed: Admin, lines, words):
    say(installed, *lines)
    ended = installed("verify")
    assert ended.code == 1
    assert words in ended.err


def test_a_stack_that_is_down_cannot_be_verified(admin: Admin):
    ended = admin("verify", "--state", ".knit/dev")
    assert ended.code == 1
    assert "start it (knit dev up --detach), then repeat the command" in ended.err


@pytest.mark.parametrize("flags", [(), ("--hashes",)])
def test_the_nearest_stack_is_meant_where_no_cluster_is_named(admin: Admin, flags):
    """As by backup, restore and rebuild."""
    (admin.knit.cwd / ".knit" / "dev").mkdir(parents=True)
    (admin.knit.cwd / ".knit" / "dev" / RECORD).write_text("{}")
    ended = admin("verify", *flags)
    assert ended.code == 1
    assert "knit is not running in" in ended.err
    assert "there is no settings folder" in admin("verify", "--namespace", "ml", *flags).err


def test_the_state_and_a_cluster_exclude_each_other(installed: Admin):
    ended = installed("verify", "--state", ".knit/dev", "--namespace", "ml")
    assert "--state means `knit dev`, and the other flags a cluster" in ended.err
