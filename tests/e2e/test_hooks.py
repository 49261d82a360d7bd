"""Hooks on the embedded stack, with the two receivers of `examples/hooks`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, until
from tests.example_hooks import Chat, chat, running, signed

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

SECRET = f"whsec_{base64.b64encode(b'knit' * 8).decode()}"
KEY = "the key of whoever approves images"


@dataclass
class World:
    """A stack with hooks in force, their receivers, and what these were given."""

    stack: DevStack
    room: Chat
    images: Path
    gate: str
    notify: str

    def approve(self, image: str, name: str) -> None:
        """Adds an image to the list, and signs it again."""
        self.images.write_text(f"{self.images.read_text()}{image} {name}\n")
        signed(self.images, LIST_KEY=KEY)

    def begin(self, tag: str, script: str, **more: Any) -> str:
        """Begins a Run; gives its Plan."""
        plan = self.stack.apply(shell_plan(script, tag, **more))
        self.stack.push("x", tag)
        return plan

    def held_up(self, plan: str, words: str) -> dict[str, Any]:
        """Waits until the Plan's only Run waits for a hook, for a reason in these words.

        It gives the Run. A hook that is slow to answer is another reason, for a while.
        """

        def look() -> dict[str, Any] | None:
            found = self.stack.runs(plan)
            waiting = found[0].get("waiting", {}) if found else {}
            held = waiting.get("kind") == "hook" and words in waiting["reason"]
            return found[0] if held else None

        return until(look)

    def all_told(self) -> list[dict[str, Any]] | None:
        """The deliveries, once After hooks have heard the end of every Run of a container.

        A Run has its status before they are called.
        """
        calls: list[dict[str, Any]] = self.stack.get("/hooks/deliveries")
        told = {
            (one["runId"], one["to"])
            for one in calls
            if one["phase"] == "after" and one["state"] == "succeeded"
        }
        runs = [one for one in self.stack.get("/runs") if "image" in one["plan"]]
        assert runs
        return calls if all((one["runId"], one["status"]) in told for one in runs) else None


@pytest.fixture(scope="module")
def world(sandbox: dict[str, str]) -> Iterator[World]:
    """Everything up: what users start by hand, after the receivers' pages."""
    with dev_folder() as folder, chat() as room:
        (folder / "secrets").write_text(f"{SECRET}\n")
        images = folder / "images.txt"
        images.write_text("host/sh:1 Ada Lovelace\n")
        signed(images, LIST_KEY=KEY)
        environment = {key: value for key, value in sandbox.items() if not key.startswith("KNIT_")}
        environment |= {"KNIT_COMPUTE__LOCAL__ENGINE": "", "KNIT_HOOKS__SECRETS_FILE": "secrets"}
        with (
            running(folder, "gate", "serve", images, SECRET=SECRET, LIST_KEY=KEY) as gate,
            running(folder, "notify", SECRET=SECRET, CHAT_URL=room.url) as notify,
            dev_stack(folder, **environment) as stack,
        ):
            hooks = {"lifecycle-hooks": {"before": [gate], "after": [notify]}}
            (folder / "hooks.yaml").write_text(yaml.safe_dump(hooks))
            stack.knit("dev", "up", "--detach", "--hooks", "hooks.yaml")
            yield World(stack, room, images, gate, notify)


def test_both_are_in_force_and_agree(world: World) -> None:
    shown = world.stack.knit("hook", "list").json()
    assert (shown["before"], shown["after"]) == ([world.gate], [world.notify])
    assert world.stack.knit("hook", "test", world.notify).json()["succeeded"]
    # The sample's image is not approved.
    said = world.stack.knit("hook", "test", world.gate, code=1)
    assert "nobody has approved the image" in said.err


def test_a_failing_run_is_posted_once(world: World) -> None:
    plan = world.begin("hook:fails", "exit 3")
    run = world.stack.run_in(plan, "failed")
    until(lambda: world.room.posted or None)
    fine = world.begin("hook:fine", "true")
    world.stack.run_in(fine, "done")

    def told() -> bool:
        after = [one for one in world.stack.get("/hooks/deliveries") if one["phase"] == "after"]
        return all(one["state"] == "succeeded" for one in after) and any(
            one["to"] == "done" for one in after
        )

    until(told)
    assert [json.loads(one)["text"] for one in world.room.posted] == [
        f"A Run of host/sh:1 has failed (exit code 3: {run['exit']['message']})\n"
        f"Plan {plan}\n"
        f"knit run show {run['runId']}"
    ]


def test_an_image_that_nobody_has_approved_waits_until_somebody_does(world: World) -> None:
    plan = world.begin("hook:unknown", 'printf %s "$APPROVED_BY" >/out/word', image="host/sh:2")
    refusal = f"nobody has approved the image host/sh:2: it is not in {world.images}"
    run = world.held_up(plan, refusal)
    assert run["status"] == "ready"
    shown = world.stack.knit("run", "show", run["runId"]).json()
    assert f"answered 403 Forbidden: {refusal}" in shown["waiting"]["reason"]
    assert (shown["waiting"]["hook"]["url"], shown["waiting"]["hook"]["to"]) == (
        world.gate,
        "starting",
    )
    asked = ("hook", "deliveries", "--failed", "--run", run["runId"])
    # It has not failed while it is just being called again.
    [delivery] = until(lambda: world.stack.knit(*asked).json() or None)
    assert (delivery["status_code"], delivery["to"]) == (403, "starting")
    assert refusal in delivery["answer"]
    world.approve("host/sh:2", "Grace Hopper")
    run = world.stack.run_in(plan, "done", "failed")
    assert run["status"] == "done"
    assert world.stack.pulled(run["outputs"][0]["knitId"]) == {"word": "Grace Hopper"}
    assert world.stack.knit(*asked).json() == []


def test_one_run_is_let_through(world: World) -> None:
    plan = world.begin(
        "hook:skipped", 'printf %s "${APPROVED_BY-nobody}" >/out/word', image="host/sh:3"
    )
    run = world.held_up(plan, "nobody has approved the image")
    delivery = run["waiting"]["hook"]["delivery"]
    said = world.stack.knit("hook", "skip", delivery, "--reason", "it is urgent", "--by", "ada")
    assert run["runId"] in said.err
    run = world.stack.run_in(plan, "done", "failed")
    assert run["status"] == "done"
    assert world.stack.pulled(run["outputs"][0]["knitId"]) == {"word": "nobody"}
    events = world.stack.knit("run", "show", "--events", run["runId"]).json()
    assert any(one["actor"] == "ada" and "it is urgent" in one["cause"] for one in events)


def test_a_list_that_was_changed_by_others_starts_nothing(world: World) -> None:
    good = world.images.read_text()
    world.images.write_text(f"{good}host/sh:4 Mallory\n")
    plan = world.begin("hook:forged", "true", image="host/sh:4")
    run = world.held_up(plan, "has changed since it was signed")
    world.stack.knit("run", "stop", "--fail", run["runId"])
    assert world.stack.run_in(plan, "failed")
    world.images.write_text(good)


def test_without_the_file_there_are_no_hooks(world: World) -> None:
    """They do not stay in force after a start without them."""
    calls = until(world.all_told)
    world.stack.down()
    world.stack.up()
    shown = world.stack.knit("hook", "list").json()
    assert (shown["before"], shown["after"]) == ([], [])
    assert "hooks" not in world.stack.get("/../readyz")
    plan = world.begin("hook:none", "true", image="host/sh:5")
    assert world.stack.run_in(plan, "done", "failed")["status"] == "done"
    assert world.stack.get("/hooks/deliveries") == calls
