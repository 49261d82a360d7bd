"""Where the time of a Run goes, from its history alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import RunEvent, RunStatus
from knit_workflows.domain.runs.timing import Timing, timing

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
M, S = Milestone, RunStatus


def at(seconds: float) -> datetime:
    return BEGUN + timedelta(seconds=seconds)


def event(
    when: float,
    to: RunStatus,
    timeline: Mapping[Milestone, float] | None = None,
    generation: int = 1,
) -> RunEvent:
    before = None if to is S.WAITING else S.WAITING
    known = {milestone: at(seconds) for milestone, seconds in (timeline or {}).items()}
    return RunEvent(at(when), generation, before, to, "", None, timeline=known)


def phases(found: Timing) -> dict[str, float]:
    return {one.phase.value: one.duration.total_seconds() for one in found.phases}


WHOLE = [
    event(0, S.WAITING),
    event(3, S.READY, {M.ADMITTED: 2}),
    event(4, S.STARTING),
    event(9.5, S.RUNNING, {M.SCHEDULED: 5, M.SANDBOX_READY: 6, M.INITIALIZED: 7, M.STARTED: 9}),
    event(
        20,
        S.COMPLETING,
        {M.SCHEDULED: 5, M.INITIALIZED: 7, M.PULLED: 8, M.STARTED: 9, M.ENDED: 18, M.LOGGED: 19},
    ),
    event(21, S.DONE),
]


def test_every_phase_lies_between_two_milestones() -> None:
    found = timing(WHOLE, at(99))
    assert phases(found) == {
        "queue": 2, "engine": 2, "scheduling": 1, "volume": 1, "init": 1, "image": 1, "start": 1,
        "container": 9, "log": 1, "finalize": 2,
    }  # fmt: skip
    assert found.total == timedelta(seconds=21)
    assert (found.generation, found.status) == (1, S.DONE)


def test_what_is_unknown_counts_for_the_next_phase() -> None:
    """As on one machine, where nothing is scheduled and no volume is mounted."""
    events = [*WHOLE[:3], event(9, S.RUNNING), event(20, S.COMPLETING, {M.LOGGED: 18, M.ENDED: 18})]
    found = timing([*events, event(21, S.DONE)], at(99))
    assert phases(found) == {"queue": 2, "engine": 2, "start": 5, "container": 9, "finalize": 3}


def test_the_last_phase_of_a_run_under_way_goes_on() -> None:
    assert phases(timing(WHOLE[:1], at(5))) == {"queue": 5}
    assert phases(timing(WHOLE[:2], at(5))) == {"queue": 2, "engine": 3}
    assert phases(timing(WHOLE[:3], at(7))) == {"queue": 2, "engine": 2, "start": 3}
    assert phases(timing(WHOLE[:4], at(12)))["container"] == 3
    assert phases(timing(WHOLE[:5], at(25)))["finalize"] == 6


def test_a_run_that_is_given_up_was_in_the_phase_that_did_not_end() -> None:
    stuck = [*WHOLE[:3], event(60, S.ABORTING, {M.SCHEDULED: 5}), event(61, S.FAILED)]
    expected = {"queue": 2, "engine": 2, "scheduling": 1, "volume": 55, "finalize": 1}
    assert phases(timing(stuck, at(99))) == expected
    stopped = [WHOLE[0], event(30, S.ABORTING), event(31, S.FAILED)]
    assert phases(timing(stopped, at(99))) == {"queue": 30, "finalize": 1}
    lost = [*WHOLE[:4], event(30, S.ABORTING), event(31, S.FAILED)]
    assert phases(timing(lost, at(99)))["container"] == 21


def test_only_the_newest_execution_counts() -> None:
    again = [*WHOLE, event(100, S.WAITING, generation=2)]
    found = timing(again, at(103))
    assert phases(found) == {"queue": 3}
    assert found.generation == 2


def test_an_upload_runs_from_its_first_moment() -> None:
    first = RunEvent(at(0), 1, None, S.RUNNING, "", None)
    found = timing([first, event(5, S.COMPLETING), event(6, S.DONE)], at(99))
    assert phases(found) == {"container": 5, "finalize": 1}


def test_a_reason_or_a_later_change_of_its_data_is_no_milestone() -> None:
    noted = RunEvent(at(50), 1, S.DONE, S.DONE, "purged", None)
    assert timing([*WHOLE, noted], at(99)).total == timedelta(seconds=21)


@given(st.dictionaries(st.sampled_from(list(M)[:-1]), st.floats(-1e6, 1e6)))
def test_the_phases_add_up_whatever_the_clocks_say(timeline: dict[Milestone, float]) -> None:
    """Clocks of nodes differ from the database's; no phase is negative, none counts twice."""
    found = timing([*WHOLE[:3], event(20, S.COMPLETING, timeline), WHOLE[-1]], at(99))
    assert sum((one.duration for one in found.phases), timedelta()) == found.total
    assert all(one.duration >= timedelta() for one in found.phases)
    assert found.total >= timedelta(seconds=21)
