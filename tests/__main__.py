"""`python -m tests`: every test, tier by tier; a tier that cannot run here is reported by name.

The tiers are pytest runs of their own. The quick ones share both cores. Those that kill processes
and those on the real node follow, side by side: they mostly wait. The programs of the node and of
the charts are built during the quick ones where they are not cached.
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


QUICK = Tier("quick", ("-n", "2", "-m", "not slow and not cluster"))
SLOW = Tier(
    "slow", ("-n", "2", "--dist", "loadfile", "-m", "slow and not cluster", "--durations=10")
)
KUBERNETES = Tier("kubernetes", ("-m", "cluster", "--ignore=tests/charts", "--durations=10"))
CHARTS = Tier("charts", ("tests/charts", "-m", "cluster", "--durations=10"))


@dataclass
class Count:
    """What came of the tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path) -> None:
        """Adds what a JUnit report says; none (pytest itself broke) counts as one failure."""
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
    """Runs the tiers; gives the exit code."""
    os.chdir(ROOT)
    environment = {**os.environ, **_engine()}
    node = subprocess.Popen([sys.executable, str(CLUSTER / "up.py")], stdout=subprocess.PIPE)
    # Beside the first tests, so that those of the charts find what they need.
    prepare = [sys.executable, "-m", "tests.charts.prepare"]
    prepared = subprocess.Popen(prepare, stdout=subprocess.DEVNULL)
    count = Count()
    _Started(QUICK, environment).end(count)
    slow = _Started(SLOW, environment)
    if node.wait() == 0:
        # One after the other: their pods would wait for each other's share of the node's cores.
        _Started(KUBERNETES, environment).end(count)
        prepared.wait()
        charts = _Started(CHARTS, environment)
        slow.end(count)
        charts.end(count)
        subprocess.run([sys.executable, str(CLUSTER / "down.py")], check=False)
    else:
        prepared.wait()
        slow.end(count)
        names = f"{KUBERNETES.name}, {CHARTS.name}"
        print(f"SKIPPED TIERS {names}: the real node could not be started (see above)")
        # Where it is known to be possible, not having it is a failure.
        count.failed += os.geteuid() == 0 and shutil.which("apt-get") is not None
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped")
    return 1 if count.failed else 0


class _Started:
    """A tier under way; what it prints is shown when it has ended."""

    def __init__(self, tier: Tier, environment: dict[str, str]) -> None:
        self._tier = tier
        self._begun = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="knit-tier-")
        self._report = Path(self._folder.name) / "report.xml"
        self._output = Path(self._folder.name) / "output"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={self._report}"]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *tier.arguments],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, count: Count) -> None:
        """Waits for its end, shows it, counts it."""
        self._process.wait()
        print(f"=== {self._tier.name} tests")
        print(self._output.read_text(errors="replace"))
        print(f"=== took {time.monotonic() - self._begun:.0f} s", flush=True)
        count.add(self._report)
        self._folder.cleanup()


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
    sys.exit(main())
