"""The worker process with the role `expander`: alone, on Kubernetes, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

import pytest

from knit_workflows.domain.errors import BackendRejected
from knit_workflows.settings import ComputeSettings, Settings
from knit_workflows.worker import Ports, _roles, expand
from tests.waiting import until


def test_it_is_a_role_for_a_process_of_its_own():
    assert _roles("expander") is None
    with pytest.raises(argparse.ArgumentTypeError, match="of its own"):
        _roles("engine,expander")
    with pytest.raises(argparse.ArgumentTypeError, match="expander"):
        _roles("expnder")


async def test_it_is_for_kubernetes():
    with pytest.raises(BackendRejected, match="'local'") as refused:
        await expand(Settings(compute=ComputeSettings(kind="local")))
    assert "KNIT_COMPUTE__KIND" in refused.value.advice


async def test_it_looks_until_it_is_told_to_stop(api, settings):
    """It needs neither database nor Temporal."""
    compute = ComputeSettings(kind="kubernetes", kubernetes=settings)
    working = asyncio.create_task(expand(Settings(compute=compute), ports=Ports(health=0)))
    await until(lambda: api.count("GET pods"))
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(working, 30)
