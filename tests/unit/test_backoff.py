from __future__ import annotations

from knit_workflows.backoff import Backoff


def test_the_pause_doubles_up_to_the_limit() -> None:
    for _ in range(20):
        backoff = Backoff(0.1, 1.0)
        for step in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
            assert step / 2 <= backoff.next() <= step


def test_the_factor_is_the_callers() -> None:
    backoff = Backoff(1.0, 100.0, factor=10.0)
    for step in (1.0, 10.0, 100.0, 100.0):
        assert step / 2 <= backoff.next() <= step


def test_pauses_differ_so_that_many_do_not_return_at_once() -> None:
    assert len({Backoff(1.0, 2.0).next() for _ in range(20)}) > 1


def test_a_reset_starts_over() -> None:
    backoff = Backoff(1.0, 8.0)
    for _ in range(4):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1.0
