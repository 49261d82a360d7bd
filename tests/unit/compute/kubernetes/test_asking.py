"""How often a watch asks the API server for what the informers should have told it, or cannot."""

from __future__ import annotations

from datetime import timedelta

from knit_workflows.compute.kubernetes.pods.asking import Asking, Pace, Stall

USUAL, PENDING = timedelta(seconds=60), timedelta(seconds=3)


def intervals(count: int, *, has_pod: bool, news_at: int = -1) -> list[float]:
    """Gives the seconds between the answers of a server that says the same again and again."""
    asking = Asking.begun(0.0, usual=USUAL, pending=PENDING)
    found, now = [asking.due], asking.due
    for number in range(count):
        asking.asked(now, is_news=number == news_at, has_pod=has_pod)
        found.append(asking.due - now)
        now = asking.due
    return found


def test_an_hour_of_a_running_pod_costs_a_few_requests_not_sixty():
    assert intervals(6, has_pod=True) == [60, 60, 120, 240, 480, 600, 600]


def test_a_job_without_a_pod_is_asked_for_soon_then_as_often_as_usual():
    assert intervals(7, has_pod=False) == [60, 3, 6, 12, 24, 48, 60, 60]


def test_news_bring_the_usual_interval_back():
    assert intervals(4, has_pod=True, news_at=3) == [60, 60, 120, 240, 60]
    assert intervals(4, has_pod=False, news_at=3) == [60, 3, 6, 12, 3]


def looks(stall: Stall, seconds: int, version: int, begun: int = 0) -> list[int]:
    """Gives the seconds at which a pod of this version is looked at more closely."""
    found = []
    for now in range(begun, begun + seconds):
        if stall.is_due(now, version):
            stall.looked(now)
            found.append(now)
    return found


def test_the_reason_of_a_pod_that_stays_as_it_is_is_looked_for_ever_more_rarely():
    assert looks(Stall(timedelta(seconds=30)), 1200, 1) == [30, 90, 210, 450, 750, 1050]


def test_a_pod_that_has_changed_is_looked_at_again_as_soon():
    stall = Stall(timedelta(seconds=30))
    assert looks(stall, 100, 1) == [30, 90]
    assert looks(stall, 100, 2, begun=100) == [120, 180]


def test_a_stall_that_was_over_begins_anew():
    stall = Stall(timedelta(seconds=30))
    assert looks(stall, 100, 1) == [30, 90]
    stall.over()
    assert looks(stall, 100, 1, begun=200) == [230, 290]


def test_the_looks_of_all_watches_have_a_pace():
    """A burst at once, then so many a second, however many are due."""
    pace = Pace(a_second=4, burst=100)
    assert sum(pace.may(0.0) for _ in range(1000)) == 100
    taken = [sum(pace.may(second / 10) for _ in range(1000)) for second in range(1, 101)]
    assert sum(taken) == 40
    assert max(taken) == 1
    assert sum(pace.may(3600.0) for _ in range(1000)) == 100
