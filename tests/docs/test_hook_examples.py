"""The receivers in `examples/hooks`, called as knit calls them, and as others might."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from knit_workflows.domain.hooks import HookAnswer
from knit_workflows.hooks.caller import HookCaller, HookMessage
from knit_workflows.hooks.file import parse_hooks_file
from knit_workflows.settings import HookSettings
from tests.docs.blocks import blocks
from tests.example_hooks import HOOKS, Chat, chat, running, signed
from tests.waiting import PATIENCE, until

SECRET, OTHER = (f"whsec_{base64.b64encode(bytes([byte]) * 32).decode()}" for byte in (1, 2))
KEY = "k" * 32
SAMPLE = json.loads(blocks(Path(__file__).parents[2] / "docs/how-to/hooks.md", "json")[0])


def told(source: str, target: str, **changes: Any) -> HookMessage:
    body = {**copy.deepcopy(SAMPLE), **changes}
    body["transition"] |= {"from": source, "to": target}
    return HookMessage("0d2b7b5c-0000-5000-8000-000000000001", 1, body, target == "starting")


class Knit:
    """Calls hooks as the worker does, with secrets that may change."""

    def __init__(self, folder: Path) -> None:
        self.secrets = folder / "knit-secrets"
        self.secrets.write_text(SECRET)
        self._caller = HookCaller(HookSettings(secrets_file=self.secrets, allow_loopback=True))

    async def calls(self, url: str, message: HookMessage) -> HookAnswer:
        return await self._caller.call(url, message)

    async def aclose(self) -> None:
        await self._caller.aclose()


@pytest.fixture
async def knit(tmp_path: Path) -> AsyncIterator[Knit]:
    calling = Knit(tmp_path)
    yield calling
    await calling.aclose()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A signed list with one image."""
    path = tmp_path / "images.txt"
    path.write_text("# image   approved by\n\ntrain:v1   Ada Lovelace\n")
    signed(path, LIST_KEY=KEY)
    return path


@pytest.fixture
def gate(tmp_path: Path, images: Path) -> Iterator[str]:
    with running(tmp_path, "gate", "serve", images, SECRET=SECRET, LIST_KEY=KEY) as url:
        yield url


@pytest.fixture
def room() -> Iterator[Chat]:
    with chat() as serving:
        yield serving


@pytest.fixture
def notify(tmp_path: Path, room: Chat) -> Iterator[str]:
    with running(tmp_path, "notify", SECRET=SECRET, CHAT_URL=room.url) as url:
        yield url


async def test_only_an_approved_image_starts(knit: Knit, gate: str, images: Path) -> None:
    refused = await knit.calls(gate, told("ready", "starting"))
    assert (refused.succeeded, refused.status_code) == (False, 403)
    assert f"nobody has approved the image train:v2: it is not in {images}" in refused.text
    assert (await knit.calls(gate, told("waiting", "ready"))).succeeded
    images.write_text(images.read_text() + "train:v2 Grace Hopper, on call\n")
    unsigned = await knit.calls(gate, told("ready", "starting"))
    assert unsigned.status_code == 503
    assert "has changed since it was signed; no Run starts until it is signed again" in (
        unsigned.text
    )
    signed(images, LIST_KEY="x" * 32)
    assert (await knit.calls(gate, told("ready", "starting"))).status_code == 503
    signed(images, LIST_KEY=KEY)
    agreed = await knit.calls(gate, told("ready", "starting"))
    assert agreed.succeeded
    assert agreed.environment == {"APPROVED_BY": "Grace Hopper, on call"}
    images.unlink()
    gone = await knit.calls(gate, told("ready", "starting"))
    assert gone.status_code == 503
    assert "cannot be read" in gone.text


async def test_a_failed_run_is_posted_and_nothing_else(knit: Knit, notify: str, room: Chat) -> None:
    exit = {"code": 3, "message": "<!channel> a & b"}
    failed = told("aborting", "failed", status="failed", exit=exit)
    for other in (told("running", "aborting", exit=exit), told("completing", "done")):
        assert (await knit.calls(notify, other)).succeeded
    assert (await knit.calls(notify, failed)).succeeded
    await until(lambda: room.posted)
    [posted] = [json.loads(one) for one in room.posted]
    assert posted == {
        "text": "A Run of train:v2 has failed (exit code 3: &lt;!channel&gt; a &amp; b)\n"
        f"Plan {SAMPLE['plan']['planId']}\n"
        f"knit run show {SAMPLE['runId']}"
    }


@pytest.mark.patient
async def test_knit_is_answered_while_the_chat_is_away(knit: Knit, notify: str, room: Chat) -> None:
    room.statuses = [503]
    for _ in range(3):
        assert (await knit.calls(notify, told("aborting", "failed"))).succeeded
    await until(lambda: len(room.posted) == 4)


@pytest.mark.patient
async def test_they_believe_no_other_secret(knit: Knit, gate: str, notify: str, room: Chat) -> None:
    for url, message in ((gate, told("waiting", "ready")), (notify, told("aborting", "failed"))):
        knit.secrets.write_text(f"{OTHER}\n")
        assert (await knit.calls(url, message)).status_code == 401
        request = urllib.request.Request(url, json.dumps(message.body).encode())
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=PATIENCE)
        assert room.posted == []
        knit.secrets.write_text(f"{OTHER}\n{SECRET}\n")  # while it is being changed
        assert (await knit.calls(url, message)).succeeded


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (("notify",), {"SECRET": SECRET, "CHAT_URL": ""}, "set CHAT_URL"),
        (("notify",), {"SECRET": "", "CHAT_URL": "http://127.0.0.1:9"}, "set SECRET"),
        (("gate", "serve", "list"), {"SECRET": SECRET, "LIST_KEY": "short"}, "set LIST_KEY"),
        (("gate", "serve", "list"), {"SECRET": "whsec_?", "LIST_KEY": KEY}, "set SECRET"),
    ],
)
def test_they_say_what_is_missing(
    arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--listen", "127.0.0.1:0"],
        cwd=HOOKS,
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["notify", "gate"])
def test_the_files_in_their_pages_are_hooks_files(name: str) -> None:
    [example] = blocks(HOOKS / name / "README.md", "yaml")
    assert parse_hooks_file(example.encode(), "page").hooks
