"""What `knit admin doctor` learns from within: a real Temporal and a real database."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from knit_workflows import examination
from knit_workflows.examination import examine_database, examine_temporal
from knit_workflows.provision.temporal_cli import obtain_temporal
from knit_workflows.settings import Settings, StoreSettings
from tests.postgres import Databases
from tests.waiting import PATIENCE


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PATIENCE", "_TRIAL"):
        monkeypatch.setattr(examination, name, timedelta(seconds=PATIENCE))


@pytest.mark.patient
async def test_temporal_tells_what_it_is(temporal_client: Client, monkeypatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_client.service_client.config.target_host)
    found = await examine_temporal(Settings())
    assert "problem" not in found, found
    assert found["namespace"] == "default"
    assert int(found["version"].split(".")[0]) >= 1
    assert found["updates"] is True
    assert found["retentionDays"] >= 1
    assert set(found["missingAttributes"]) <= {
        *("KnitRunId", "KnitPlanId", "KnitRunStatus", "KnitImage")
    }


@pytest.mark.patient
async def test_what_temporal_is_set_to_is_tried(temporal_client: Client, monkeypatch) -> None:
    """The test server has the settings of `knit dev`; the trial leaves nothing that runs."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_client.service_client.config.target_host)
    trial = (await examine_temporal(Settings()))["trial"]
    assert trial.pop("firstRound") > 0
    assert trial.pop("laterRound") > 0
    assert trial.pop("unlimited") in (True, False)  # a busy machine may be as slow by itself
    assert trial == {"updateWithStart": True, "eager": True, "priorities": True}
    left = 'WorkflowType = "knit.Trial" AND ExecutionStatus = "Running"'
    async with asyncio.timeout(PATIENCE):  # lists are of a moment ago
        while [one async for one in temporal_client.list_workflows(left)]:
            await asyncio.sleep(0.05)


@pytest.mark.patient
async def test_defaults_are_seen_as_such(monkeypatch) -> None:
    settings = "frontend.enableExecuteMultiOperation=false", "matching.useNewMatcher=true"
    words = [word for one in settings for word in ("--dynamic-config-value", one)]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(await asyncio.to_thread(obtain_temporal)),
        dev_server_extra_args=words,
    ) as other:
        monkeypatch.setenv("TEMPORAL_ADDRESS", other.client.service_client.config.target_host)
        trial = (await examine_temporal(Settings()))["trial"]
    assert (trial["updateWithStart"], trial["eager"], trial["priorities"]) == (False, False, True)
    # 20 tasks a second, however fast the machine is, and whatever holds it up.
    assert trial["unlimited"] is False


@pytest.mark.patient
async def test_a_namespace_that_is_not_there_is_told(temporal_client: Client, monkeypatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_client.service_client.config.target_host)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "elsewhere")
    found = await examine_temporal(Settings())
    assert "elsewhere" in found["problem"]


async def test_a_temporal_that_is_away_is_told(monkeypatch) -> None:
    address = free_address()
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    found = await examine_temporal(Settings())
    assert found["address"] == address
    assert found["problem"]


async def test_a_configuration_that_cannot_be_used_is_told(monkeypatch) -> None:
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/nowhere/config.toml")
    monkeypatch.setenv("TEMPORAL_PROFILE", "none")
    assert (
        "Temporal's configuration cannot be used" in (await examine_temporal(Settings()))["problem"]
    )


async def test_a_database_of_this_version_has_no_problem(url: str) -> None:
    assert await examine_database(StoreSettings(url=SecretStr(url))) == {}


async def test_an_empty_database_is_told(databases: Databases) -> None:
    empty = databases.empty()
    try:
        found = await examine_database(StoreSettings(url=SecretStr(empty)))
    finally:
        databases.drop(empty)
    assert "no tables of knit" in found["problem"]
    assert "revision" in found["problem"]


@pytest.mark.patient
async def test_the_program_prints_one_json_object(monkeypatch) -> None:
    """With 0, whatever it found; settings that are refused are a finding, too."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", free_address())
    monkeypatch.setenv("KNIT_STORE__URL", f"postgresql://{free_address()}/knit")
    found = await printed()
    assert datetime.now(UTC) - datetime.fromisoformat(found["clock"]) < timedelta(minutes=5)
    assert found["database"]["problem"]
    assert found["temporal"]["problem"]
    monkeypatch.setenv("KNIT_STORE__ULR", "x")
    assert "KNIT_STORE__ULR is not a setting of knit" in (await printed())["problem"]


@pytest.mark.patient
async def test_it_ends_well_after_it_has_asked_temporal(
    temporal_client: Client, monkeypatch
) -> None:
    """Threads of Temporal's core run still at its end, and have crashed the interpreter."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_client.service_client.config.target_host)
    for _ in range(5):
        found = await printed()
        assert "problem" not in found["temporal"]["trial"]


async def printed() -> dict:
    program = (
        "from datetime import timedelta; from knit_workflows import examination;"
        f"examination._PATIENCE = examination._TRIAL = timedelta(seconds={PATIENCE});"
        "examination.main()"
    )
    command = (sys.executable, "-c", program)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.patient
async def test_a_temporal_that_says_nothing_is_told(monkeypatch) -> None:
    monkeypatch.setattr(examination, "_PATIENCE", timedelta(seconds=0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        assert (await examine_temporal(Settings()))["problem"] == "it does not answer in time"
