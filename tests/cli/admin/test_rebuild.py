"""`knit admin rebuild`."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from knit_cli.dev.dev_folder import RECORD
from knit_workflows.inspection import rebuild
from knit_workflows.inspection.remains import Remains
from tests.cli.admin.conftest import Admin
from tests.cli.conftest import Knit

FOUND = {
    "found": {"Plans": 2, "edges": 1200},
    "missing": {"Runs of which nobody knows how they have ended": 3},
    "notKept": ["tokens"],
    "already": False,
    "written": False,
}


def test_what_would_be_rebuilt_is_told_with_what_is_missing(installed: Admin):
    installed.tools.say("found", json.dumps(FOUND) + "\n")
    assert installed.succeed("rebuild").out.decode().splitlines() == [
        "would be rebuilt: 2 Plans, 1,200 edges",
        "✘ 3 Runs of which nobody knows how they have ended",
        "  not known: tokens",
        "nothing is written yet: repeat the command with --write",
    ]


def test_what_was_rebuilt_is_told_once_and_then_that_it_was(installed: Admin):
    installed.tools.say("rebuilt", json.dumps(FOUND | {"written": True}) + "\n")
    assert installed.succeed("rebuild", "--write").out.decode().startswith("rebuilt: 2 Plans")
    already = FOUND | {"found": {"Plans": 2}, "missing": {}, "notKept": [], "already": True}
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
    ended = admin("rebuild", "--state", ".knit/dev")
    assert ended.code == 1
    assert "start it (knit dev up --detach), then repeat the command" in ended.err


def test_the_nearest_stack_is_meant_where_no_cluster_is_named(bare_knit: Knit):
    (bare_knit.cwd / ".knit" / "dev").mkdir(parents=True)
    (bare_knit.cwd / ".knit" / "dev" / RECORD).write_text("{}")
    below = bare_knit.cwd / "below"
    below.mkdir()
    ended = bare_knit("admin", "rebuild", cwd=below)
    assert ended.code == 1
    assert f"knit is not running in {below.parent / '.knit' / 'dev'}" in ended.err
    both = bare_knit("admin", "rebuild", "--state", "x", "--namespace", "knit")
    assert "--state means `knit dev`, and the other flags a cluster" in both.err


@pytest.mark.parametrize("writes", [False, True])
def test_answers_have_the_same_keys(monkeypatch: pytest.MonkeyPatch, writes: bool):
    """Also that of a database which was rebuilt before, where nothing is looked for."""

    async def nothing(*_: object, **__: object) -> Any:
        return Remains(missing={"Runs": 3})

    async def opened(*_: object) -> Any:
        return None, SimpleNamespace(backend=None)

    written: list[Any] = []
    before: list[Any] = [None, {"found": {"Plans": 2}}]
    monkeypatch.setenv("KNIT_STORE__URL", "postgresql://nowhere/knit")
    monkeypatch.setattr(rebuild, "look", lambda _: ({}, before.pop(0)))
    monkeypatch.setattr(rebuild, "opened", opened)
    monkeypatch.setattr(rebuild, "find_remains", nothing)
    monkeypatch.setattr(rebuild, "write_lineage", lambda *_, **more: written.append(more))
    first, again = (
        asyncio.run(rebuild.rebuild(writes=writes, by="me", unknown_is_done=False))
        for _ in range(2)
    )
    assert set(first) == set(again) == set(FOUND)
    assert (first["missing"], first["written"], first["already"]) == ({"Runs": 3}, writes, False)
    assert again["found"] == {"Plans": 2}
    assert (again["missing"], again["notKept"], again["written"]) == ({}, [], False)
    assert [set(one["targets"]) for one in written] == [{"found", "missing", "notKept"}] * writes
