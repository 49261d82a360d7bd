"""`knit admin verify --hashes`: which flags go together, and what is told."""

from __future__ import annotations

import json

import pytest

from tests.cli.admin.conftest import Admin

ID = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--minutes", "3"), "give --hashes too"),
        (("--data", ID), "give --hashes too"),
        (("--days", "1"), "give --hashes too"),
        (("--against", "x"), "give --hashes too"),
        (("--hashes", "--accept"), "--data ID"),
        (("--hashes", "--accept", "--data", ID, "--against", "x"), "exclude each other"),
        (("--hashes", "--data", ID, "--days", "1"), "exclude each other"),
        (("--hashes", "--set", "x"), "--against DEST"),
        (("--hashes", "--data", "x"), "knit data find shows them"),
    ],
)
def test_flags_that_mean_nothing_are_refused(installed: Admin, arguments, words):
    ended = installed("verify", *arguments)
    assert ended.code == 1
    assert words in ended.err


def test_a_set_that_is_not_there_is_told_before_anything_is_read(installed: Admin):
    ended = installed("verify", "--hashes", "--against", "nowhere")
    assert ended.code == 1
    assert "nowhere" in ended.err


def test_hashes_need_a_stack_that_is_up(admin: Admin):
    ended = admin("verify", "--state", ".knit/dev", "--hashes")
    assert ended.code == 1
    assert "start it (knit dev up --detach), then repeat the command" in ended.err


def test_a_cluster_without_workers_cannot_be_read(installed: Admin):
    installed.tools.say("verified", json.dumps({"counted": {}}) + "\n")
    ended = installed("verify", "--hashes")
    assert ended.code == 1
    assert "knit is not installed" in ended.err or "migration" in ended.err
