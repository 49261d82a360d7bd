"""What is special in S3: a lease for a lock, and servers that are away."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_workflows.backup.destinations import s3 as module
from knit_workflows.backup.destinations.s3 import Bucket
from knit_workflows.backup.problems import BackupProblem
from tests.contract.destinations.gateway import BUCKET, Gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # its server takes minutes to build, once


@pytest.fixture
def bucket(s3: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return Bucket.named(f"s3://{BUCKET}/{tmp_path.name}")


def test_the_lock_of_a_killed_one_is_taken_over(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LEASE", 2.0)
    bucket.write("lock", b"of one that was killed")
    with bucket.locked() as lock:
        lock.require()
    assert bucket.read("lock") is None


def test_a_lock_that_another_has_taken_over_is_noticed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_RENEWAL", 0.05)
    with bucket.locked() as lock:
        bucket.write("lock", b"another's")

        def is_lost() -> bool:
            try:
                lock.require()
            except BackupProblem:
                return True
            return False

        wait_until(is_lost)
    assert bucket.read("lock") == b"another's"


def test_what_is_wrong_is_said_in_words(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BackupProblem, match="cannot write s3://") as refused:
        Bucket.named(f"s3://{BUCKET}/x").write("a", b"")
    assert refused.value.advice.startswith("check the bucket")
    with pytest.raises(BackupProblem, match="names no bucket"):
        Bucket.named("s3:///x")
