"""`knit data purge`, by id and by age."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.api.archives import tar_of
from tests.cli.real_api import error
from tests.cli.test_plan import Terminal

UNKNOWN = "11111111-1111-4111-8111-111111111111"


def add(api, *tags, size=100_000):
    """A Data that nobody reads."""
    data = api.add_data(*tags, archive=tar_of({"file": b"x" * size}))
    api.store.memory.transfers.clear()
    return data


def transient(knit, data) -> set[str]:
    [found] = knit("data", "find", "-t", f"knit#id:{data.knit_id}").json
    return {tag for tag in found["tags"] if tag.startswith("knit#transient")}


def test_the_content_goes_and_the_rest_stays(knit, api):
    data = add(api, "k:a")
    [purged] = knit("data", "purge", data.knit_id).json
    assert purged["outcome"] == "purged"
    assert purged["volume"].endswith(data.knit_id)
    assert {"k:a", "knit#transient:purged"} < set(purged["data"]["tags"])
    ended = knit("data", "pull", data.knit_id)
    assert ended.code == 1
    assert "was purged" in ended.err
    [again] = knit("data", "purge", data.knit_id).json
    assert again["outcome"] == "known"
    assert "volume" not in again
    assert [one["knitId"] for one in knit("data", "find", "-t", "knit#transient:purged").json] == [
        data.knit_id
    ]
    assert knit("data", "find", "--transient", "no").json == []


def test_several_at_once_and_one_that_is_refused(knit, api):
    """The others are purged nevertheless; the exit code tells."""
    one, two = add(api, "n:1"), add(api, "n:2")
    run, _ = api.add_run({"/in": one}, {"/out": "k:z"}, status="running")
    ended = knit("data", "purge", one.knit_id, two.knit_id, UNKNOWN)
    assert ended.code == 1
    assert f"{one.knit_id} is not purged" in ended.err
    assert run.run_id in ended.err
    assert "2 Data were refused" in ended.err
    assert transient(knit, one) == set()
    assert transient(knit, two) == {"knit#transient:purged"}


def test_its_users_cannot_be_retried_and_say_so(knit, api):
    data = add(api, "k:a")
    run, _ = api.add_run({"/in": data}, {"/out": "k:z"})
    knit("data", "purge", data.knit_id)
    ended = knit("run", "retry", run.run_id)
    assert ended.code == 1
    assert data.knit_id in ended.err
    assert "purged" in ended.err


def test_a_dry_run_tells_what_would_be_freed(knit, api):
    data = add(api, "k:a", size=3 << 20)
    ended = knit("data", "purge", "--dry-run", data.knit_id)
    [foreseen] = ended.json
    assert foreseen["outcome"] == "purged"
    assert foreseen["volume"]
    assert re.search(r"volumes to be freed: 1, with (at least )?\d", ended.err)
    assert transient(knit, data) == set()
    assert (
        "refused" in knit("data", "purge", "--dry-run", "11111111-1111-4111-8111-111111111111").err
    )


def test_what_was_adopted_is_only_forgotten(knit, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("content")
    [adopted] = knit("data", "adopt", str(theirs)).json
    ended = knit("data", "purge", adopted["data"]["knitId"])
    [purged] = ended.json
    assert purged["kept_volume"] == str(theirs.resolve())
    assert "volume" not in purged
    assert "stays as it is" in ended.err
    assert (theirs / "file").read_text() == "content"


# ------------------------------------------------------------ by age


def test_old_data_are_listed_and_nothing_happens_without_consent(knit, api):
    data = add(api, "k:a")
    ended = knit("data", "purge", "--older-than", "90d", "-t", "k:a")
    assert ended.code == 1
    assert data.knit_id in ended.err
    assert "--yes" in ended.err
    assert transient(knit, data) == set()


def test_old_data_with_the_tags_are_purged(knit, api):
    """Not what is younger, still made, read, or purged before."""
    old, other, before = add(api, "k:a"), add(api, "k:b"), add(api, "k:a")
    read = add(api, "k:a")
    api.add_run({"/in": read}, {"/out": "k:a"}, status="running")
    knit("data", "purge", before.knit_id)
    assert knit("data", "purge", "--older-than", "99999d", "-t", "k:a", "--yes").json == []
    ended = knit("data", "purge", "--older-than", "2w", "-t", "k:a", "-y")
    assert [one["data"]["knitId"] for one in ended.json] == [old.knit_id]
    assert f"{read.knit_id}  refused" in ended.err
    assert transient(knit, other) == set()


@pytest.mark.parametrize(("answer", "purged"), [("y\n", True), ("n\n", False), ("", False)])
def test_on_a_terminal_one_is_asked(knit, api, monkeypatch, answer, purged):
    """Any answer but yes purges nothing."""
    data = add(api, "k:a")
    said = Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Terminal(answer))
        patched.setattr(sys, "stderr", said)
        ended = knit("data", "purge", "--older-than", "1h", "-t", "k:a")
    assert data.knit_id in said.getvalue()
    assert "Purge these 1 Data?" in said.getvalue()
    assert (ended.code == 0) == purged
    assert bool(transient(knit, data)) == purged


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name Data"),
        (["x", "-t", "k:a"], 2, "needs --older-than"),
        (["x", "--yes"], 2, "needs --older-than"),
        (["x", "--older-than", "90d", "-t", "k:a"], 2, "chooses the Data itself"),
        (["--older-than", "90d"], 2, "needs --tag"),
        (["--older-than", "soon", "-t", "k:a"], 1, "is not an age"),
        (["--older-than", "-1h", "-t", "k:a"], 1, "is not an age"),
        (["--older-than", "90d", "-t", "no-colon"], 1, "has no ':'"),
    ],
)
def test_wrong_use_is_told_before_anything_is_sent(knit, api, arguments, code, said):
    ended = knit("data", "purge", *arguments)
    assert ended.code == code
    assert said in ended.err
    assert api.requests == []


def test_an_api_that_is_asked_too_much_is_waited_for(knit, api):
    data = add(api, "k:a")
    busy = error(429, "too many requests from you")
    busy.headers["Retry-After"] = "7"
    api.interrupt[("POST", f"/data/{data.knit_id}/purge")] = [busy]
    assert [one["outcome"] for one in knit("data", "purge", data.knit_id).json] == ["purged"]
    assert knit.slept == [7.0]


@pytest.mark.parametrize("trouble", [error(503, "starting"), error(401, "expired")])
def test_what_has_gone_is_told_even_if_the_rest_cannot_be_tried(knit, api, trouble):
    """And trouble with the API is not called a refusal of one Data."""
    one, two, three = (add(api, f"n:{n}") for n in range(3))
    api.interrupt[("POST", f"/data/{two.knit_id}/purge")] = [trouble] * 6
    ended = knit("data", "purge", one.knit_id, two.knit_id, three.knit_id)
    assert ended.code == 1
    assert [gone["data"]["knitId"] for gone in json.loads(ended.out)] == [one.knit_id]
    assert "were refused" not in ended.err
    assert f"cannot purge {two.knit_id}" in ended.err
    assert transient(knit, three) == set()
