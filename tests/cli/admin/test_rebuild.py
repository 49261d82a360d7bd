"""`knit admin rebuild`."""

from __future__ import annotations

import json

import pytest

from tests.cli.admin.conftest import Admin

FOUND = {
    "found": {"Plans": 2, "edges": 1200},
    "missing": {"Runs of which nobody knows how they have ended": 3},
    "not_kept": ["tokens"],
    "already": False,
    "written": False,
}


def test_what_would_be_rebuilt_is_told_with_what_is_missing(installed: Admin):
    installed.tools.say("found", json.dumps(FOUND) + "\n")
    assert installed.succeed("rebuild").out.decode().splitlines() == [
        "would be rebuilt: 2 Plans, 1,200 edges",
        "✘ 3 Runs of which nobody knows how they have ended",
        "  not known: tokens",
        "write it by: knit admin rebuild --write",
    ]


def test_what_was_rebuilt_is_told_once_and_then_that_it_was(installed: Admin):
    installed.tools.say("rebuilt", json.dumps(FOUND | {"written": True}) + "\n")
    assert installed.succeed("rebuild", "--write").out.decode().startswith("rebuilt: 2 Plans")
    already = {"found": {"Plans": 2}, "missing": {}, "already": True}
    installed.tools.say("rebuilt", json.dumps(already) + "\n")
    told = installed.succeed("rebuild", "--write").out.decode()
    assert told == "it was rebuilt before, there is nothing to do: 2 Plans\n"
    assert json.loads(installed.succeed("rebuild", "--write", "--json").out) == already


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ('{"problem": {"reason": "it is in use", "advice": "make it anew"}}', "it is in use"),
        ("{", "in another form"),
        ("", "in another form"),
        ("{}\n{}", "in another form"),
    ],
)
def test_what_cannot_be_rebuilt_ends_with_1(installed: Admin, printed: str, words: str):
    installed.tools.say("found", printed)
    ended = installed("rebuild")
    assert ended.code == 1
    assert words in ended.err


def test_a_stack_that_is_down_cannot_be_rebuilt(admin: Admin):
    ended = admin("rebuild", "--dev", ".knit/dev")
    assert ended.code == 1
    assert "start it with `knit dev up`" in ended.err
