"""Two embedded stacks with hooks on one machine: each calls its own, for its own Runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import DevStack, dev_stack, shell_plan, until
from tests.receiver import Receiver, receiver

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def pair() -> Iterator[list[tuple[DevStack, Receiver]]]:
    """Both up at once; each has a receiver of its own for calls before and after."""
    need_bubblewrap()
    with ExitStack() as opened:
        made = []
        for _ in range(2):
            hooks = opened.enter_context(receiver())
            stack = opened.enter_context(dev_stack())
            lists = {"before": [hooks.url("/before")], "after": [hooks.url("/after")]}
            (stack.folder / "hooks.yaml").write_text(yaml.safe_dump({"lifecycle-hooks": lists}))
            made.append((stack, hooks))
        starting = [
            stack.start("dev", "up", "--detach", "--hooks", "hooks.yaml") for stack, _ in made
        ]
        for one in starting:
            one.communicate()
            assert one.returncode == 0
        yield made


def test_two_stacks_side_by_side(pair: list[tuple[DevStack, Receiver]]) -> None:
    plans = []
    for stack, hooks in pair:
        shown = stack.knit("hook", "list").json()
        assert shown["before"] == [hooks.url("/before")]
        # Another stack's worker is none of its followers.
        [follower] = shown["followers"]
        assert Path(follower["file"]) == stack.folder / "hooks.yaml"
        assert "problem" not in shown
        plans.append(stack.apply(shell_plan("true", "side:by-side")))
        stack.push("x", "side:by-side")
    for (stack, hooks), plan in zip(pair, plans, strict=True):
        run = stack.run_in(plan, "done", "failed")
        assert run["status"] == "done"
        until(lambda hooks=hooks: len(hooks.transitions("/after")) == 5)
        assert {call.body["runId"] for call in hooks.calls} == {run["runId"]}
