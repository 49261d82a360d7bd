"""Waits while the API says that it is not available, for a short time and with a growing pause."""

from collections.abc import Callable, Iterator

import httpx

_FIRST_PAUSE = 0.5
_LONGEST_WAIT = 10.0


class Retry:
    """Repeats a request that only reads while it is answered with 503.

    Args:
        sleep: waits so many seconds.
        notify: tells the user, in a line, that it takes longer.
    """

    def __init__(self, sleep: Callable[[float], None], notify: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._notify = notify

    def on_unavailable(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """Gives the first answer that is not 503, or after about ten seconds the last 503."""
        waited = 0.0
        for pause in _pauses():
            answer = ask()
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            pause = max(pause, _retry_after(answer))
            if waited + pause > _LONGEST_WAIT:
                return answer
            answer.close()
            self._notify(f"the API is not available at the moment, asking again in {pause:g} s")
            self._sleep(pause)
            waited += pause
        raise AssertionError("pauses never end")


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause *= 2


def _retry_after(answer: httpx.Response) -> float:
    """Gives the seconds the server asks for; its other form, a date, is not used by knit."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
