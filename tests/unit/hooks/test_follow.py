"""The hooks file as it changes under the worker that follows it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knit_workflows.domain.errors import StoreUnavailable
from knit_workflows.domain.hooks import Hooks
from knit_workflows.hooks.document import HooksRefused
from knit_workflows.hooks.file import Follower, HooksFile, follow, parse_hooks_file
from tests.properties import examples
from tests.waiting import until


def file_of(*before: str) -> str:
    return "lifecycle-hooks:\n  before:\n" + "".join(f"  - {url}\n" for url in before)


A, B = file_of("http://a.example/"), file_of("http://a.example/", "http://b.example/")
CONTENTS = (A, B, "", "lifecycle-hooks: 7", "nonsense: [", B[: B.index("b.example")])


class Recorder:
    """What was put in force, and what was said; the store may be away."""

    def __init__(self) -> None:
        self.hooks: Hooks | None = None
        self.problem: str | None = None
        self.calls = 0
        self.is_away = False

    async def apply(self, file: HooksFile) -> None:
        self._begin()
        self.hooks, self.problem = file.hooks, None

    async def refuse(self, problem: str) -> None:
        self._begin()
        self.problem = problem

    def _begin(self) -> None:
        if self.is_away:
            raise StoreUnavailable("the database is away")
        self.calls += 1


class Reload(RuleBasedStateMachine):
    """Files written at once, half, renamed into place, behind swapped links, and removed.

    The model knows the newest content, for how many looks it has been there, and what has to be in
    force: the newest content that was good when it was looked at twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.path = self.root / "hooks.yaml"
        self.recorder = Recorder()
        self.content: str | None = None
        self.seen: str | None = None
        self.handled = False
        self.hooks: Hooks | None = None
        self.problem: str | None = None
        self.versions = 0

    @initialize(content=st.sampled_from([None, *CONTENTS]), is_link=st.booleans())
    def begin(self, content: str | None, is_link: bool) -> None:
        self.is_link = is_link
        if is_link:  # as the kubelet mounts a ConfigMap
            self.path.symlink_to("..data/hooks.yaml")
        self._put(content)
        self.follower = Follower(self.path, self.recorder.apply, self.recorder.refuse)
        asyncio.run(self.follower.begin())
        self.seen = self.content
        self._expect_handled()

    def _put(self, content: str | None) -> None:
        if self.is_link:
            self._swap(content)
        elif content is None:
            self.path.unlink(missing_ok=True)
        else:
            self.path.write_text(content)
        self.content = content

    def _swap(self, content: str | None) -> None:
        self.versions += 1
        version = self.root / f"..version-{self.versions}"
        version.mkdir()
        if content is not None:
            (version / "hooks.yaml").write_text(content)
        (self.root / "..data_tmp").symlink_to(version.name)
        (self.root / "..data_tmp").replace(self.root / "..data")

    @rule(content=st.sampled_from([None, *CONTENTS]))
    def change(self, content: str | None) -> None:
        self._put(content)

    @precondition(lambda self: not self.is_link)
    @rule(content=st.sampled_from(CONTENTS))
    def rename_into_place(self, content: str) -> None:
        other = self.root / "new"
        other.write_text(content)
        other.replace(self.path)
        self.content = content

    @precondition(lambda self: not self.is_link)
    @rule()
    def write_in_two_halves(self) -> None:
        """A look in between sees half a list, which would be a valid one; it never counts."""
        self._put(A)
        self.look()
        self._put(B)

    @rule()
    def look(self) -> None:
        asyncio.run(self.follower.look())
        if self.content != self.seen:
            self.seen, self.handled = self.content, False
        elif not self.handled and not self.recorder.is_away:
            self._expect_handled()

    @rule()
    def touch(self) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.path)

    @rule(is_away=st.booleans())
    def store_comes_or_goes(self, is_away: bool) -> None:
        self.recorder.is_away = is_away

    @rule()
    def look_twice_more_changes_nothing(self) -> None:
        if self.handled and self.content == self.seen:
            calls = self.recorder.calls
            self.look()
            self.look()
            assert self.recorder.calls == calls

    def _expect_handled(self) -> None:
        self.handled = True
        if self.content is None:
            self.problem = f"{self.path} cannot be read: No such file or directory"
            return
        try:
            file = parse_hooks_file(self.content.encode(), str(self.path))
        except HooksRefused as refused:
            self.problem = str(refused)
        else:
            self.hooks, self.problem = file.hooks, None

    @invariant()
    def what_is_in_force_is_what_has_to_be(self) -> None:
        assert (self.recorder.hooks, self.recorder.problem) == (self.hooks, self.problem)

    def teardown(self) -> None:
        self.folder.cleanup()


Reload.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=30, deadline=None
)
test_what_is_in_force_follows_the_file = Reload.TestCase


async def test_following_goes_on_for_ever(tmp_path: Path) -> None:
    path, recorder = tmp_path / "hooks.yaml", Recorder()
    path.write_text(A)
    task = asyncio.create_task(
        follow(path, recorder.apply, recorder.refuse, every=timedelta(milliseconds=5))
    )
    try:
        await until(lambda: recorder.hooks == Hooks(("http://a.example/",)))
        path.write_text("lifecycle-hooks: 7")
        await until(lambda: recorder.problem)
        path.write_text(B)
        await until(lambda: recorder.problem is None)
        assert recorder.hooks == Hooks(("http://a.example/", "http://b.example/"))
        recorder.is_away = True
        path.write_text("")
        await asyncio.sleep(0.05)
        recorder.is_away = False
        await until(lambda: recorder.hooks == Hooks())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_store_that_is_away_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, recorder = tmp_path / "hooks.yaml", Recorder()
    path.write_text(A)
    recorder.is_away = True
    follower = Follower(path, recorder.apply, recorder.refuse)
    await follower.begin()
    for _ in range(3):
        await follower.look()
    assert [one.getMessage() for one in caplog.records] == [
        "hooks file cannot be applied yet: the database is away"
    ]
    recorder.is_away = False
    await follower.look()
    assert recorder.hooks == Hooks(("http://a.example/",))
