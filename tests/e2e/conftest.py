"""One running stack per module, with a container engine if this machine has one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import DevStack, dev_stack

SANDBOX = Path(__file__).parents[2] / "tools" / "sandbox.py"


@pytest.fixture(scope="session")
def sandbox() -> dict[str, str]:
    """What the repository's tool says about containers here; skips when there is nothing."""
    done = subprocess.run(
        [sys.executable, str(SANDBOX), "--for-tests"], capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tools/sandbox.py failed").splitlines()[-1])
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def stack(sandbox: dict[str, str]) -> Iterator[DevStack]:
    """A stack that is up."""
    environment = {key: value for key, value in sandbox.items() if not key.startswith("KNIT_")}
    environment |= {
        "KNIT_COMPUTE__LOCAL__ENGINE": sandbox["KNIT_TEST_ENGINE"],
        # The tests' machine need not be able to set up networks of containers.
        "KNIT_COMPUTE__LOCAL__NETWORK": "false",
        "KNIT_ENGINE__IMAGE_PATIENCE": "PT3S",
        "KNIT_ENGINE__STOP_GRACE": "PT2S",
    }
    with dev_stack(**environment) as running:
        running.up()
        yield running
