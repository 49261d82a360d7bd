"""When the reserve of a state folder is made, and when it is given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_cli.dev.disk_reserve import RELEASE_INTERVAL, ReserveKeeper
from knit_workflows.disk import RESERVE_BYTES, DiskSpace, Reserve

GIB = 1 << 30
SLICE = RESERVE_BYTES // 8


class World:
    """A disk, and the time; both stand still unless a test moves them."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.free = 10 * GIB
        self.reserve = Reserve(folder / "reserve")
        self.keeper = ReserveKeeper(
            folder, self.reserve, 256 << 20, measure=self.measure, clock=lambda: self.now
        )

    def measure(self, folder: Path) -> DiskSpace:
        return DiskSpace(folder, self.free, 100 * GIB)

    def look(self, times: int = 1, *, in_need: bool = False) -> int:
        """Lets some time pass and has it looked; gives the slices that are reserved now."""
        for _ in range(times):
            self.now += RELEASE_INTERVAL
            self.keeper.poll(in_need=in_need)
        return self.reserve.size() // SLICE


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_is_made_where_there_is_room_above_the_floor(world: World) -> None:
    """It must not itself be what makes Runs wait."""
    world.free = (256 << 20) + RESERVE_BYTES - 1
    assert world.look() == 0
    world.free += 1
    assert world.look() == 8


def test_half_is_for_whoever_runs_out_of_room_slice_by_slice(world: World) -> None:
    """The other half stays for stops and deletions, however greedy a Run is."""
    world.look()
    world.free = 0
    assert world.look() == 7
    world.keeper.poll(in_need=False)  # no time has passed
    assert world.reserve.size() == 7 * SLICE
    assert world.look(10) == 4


def test_all_of_it_is_for_a_database_that_does_not_come_up(world: World) -> None:
    """It wants more than almost nothing, too."""
    world.look()
    world.free = 16 << 20
    assert world.look() == 8
    assert world.look(20, in_need=True) == 0


def test_it_is_made_whole_again(world: World) -> None:
    world.look()
    world.free = 0
    assert world.look(3) == 5
    world.free = 256 << 20
    assert world.look() == 5
    world.free = GIB
    assert world.look() == 8


def test_a_reserve_that_cannot_be_made_ends_nothing(world: World, tmp_path: Path) -> None:
    """It is said in the log, and tried again."""
    (tmp_path / "reserve").mkdir()
    world.look()
    (tmp_path / "reserve").rmdir()
    assert world.look() == 8
