"""How often a watch asks the API server for what the informers should have told it."""

from __future__ import annotations

from datetime import timedelta

from knit_workflows.compute.kubernetes.pods.asking import Asking

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
