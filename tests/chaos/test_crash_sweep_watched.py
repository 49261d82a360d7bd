"""The crash sweep of a Run that is watched: a file of its own, since it takes the longest."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import Client

from knit_workflows.embedded import EmbeddedPostgres
from tests.chaos.run_sweep import LONG, carry_out_locally


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(7200)
async def test_the_local_back_end_survives(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """The task runs once, its result and whole log are found."""
    await carry_out_locally(postgres, temporal_client, tmp_path, LONG)
