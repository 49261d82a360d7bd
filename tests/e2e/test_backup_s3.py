"""A backup of a stack at work in a real S3 server, as the page says: killed, repeated, restored."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.contract.destinations.gateway import BUCKET, gateway
from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, until

pytestmark = [pytest.mark.timeout(1200), pytest.mark.engine, pytest.mark.slow]

LARGE: Final = 96 << 20
DESTINATION: Final = f"s3://{BUCKET}/knit"
PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "backup.md"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The server's folder of this bucket; the variables that the page exports lead there."""
    told = re.findall(r"\b(AWS_\w+)=", PAGE.read_text().partition("## In S3")[2])
    with gateway(tmp_path / "s3") as served:
        for name in os.environ:
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        for name in told:
            monkeypatch.setenv(name, served.variables[name])
        # The proxy of a `DevStack` is nowhere; S3 is asked through proxies, even on this machine.
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield tmp_path / "s3" / "data" / BUCKET / "knit"


def test_a_stack_comes_back_from_s3(bucket: Path, tmp_path: Path) -> None:
    """What was stored before a kill is not stored again, and all is the same in another stack."""
    with dev_folder() as first, dev_folder() as second, dev_stack(first) as stack:
        stack.up()
        plan = stack.apply(shell_plan("cat /in/word > /out/word; echo said", "a:1"))
        slow = stack.apply(shell_plan("sleep 3000", "b:1"))
        ids = [stack.push(f"word {number}", "a:1") for number in range(3)]
        stack.push("slow", "b:1")
        large = tmp_path / "large"
        large.mkdir()
        (large / "file").write_bytes(os.urandom(LARGE))
        ids.append(str(stack.knit("data", "push", "--tag", "c:1", large).json()["knitId"]))
        under_way = stack.run_in(slow, "running")["runId"]
        until(lambda: [one["status"] for one in stack.runs(plan)] == ["done"] * 3)

        stored = killed_after_its_first_object(stack, bucket)
        assert "there is no set in" in stack.knit("admin", "restore", DESTINATION, "--list").err
        made = stack.knit("admin", "backup", DESTINATION, "--json").json()
        assert made["destination"] == DESTINATION
        assert made["unreadable"] == {}
        assert made["volumeBytes"] > LARGE
        assert stored.items() <= objects(bucket).items()

        again = stack.knit("admin", "backup", DESTINATION, "--json").json()
        assert (again["volumesRead"], again["bytesRead"]) == (0, 0)
        assert again["volumes"] == made["volumes"]
        listed = stack.knit("admin", "restore", DESTINATION, "--list", "--json").json()
        assert sorted(one["set"] for one in listed) == sorted((made["set"], again["set"]))
        before = Picture(stack, ids)
        stack.down()

        with dev_stack(second) as other:
            other.up()
            tried = other.knit("admin", "restore", DESTINATION, "--dry-run", "--json").json()
            assert (tried["set"], tried["bytes"] > LARGE) == (again["set"], True)
            restored = other.knit("admin", "restore", DESTINATION, "--json").json()
            assert restored["made"] == again["volumes"]
            after = Picture(other, ids)
            assert after.lineages == before.lineages
            assert [len(one) for one in before.lineages[ids[0]]] == [3, 2]  # uploaded, used
            assert after.data.keys() == before.data.keys()
            assert after.apart_from(under_way) == before.apart_from(under_way)
            assert "under way when the backup of" in after.runs[under_way]["exit"]["message"]
            assert len(before.apart_from(under_way)) > len(ids) * 3
            assert other.pulled(ids[0]) == {"word": "word 0"}
            verified = other.knit("admin", "verify", "--state", other.state, "--hashes", "--json")
            assert verified.json()["findings"] == []


class Picture:
    """What the API of a stack tells of its Data, its Runs, and the lineage of some Data."""

    def __init__(self, stack: DevStack, ids: list[str]) -> None:
        self.data = by_id(stack.get("/data", limit="1000"), "knitId")
        self.runs = by_id(stack.get("/runs", limit="1000"), "runId")
        self.lineages = {one: lineage(stack, one) for one in ids}

    def apart_from(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Gives the Data and the Runs in which nothing is said of this Run."""
        return {key: one for key, one in (self.data | self.runs).items() if run_id not in str(one)}


def by_id(found: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {one[key]: one for one in found}


def lineage(stack: DevStack, knit_id: str) -> tuple[set[str], set[str]]:
    """Gives the Data and the Runs before and after a Data."""
    graph = stack.get(f"/data/{knit_id}/lineage")
    return {one["knitId"] for one in graph["data"]}, {one["runId"] for one in graph["runs"]}


def objects(bucket: Path) -> dict[str, tuple[int, int]]:
    """Gives the pieces in the bucket; one that is written again is another file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in bucket.glob("blobs/*/*.zst")
    }


def killed_after_its_first_object(stack: DevStack, bucket: Path) -> dict[str, tuple[int, int]]:
    """Kills a backup with SIGKILL once it has stored something; gives what it had stored."""
    process = stack.start("admin", "backup", DESTINATION)
    try:
        until(lambda: process.poll() is not None or objects(bucket))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    return objects(bucket)
