"""`python -m tests`: every test, tier by tier; a tier that cannot run here is reported by name.

The tiers are pytest runs of their own: quick tests share both cores; slow ones, and those on the
real node, run one at a time. The node's programs are built meanwhile where they are not cached.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "tests" / "cluster"


@dataclass(frozen=True)
class Tier:
    """One pytest run."""

    name: str
    arguments: tuple[str, ...]


TIERS = (
    Tier("quick", ("-n", "2", "-m", "not slow and not cluster")),
    Tier("slow", ("-m", "slow and not cluster")),
    Tier("kubernetes", ("-m", "cluster")),
)


@dataclass
class Count:
    """What came of the tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path) -> None:
        """Add what a JUnit report says; none (pytest itself broke) counts as one failure."""
        if not report.exists():
            self.failed += 1
            return
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            broken = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            self.passed += tests - skipped - broken
            self.failed += broken
            self.skipped += skipped


def main() -> int:
    """Run the tiers; gives the exit code."""
    os.chdir(ROOT)
    environment = {**os.environ, **_engine()}
    building = subprocess.Popen([sys.executable, str(CLUSTER / "up.py")], stdout=subprocess.PIPE)
    count, skipped = Count(), []
    for tier in TIERS:
        if tier.name == "kubernetes" and building.wait() != 0:
            reason = "the real node could not be started (see above)"
            skipped.append(f"{tier.name}: {reason}")
            # Where it is known to be possible, not having it is a failure.
            count.failed += os.geteuid() == 0 and shutil.which("apt-get") is not None
            continue
        _run(tier, environment, count)
    if building.wait() == 0:
        subprocess.run([sys.executable, str(CLUSTER / "down.py")], check=False)
    for line in skipped:
        print(f"SKIPPED TIER {line}")
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped")
    return 1 if count.failed else 0


def _run(tier: Tier, environment: dict[str, str], count: Count) -> None:
    print(f"=== {tier.name} tests", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *tier.arguments]
        subprocess.run(command, env=environment, check=False)
        count.add(report)
    print(f"=== {tier.name} tests took {time.monotonic() - begun:.0f} s", flush=True)


def _engine() -> dict[str, str]:
    """Give what tests need in their environment to use a container engine; nothing without one."""
    command = [sys.executable, "tools/sandbox.py", "--for-tests"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        print("SKIPPED TIER container engine: none could be set up (see above)")
        return {}
    environment: dict[str, str] = json.loads(found.stdout)
    return environment


if __name__ == "__main__":
    sys.exit(main())
