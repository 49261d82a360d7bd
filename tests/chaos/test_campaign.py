"""A short fault campaign on the local back-end, and the page that is written of campaigns."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.campaign.__main__ import local_campaign
from tests.chaos.campaign.batch import MOST_FAULTS
from tests.chaos.campaign.report import PAGE, RECORD, page, recorded
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import dev_folder

BATCHES = 2
FAULTS = 13
"""In each batch."""
SEED = "KNIT_CHAOS_SEED"
"""Variable with the seed of the faults, or `random`: another one each time, as in `make soak`."""
USUAL = "1"
"""Without the variable: who changes something meets the faults of yesterday."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL reaches although it runs as another user."""
    with dev_folder() as folder:
        yield folder


@pytest.mark.timeout(3600)
@pytest.mark.engine
@pytest.mark.slow
async def test_nothing_is_lost_stuck_or_left_over_after_some_faults(open_folder: Path) -> None:
    """With hooks and without; the seed is shown."""
    need_bubblewrap()
    wanted = os.environ.get(SEED) or USUAL
    seed = secrets.randbelow(1_000_000) if wanted == "random" else int(wanted)
    print(f"{SEED}={seed}")
    async with local_campaign(open_folder, seed) as campaign:
        campaign.pushes, campaign.spread = 5, 3.0
        for number in range(BATCHES):
            found = await campaign.batch(number, FAULTS, hooks=number % 2 == 0)
            assert not found["violations"], found


def test_the_page_is_that_of_the_record() -> None:
    """`python -m tests.chaos.campaign --report` writes it; nobody writes in it by hand."""
    assert PAGE.read_text() == page(recorded(RECORD), MOST_FAULTS)
