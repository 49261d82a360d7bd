"""Volumes behind real agents, as transfer pods run them, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from knit_workflows import archive
from knit_workflows.backup.blobs import Piece, pieces_of
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.pods import PodVolumes
from knit_workflows.backup.streams import Stream
from knit_workflows.backup.volumes import (
    Restored,
    VolumeAbsent,
    VolumeOccupied,
    VolumeUnreadable,
    Wanted,
    announce,
    read_volumes,
    write_volumes,
)
from knit_workflows.compute.base import ComputeBackend
from knit_workflows.domain.volumes import Volume, VolumeOptions
from tests.unit.backup.agents import Agents, SlowAgents
from tests.waiting import wait_until

pytestmark = pytest.mark.patient  # a server per volume


@contextmanager
def pods(
    root: Path, storage_class: str | None = None, usual: int = 0
) -> Iterator[tuple[PodVolumes, Agents]]:
    root.mkdir(exist_ok=True)
    agents = Agents(root)
    volumes = PodVolumes(cast(ComputeBackend, agents), storage_class, usual=usual)
    with volumes.at_work():
        yield volumes, agents


def fill(folder: Path) -> dict[str, bytes]:
    """Makes ten volumes, and gives their archives."""
    archives = {}
    for number in range(10):
        volume = folder / f"data-knitid-{number}"
        (volume / "deep").mkdir(parents=True)
        (volume / "deep" / "file").write_bytes(bytes([number]) * (number << 16))
        (volume / "link").symlink_to("deep/file")
        archives[str(number)] = b"".join(archive.iter_pack(volume))
    return archives


def frames(archives: dict[str, bytes]) -> Iterator[dict[str, Any] | bytes]:
    """What a restore sends."""
    yield announce(
        [
            Restored(one, tuple(map(Piece.of, pieces_of([whole]))), 77)
            for one, whole in archives.items()
        ]
    )
    for one, whole in archives.items():
        yield {"volume": one}
        yield whole
        yield {"end": True}


def test_volumes_are_read_some_ahead_and_closed(tmp_path: Path):
    archives = fill(tmp_path / "v")
    wanted = [Wanted(one, f"data-knitid-{one}") for one in [*archives, "gone"]]
    with pods(tmp_path / "v") as (volumes, agents):
        now = ""
        found: dict[str, bytes] = {}
        failed: dict[str, Any] = {}
        for frame in read_volumes(volumes, wanted):
            if isinstance(frame, bytes):
                found[now] += frame
            elif "volume" in frame:
                now = frame["volume"]
                found[now] = b""
            elif "failed" in frame:
                failed = frame
            else:
                assert frame == {"read": now, "capacity": 1 << 30}
    assert found.pop("gone") == b""
    assert found == archives
    assert failed == {
        "failed": "gone", "why": "the content of data-knitid-gone is gone", "absent": True
    }  # fmt: skip
    assert 1 < agents.most <= 8
    assert all(name.endswith("-read-backup") for name in agents.open_names)


def test_volumes_are_made_and_equal_ones_are_found(tmp_path: Path):
    archives = fill(tmp_path / "v")
    with pods(tmp_path / "w", "fast") as (volumes, agents):
        told = list(write_volumes(volumes, frames(archives)))
        assert told == [{"made": one} for one in archives]
        assert set(agents.made.values()) == {VolumeOptions(storage_class="fast", size="77")}
        assert list(write_volumes(volumes, frames(archives))) == [
            {"equal": one} for one in archives
        ]
        (tmp_path / "w" / "data-knitid-3" / "more").touch()
        told = list(write_volumes(volumes, frames(archives)))
        assert [one for one in told if "equal" not in one] == [
            {"failed": "3", "why": "the volume data-knitid-3 is there, with other content"}
        ]
    for one, whole in archives.items():
        if one != "3":
            assert b"".join(archive.iter_pack(tmp_path / "w" / f"data-knitid-{one}")) == whole


@pytest.mark.parametrize("to_write", [False, True])
def test_agents_that_ended_meanwhile_are_opened_anew(tmp_path: Path, *, to_write: bool):
    archives = fill(tmp_path / "v")
    first, second = (Volume(f"data-knitid-{one}", one) for one in "12")
    folder = tmp_path / ("w" if to_write else "v")
    with pods(folder) as (volumes, agents):
        volumes.expect([first, second], to_write=to_write)

        def slow() -> Iterator[bytes]:
            """The content of the first, whose transfer takes longer than agents wait."""
            ahead = f"knitid-2-{'write' if to_write else 'read'}-backup"
            wait_until(lambda: ahead in agents.open_names)
            agents.end_idle(ahead)
            yield archives["1"]

        if to_write:
            volumes.write(first, slow())
            volumes.write(second, iter([archives["2"]]))
        else:
            reading = volumes.read(first)
            begun = next(reading)
            next(slow())
            assert b"".join([begun, *reading]) == archives["1"]
            assert b"".join(volumes.read(second)) == archives["2"]
    assert b"".join(archive.iter_pack(folder / second.name)) == archives["2"]


def test_what_could_not_be_opened_ahead_is_tried_once_more(tmp_path: Path):
    archives = fill(tmp_path / "v")
    first, second = (Volume(f"data-knitid-{one}", one) for one in "12")
    with pods(tmp_path / "v") as (volumes, agents):
        agents.refused.add(second.name)
        volumes.expect([first, second], to_write=False)
        reading = volumes.read(first)
        begun = next(reading)
        wait_until(lambda: agents.refusals > 0)
        volumes.capacity(first)  # its answer comes after that refusal
        agents.refused.clear()
        assert b"".join([begun, *reading]) == archives["1"]
        assert b"".join(volumes.read(second)) == archives["2"]


def test_a_server_that_does_not_answer_for_a_moment_is_asked_again(tmp_path: Path):
    archives = fill(tmp_path / "v")
    volume = Volume("data-knitid-3", "3")
    with pods(tmp_path / "v") as (volumes, agents):
        agents.outages = 3
        assert b"".join(volumes.read(volume)) == archives["3"]
    with pods(tmp_path / "w") as (volumes, agents):
        agents.outages = 3
        volumes.write(volume, iter([archives["3"]]))
    assert b"".join(archive.iter_pack(tmp_path / "w" / volume.name)) == archives["3"]


def test_only_a_volume_that_is_missing_is_absent(tmp_path: Path):
    fill(tmp_path / "v")
    with pods(tmp_path / "v") as (volumes, agents):
        agents.refused.add("data-knitid-3")
        with pytest.raises(VolumeUnreadable, match="the transfer pod cannot start"):
            list(volumes.read(Volume("data-knitid-3", "3")))
        with pytest.raises(VolumeAbsent):
            list(volumes.read(Volume("data-knitid-none", "none")))


def test_equal_files_are_found_though_their_archive_has_other_bytes(tmp_path: Path):
    """As where other storage knows no holes, or a mode has been changed for its owner to read."""
    folder = tmp_path / "v" / "data-knitid-1"
    folder.mkdir(parents=True)
    with (folder / "sparse").open("wb") as file:
        file.write(b"1" * 5_000)
        file.seek(9_000_000)
        file.write(b"2" * 70_000)
        file.truncate(20_000_000)
    (folder / "closed").write_bytes(b"3")
    (folder / "closed").chmod(0o244)
    archives = {"1": b"".join(archive.iter_pack(folder))}
    with pods(tmp_path / "w") as (volumes, _):
        assert list(write_volumes(volumes, frames(archives))) == [{"made": "1"}]
        copy = tmp_path / "w" / "data-knitid-1"
        whole = (copy / "sparse").read_bytes()
        (copy / "sparse").write_bytes(whole)
        assert b"".join(archive.iter_pack(copy)) != archives["1"]
        assert list(write_volumes(volumes, frames(archives))) == [{"equal": "1"}]
        (copy / "sparse").write_bytes(whole[:-1] + b"x")
        told = list(write_volumes(volumes, frames(archives)))
        assert [one.get("failed") for one in told] == ["1"]


def test_a_volume_of_unknown_capacity_gets_room_for_its_archive(tmp_path: Path):
    archives = {one: whole for one, whole in fill(tmp_path / "v").items() if one in "09"}
    mib = 1 << 20
    some = [
        Restored("0", (Piece("", 100 * mib),)),
        Restored("9", (Piece("", 1000 * mib), Piece("", 24 * mib))),
    ]
    with pods(tmp_path / "w", usual=1000 * mib) as (volumes, agents):
        told = [announce(some), *list(frames(archives))[1:]]
        assert list(write_volumes(volumes, told)) == [{"made": "0"}, {"made": "9"}]
        sizes = [agents.made[f"data-knitid-{one}"].size for one in "09"]
    assert sizes == [None, str((1024 + 256 + 64) * mib)]


def test_what_an_agent_refuses_is_told(tmp_path: Path):
    with pods(tmp_path / "w") as (volumes, _):
        with pytest.raises(VolumeUnreadable, match="data-knitid-x: 400 "):
            volumes.write(Volume("data-knitid-x", "x"), iter([b"no archive at all" * 100]))
        assert not list((tmp_path / "w" / "data-knitid-x").iterdir())


def test_what_was_cut_is_undone_before_its_agent_goes(tmp_path: Path):
    """Else the next restore would find half of it, and leave it as other content."""
    folder = tmp_path / "v"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}").write_bytes(bytes([number]) * 10_000)
    whole = b"".join(archive.iter_pack(folder))
    volume = Volume("data-knitid-x", "x")
    (tmp_path / "w" / volume.name).mkdir(parents=True)

    def cut() -> Iterator[bytes]:
        yield whole[:300_000]
        raise KeyboardInterrupt

    volumes = PodVolumes(cast(ComputeBackend, SlowAgents(tmp_path / "w")))
    with volumes.at_work():
        with pytest.raises(KeyboardInterrupt):
            volumes.write(volume, cut())
        volumes.write(volume, iter([whole]))
    assert b"".join(archive.iter_pack(tmp_path / "w" / volume.name)) == whole


def test_folders_are_volumes_too(tmp_path: Path):
    archives = fill(tmp_path / "a" / "volumes")
    there, here = FolderVolumes(tmp_path / "a"), FolderVolumes(tmp_path / "b")
    for one, whole in archives.items():
        volume = Volume(f"data-knitid-{one}", one)
        assert b"".join(there.read(volume)) == whole
        here.write(volume, iter([whole[:700], b"", whole[700:]]))
        assert b"".join(here.read(volume)) == whole
        with pytest.raises(VolumeOccupied):
            here.write(volume, iter([whole]))
    assert (tmp_path / "b" / "volumes" / "data-knitid-1").stat().st_mode & 0o777 == 0o777
    with pytest.raises(VolumeAbsent):
        list(there.read(Volume("data-knitid-none", "none")))
    with pytest.raises(VolumeUnreadable):
        here.write(Volume("data-knitid-cut", "cut"), iter([archives["3"][:2000]]))
    assert not (tmp_path / "b" / "volumes" / "data-knitid-cut").exists()
    assert not list((tmp_path / "b" / "trash").iterdir())


def test_a_stream_is_read_in_the_sizes_asked_for():
    stream = Stream(iter([b"abc", b"", b"defgh"]))
    assert [bytes(stream.read(size)) for size in (2, 5, 4, 9, 1)] == [
        b"ab",
        b"c",
        b"defg",
        b"h",
        b"",
    ]
