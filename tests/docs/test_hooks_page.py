"""The receivers in docs/how-to/hooks.md check knit's signatures, and its examples are valid."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from knit_workflows.hooks.caller import HookCaller, HookMessage
from knit_workflows.hooks.file import HooksFile, parse_hooks_file
from knit_workflows.settings import HookSettings
from tests.cluster.network import free_port
from tests.docs.blocks import blocks
from tests.docs.receivers import RECEIVERS
from tests.waiting import PATIENCE

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "how-to" / "hooks.md"
OURS, OLD, OTHER = (
    f"whsec_{base64.b64encode(bytes([byte]) * size).decode()}"
    # 25 and 64 bytes: with and without padding in base64.
    for byte, size in ((0xFB, 25), (0x7F, 64), (0x01, 24))
)


def message(attempt: int = 1) -> HookMessage:
    body = json.loads(blocks(PAGE, "json")[0])
    # What JSON writers, and what signs, may treat in their own ways.
    body["plan"]["args"] = ["ü🦊\u2028</script>", '\\ " \n\t\x7f', "1e400"]
    return HookMessage("0d2b7b5c-0000-5000-8000-000000000001", attempt, body, False)


@asynccontextmanager
async def running(language: str, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """Gives the URL of the page's receiver in a language, and the file of what it printed."""
    [source] = blocks(PAGE, language)
    port, output = free_port(), folder / "output"
    command = await asyncio.to_thread(RECEIVERS[language], source, folder, port)
    environment = os.environ | {"SECRET": OURS, "PORT": str(port)}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                assert process.poll() is None, output.read_text()
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}/runs", output
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


@pytest.mark.patient
@pytest.mark.parametrize("language", RECEIVERS)
async def test_a_receiver_believes_its_secret_and_no_other(language: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    caller = HookCaller(HookSettings(secrets_file=secrets, allow_loopback=True))
    try:
        async with running(language, tmp_path) as (url, output):
            for known in ((OURS,), (OURS, OLD), (OLD, OURS)):
                secrets.write_text("".join(f"{secret}\n" for secret in known))
                answer = await caller.call(url, message())
                assert (answer.succeeded, answer.status_code) == (True, 204), answer.text
            for unknown in ((OLD,), (OLD, OTHER)):
                secrets.write_text("".join(f"{secret}\n" for secret in unknown))
                answer = await caller.call(url, message())
                assert answer.status_code in (401, 500)
            unsigned = HookCaller(HookSettings(allow_loopback=True))
            assert (await unsigned.call(url, message())).status_code in (401, 500)
            await unsigned.aclose()
        lines = output.read_text().splitlines()
        assert lines.count("5a5a5a5a-0000-4000-8000-000000000001 starting") == 3
    finally:
        await caller.aclose()


def test_the_files_in_the_pages_are_hooks_files() -> None:
    [example] = blocks(PAGE, "yaml")
    file = parse_hooks_file(example.encode(), "page")
    assert file.hooks.before
    assert file.hooks.after
    [example] = blocks(DOCS / "reference" / "hooks.md", "yaml")
    assert set(yaml.safe_load(example)) == {"lifecycle-hooks", "format", "allow"}
    assert parse_hooks_file(example.encode(), "page") != HooksFile()
