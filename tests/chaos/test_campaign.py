"""A short fault campaign on the local back-end, and the page that is written of campaigns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.campaign.__main__ import local_campaign
from tests.chaos.campaign.batch import MOST_FAULTS
from tests.chaos.campaign.report import PAGE, RECORD, page, recorded
from tests.contract.compute.local_adapters import need_bubblewrap
from tests.e2e.stack import dev_folder

FAULTS = 25
SEED = 20261129


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL reaches although it runs as another user."""
    with dev_folder() as folder:
        yield folder


@pytest.mark.timeout(1800)
@pytest.mark.engine
@pytest.mark.slow
async def test_nothing_is_lost_stuck_or_left_over_after_some_faults(open_folder: Path) -> None:
    """The same ones each time, and without hooks; `make chaos` draws others."""
    need_bubblewrap()
    hit, number = 0, 0
    async with local_campaign(open_folder, SEED) as campaign:
        while hit < FAULTS:
            found = await campaign.batch(number)
            assert not found["violations"], found
            hit += sum(bool(fault["hit"]) for fault in found["faults"])
            number += 1


def test_the_page_is_that_of_the_record() -> None:
    """`python -m tests.chaos.campaign --report` writes it; nobody writes in it by hand."""
    assert PAGE.read_text() == page(recorded(RECORD), MOST_FAULTS)
