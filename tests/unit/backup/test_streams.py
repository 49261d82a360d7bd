"""Streams that are consumed at the same time: in order, to their end, and never half."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from knit_workflows.archive import iter_pack
from knit_workflows.backup.blobs import Piece
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.problems import Damaged
from knit_workflows.backup.streams import AtOnce
from knit_workflows.backup.volumes import Restored, announce, write_volumes


def chunks(count: int, gone: list[int] | None = None) -> Iterator[bytes]:
    for number in range(count):
        yield b"%d" % number
        if gone is not None:
            gone.append(number)


def test_streams_are_consumed_at_the_same_time_and_give_results_in_order():
    both = threading.Barrier(2, timeout=10)

    def consume(stream: Iterator[bytes]) -> bytes:
        first = next(stream)
        both.wait()  # the other is under way, too
        return first + b"".join(stream)

    with AtOnce[bytes](2) as team:
        found = [one for word in (b"a", b"b") for one in team.do(consume, iter([word]))]
        found += team.rest()
    assert found == [b"a", b"b"]


def test_a_stream_that_nobody_reads_on_does_not_hold_up_the_next():
    with AtOnce[bytes](2) as team:
        gone: list[int] = []
        found = list(team.do(next, chunks(50, gone))) + list(team.rest())
    assert (found, len(gone)) == ([b"0"], 50)


def test_what_a_consumer_meets_is_raised():
    def fails(stream: Iterator[bytes]) -> bytes:
        raise ValueError(next(stream))

    with AtOnce[bytes](2) as team:
        list(team.do(fails, chunks(9)))
        with pytest.raises(ValueError, match="0"):
            list(team.rest())


def test_of_a_volume_whose_content_is_damaged_nothing_is_there(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 3_000_000)
    archive = list(iter_pack(source))
    pieces = tuple(map(Piece.of, archive))

    def frames() -> Iterator[dict[str, object] | bytes]:
        yield announce([Restored("good", pieces), Restored("bad", pieces)])
        yield {"volume": "good"}
        yield from archive
        yield {"end": True}
        yield {"volume": "bad"}
        yield archive[0]
        raise Damaged("a piece is damaged")

    volumes = FolderVolumes(tmp_path / "state")
    assert volumes.at_once > 1
    with pytest.raises(Damaged):
        list(write_volumes(volumes, frames()))
    assert [one.name for one in (tmp_path / "state" / "volumes").iterdir()] == ["data-knitid-good"]
    assert not list((tmp_path / "state" / "trash").iterdir())
