"""What others learn of the hooks files that workers follow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from knit_workflows.domain.hooks import Hooks, HooksFollower, HooksInForce, HooksSource
from knit_workflows.hooks.caller import HookCaller
from knit_workflows.hooks.followed import FollowedHooks
from knit_workflows.settings import HookSettings
from tests.memory_store import MemoryStore
from tests.memory_store.memory import START
from tests.waiting import until

A, B = (f"lifecycle-hooks:\n  before: [http://{name}.example/]\n" for name in "ab")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def followed(worker: str, path: Path, store: MemoryStore) -> FollowedHooks:
    return FollowedHooks(worker, path, store.hooks, HookCaller(HookSettings(), variables={}))


@pytest.mark.patient
async def test_a_worker_is_known_as_long_as_it_follows(tmp_path: Path) -> None:
    store, path = MemoryStore(), tmp_path / "hooks.yaml"
    path.write_text(A)
    source = HooksSource("1@one", str(path), digest(A))
    async with followed("1@one", path, store).in_force():
        found = await store.hooks.in_force()
        assert (found.hooks, found.source) == (Hooks(("http://a.example/",)), source)
        assert [one.source for one in found.followers] == [source]
        path.write_text("lifecycle-hooks: 7")
        await until(lambda: store.memory.hooks.problem)
        [follower] = store.memory.hooks.followers
        assert follower.source == HooksSource("1@one", str(path), "")
        assert follower.problem == store.memory.hooks.problem
        assert store.memory.hooks.source == source
    found = await store.hooks.in_force()
    assert (found.hooks, found.source) == (Hooks(("http://a.example/",)), source)
    assert (found.followers, found.problem) == ((), "")


@pytest.mark.patient
async def test_two_workers_with_different_files_are_told_apart(tmp_path: Path) -> None:
    """The later one counts, as ever, but not silently; the same file again settles it."""
    store = MemoryStore()
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(A)
    two.write_text(B)
    async with (
        followed("1@one", one, store).in_force(),
        followed("2@two", two, store).in_force(),
    ):
        found = await store.hooks.in_force()
        assert found.hooks == Hooks(("http://b.example/",))
        assert found.source is not None
        assert found.source.worker == "2@two"
        assert f"1@one ({one}, {digest(A)[:12]}), 2@two ({two}, {digest(B)[:12]})" in found.problem
        one.write_text(B)
        await until(lambda: not store.memory.hooks.problem)


def test_a_sentence_names_only_some() -> None:
    followers = tuple(
        HooksFollower(HooksSource(f"{number}@x", "f", f"{number:064}"), "", START, START)
        for number in range(9)
    )
    problem = HooksInForce(Hooks(), START, None, followers).problem
    assert "4@x (f, 000000000000) and 4 more; what changed last is in force; give" in problem
