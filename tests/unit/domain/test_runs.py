from __future__ import annotations

import pytest

from knit_workflows.domain.runs.run import (
    ABORTED_BY_USER,
    LOST,
    MOVES,
    STOPPED_BY_USER,
    SUCCEEDED,
    Exit,
    RunStatus,
    may_move,
)

LEGAL = {
    "deactivated": {"waiting", "aborting"},
    "waiting": {"deactivated", "ready", "aborting"},
    "ready": {"starting", "running", "aborting", "completing"},
    "starting": {"running", "aborting", "completing"},
    "running": {"aborting", "completing"},
    "aborting": {"failed"},
    "completing": {"done"},
    "done": set(),
    "failed": set(),
    "invalidated": set(),
}


@pytest.mark.parametrize("current", RunStatus)
@pytest.mark.parametrize("target", RunStatus)
def test_the_legal_moves(current: RunStatus, target: RunStatus) -> None:
    assert may_move(current, target) is (target.value in LEGAL[current.value])


def test_every_status_has_its_moves_and_no_run_stands_still() -> None:
    assert set(MOVES) == set(RunStatus)
    assert not any(may_move(status, status) for status in RunStatus)


def test_final_are_the_statuses_without_a_move() -> None:
    final = {status for status in RunStatus if status.is_final}
    assert final == {RunStatus.DONE, RunStatus.FAILED, RunStatus.INVALIDATED}
    assert final == {status for status in RunStatus if not MOVES[status]}


def test_groups_of_statuses() -> None:
    def where(group: str) -> list[str]:
        return [status.value for status in RunStatus if getattr(status, group)]

    assert where("is_under_way") == ["starting", "running"]
    assert where("is_ending") == ["completing", "aborting"]
    held = ["ready", "starting", "running", "completing", "aborting"]
    assert where("holds_resources") == held
    assert where("has_volumes") == [*held, "done", "failed", "invalidated"]


def test_every_run_can_reach_an_end_and_never_comes_back() -> None:
    for status in RunStatus:
        reached: set[RunStatus] = set()
        todo = {status}
        while todo:
            step = {target for one in todo for target in MOVES[one]} - reached
            reached |= step
            todo = step
        if not status.is_final:
            assert reached & {RunStatus.DONE, RunStatus.FAILED}
        if status not in {RunStatus.DEACTIVATED, RunStatus.WAITING}:
            assert status not in reached


def test_success_and_failure_are_reached_on_one_way_each() -> None:
    assert {one for one in RunStatus if may_move(one, RunStatus.DONE)} == {RunStatus.COMPLETING}
    assert {one for one in RunStatus if may_move(one, RunStatus.FAILED)} == {RunStatus.ABORTING}
    assert not any(may_move(one, RunStatus.INVALIDATED) for one in RunStatus)


@pytest.mark.parametrize(("code", "kept"), [(0, 0), (1, 1), (255, 255), (256, 0), (-1, 255)])
def test_an_exit_code_is_one_byte(code: int, kept: int) -> None:
    assert Exit(code, "").code == kept


def test_an_exit_message_is_short() -> None:
    assert Exit(1, "x" * 2000).message == "x" * 1024


def test_the_known_ends() -> None:
    assert (SUCCEEDED.code, STOPPED_BY_USER.code) == (0, 0)
    assert (ABORTED_BY_USER.code, LOST.code) == (253, 254)
