"""`python -m tests`: every test, tier by tier; a tier that cannot run here is reported by name.

The tiers are pytest runs of their own, in two rows that go on side by side. The one has the quick
tests and then those that kill processes. The other has those on the real node, which mostly wait;
it begins as soon as there is one. Those of its tests that only talk to the API server go on beside
its pods. The programs of the node and of the charts, and the S3 server, are
built during the quick tests where they are not cached.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import notes

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "tests" / "cluster"


@dataclass(frozen=True)
class Tier:
    """One pytest run."""

    name: str
    arguments: tuple[str, ...]


# Three, since many of them wait.
QUICK = Tier("quick", ("-n", "3", "-m", "not slow and not cluster", "--durations=25"))
SLOW = Tier(
    "slow",
    (
        *("-n", "2", "--dist", "loadfile"),
        # As they are collected: the longest are in the folders that come first.
        "--no-loadscope-reorder",
        *("-m", "slow and not cluster", "--durations=10"),
    ),
)
KUBERNETES = Tier("kubernetes", ("-m", "cluster", "--ignore=tests/charts", "--durations=10"))
WITHOUT_PODS = ("tests/charts/test_knit_admin_cut.py", "tests/charts/test_rights_on_node.py")
OBJECTS = Tier("objects of charts", (*WITHOUT_PODS, "-m", "cluster", "--durations=10"))
# It drains the node, so it goes alone.
KILLED = Tier("every part killed", ("tests/charts/test_killed_on_node.py", "--durations=10"))
ADMIN = Tier("knit admin", ("tests/charts/test_knit_admin_on_node.py", "--durations=10"))
ELSEWHERE = (*WITHOUT_PODS, *KILLED.arguments[:1], *ADMIN.arguments[:1])
CHARTS = Tier(
    "charts",
    ("tests/charts", *(f"--ignore={one}" for one in ELSEWHERE), "-m", "cluster",
     "--durations=10"),
)  # fmt: skip


@dataclass
class Count:
    """What came of the tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path, code: int) -> None:
        """Adds what a JUnit report says; that pytest itself broke counts as one failure."""
        self.failed += code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not report.exists():
            return
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            broken = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            self.passed += tests - skipped - broken
            self.failed += broken
            self.skipped += skipped


async def main() -> int:
    """Runs the tiers; gives the exit code."""
    os.chdir(ROOT)
    # A shell that puts this into the background has Ctrl-C ignored, in all that is started, too;
    # nohup has the end of a terminal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    begun = time.monotonic()
    environment = {**os.environ, **_engine()}
    count = Count()
    async with asyncio.TaskGroup() as rows:
        rows.create_task(_run(count, environment, QUICK, SLOW))
        rows.create_task(_run_on_node(count, environment))
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped", end="")
    print(f" in {(time.monotonic() - begun) / 60:.0f} min")
    return 1 if count.failed else 0


async def _run_on_node(count: Count, environment: dict[str, str]) -> None:
    """Starts the real node, and runs what needs it.

    At most two go on at a time: their pods would wait for each other's share of the node's cores.
    """
    up = [sys.executable, str(CLUSTER / "up.py")]
    node = await asyncio.create_subprocess_exec(*up, stdout=subprocess.DEVNULL)
    # Beside the first tests, so that those of the charts find what they need.
    prepare = [sys.executable, "-m", "tests.charts.prepare"]
    prepared = await asyncio.create_subprocess_exec(*prepare, stdout=subprocess.DEVNULL)
    building = asyncio.create_task(_build())
    if await node.wait() != 0:
        await prepared.wait()
        await building
        tiers = (KUBERNETES, OBJECTS, CHARTS, ADMIN, KILLED)
        names = ", ".join(one.name for one in tiers)
        print(f"SKIPPED TIERS {names}: the real node could not be started (see above)")
        # Where it is known to be possible, not having it is a failure.
        count.failed += os.geteuid() == 0 and shutil.which("apt-get") is not None
        return
    async with asyncio.TaskGroup() as together:
        together.create_task(_run(count, environment, KUBERNETES))
        await prepared.wait()
        together.create_task(_run(count, environment, OBJECTS))
    async with asyncio.TaskGroup() as together:
        together.create_task(_run(count, environment, CHARTS))
        together.create_task(_run(count, environment, ADMIN))
    await _run(count, environment, KILLED)
    await building
    subprocess.run([sys.executable, str(CLUSTER / "down.py")], check=False)


async def _build() -> None:
    """Builds what slow tests in the other row need; each reports itself what it cannot build."""
    for module in ("tests.contract.destinations.gateway", "tests.charts.promtool"):
        command = (sys.executable, "-m", module)
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        await process.wait()


async def _run(count: Count, environment: dict[str, str], *tiers: Tier) -> None:
    """Runs tiers one after the other; what one prints is shown when it has ended."""
    for tier in tiers:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory("", "knit-tier-", ignore_cleanup_errors=True) as folder:
            report, output = Path(folder) / "report.xml", Path(folder) / "output"
            noted = Path(folder) / "notes"
            # A root of its own: each session of pytest closes the shared one to other users anew,
            # and PostgreSQL, which is one, loses what it is just making there.
            command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
            command.append(f"--basetemp={folder}/t")
            with output.open("wb") as file:
                process = await asyncio.create_subprocess_exec(
                    *(*command, *tier.arguments),
                    env={**environment, notes.FILE: str(noted)},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            code = await process.wait()
            print(f"=== {tier.name} tests")
            print(output.read_text(errors="replace"))
            print(noted.read_text() if noted.exists() else "", end="")
            print(f"=== took {time.monotonic() - begun:.0f} s", flush=True)
            count.add(report, code)


def _engine() -> dict[str, str]:
    """Gives what tests need in their environment to use a container engine; nothing without one."""
    command = [sys.executable, "tools/sandbox.py", "--for-tests"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        print("SKIPPED TIER container engine: none could be set up (see above)")
        return {}
    environment: dict[str, str] = json.loads(found.stdout)
    return environment


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
