"""The compute contract: a process killed in the middle of a launch starts nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from knit_workflows.compute.base import Phase
from tests.contract.compute.abilities import Ability
from tests.contract.compute.adapter import ComputeAdapter
from tests.contract.compute.pods import OUTPUT, Pods

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.needs(Ability.HALF_LAUNCHES)
@pytest.mark.timeout(900)
async def test_a_launch_killed_at_any_line_is_repeated_once(
    pods: Pods, adapter: ComputeAdapter, tmp_path: Path
) -> None:
    """After kill -9, launching again under the same name starts the command exactly once.

    Its end and its log are found, whether the killed process had started it or not.
    """
    made = [
        await pods.make(f"echo started >> {OUTPUT}/starts", "echo said", "exit 3")
        for _ in range(adapter.kills + 1)
    ]
    (tmp_path / "pods").write_bytes(pickle.dumps(made))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.compute.crashing_launch"),
        *(json.dumps(adapter.crash_recipe()), str(tmp_path / "pods")),
        cwd=REPOSITORY,
        env=os.environ,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert int(said) > adapter.kills / 4
    await asyncio.gather(*(pods.backend.launch(pod) for pod in made))
    ends = await asyncio.gather(*(pods.ended(pod.name) for pod in made))
    for pod, end in zip(made, ends, strict=True):
        assert end.phase is Phase.FAILED
        assert end.exit is not None
        assert end.exit.code == 3
        assert await adapter.starts(pod) == 1
        if await pods.output(pod, "starts"):
            assert await pods.file(pod.log, "log") == "said\n"
