"""The lock in S3 is its holder's until another one has it, whatever answers are lost."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import MemoryStore, S3Store

from knit_workflows.backup.destinations import s3 as module
from knit_workflows.backup.destinations.s3 import Lease
from knit_workflows.backup.problems import BackupProblem
from tests.waiting import wait_until


class Deaf(MemoryStore):
    """A store that writes the lock, and some of whose answers do not arrive.

    `lost`: what the writer meets instead, by the number of its call.
    """

    lost: dict[int, BaseError]
    puts = 0

    def put(self, path: str, file: Any, **how: Any) -> Any:
        self.puts += 1
        answer = super().put(path, file, **how)
        if self.puts in self.lost:
            raise self.lost[self.puts]
        return answer


def taken(store: MemoryStore) -> Lease:
    return Lease.taken(cast("S3Store", store), "s3://bucket")


# A time-out, or what a repeated request meets that has been carried out.
@pytest.mark.parametrize("met", [BaseError("timed out"), PreconditionError("another ETag")])
@pytest.mark.parametrize("numbers", [(2,), (2, 3, 4)])
def test_a_renewal_whose_answer_is_lost_loses_no_lock(
    met: BaseError, numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_RENEWAL", 0.01)
    store = Deaf()
    store.lost = dict.fromkeys(numbers, met)
    lease = taken(store)
    wait_until(lambda: store.puts > 8)
    lease.require()
    lease.release()
    with pytest.raises(FileNotFoundError):
        store.head("lock")


@pytest.mark.parametrize(
    "written", [json.dumps({"holder": "another", "at": 0}).encode(), b"another", b"[]", None]
)
def test_a_lock_that_another_has_is_lost(written: bytes | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_RENEWAL", 0.01)
    store = MemoryStore()
    lease = taken(store)
    if written is None:
        store.delete("lock")
    else:
        store.put("lock", written)

    def is_lost() -> bool:
        try:
            lease.require()
        except BackupProblem:
            return True
        return False

    wait_until(is_lost)
    lease.release()
    if written is not None:
        assert store.get("lock").bytes().to_bytes() == written
