"""Asks again: while the API says that it is not available, and when a connection breaks.

What may be repeated is the caller's to say: a connection that never came about is an obstacle to
nothing, one that broke only to what has an effect each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx

from knit_cli.errors import ApiRefused, ConnectionCut

T = TypeVar("T")

ATTEMPTS = 3
"""How often something is tried whose connection breaks."""

UNAVAILABLE = (
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
)
"""What is answered while the API, or a part of it, is not there or has no time."""

_FIRST_PAUSE = 0.5
_MAX_WAIT = 10.0
_MAX_PAUSE = 10.0
# As long as the answer to an upload may take: what was received is still written to a disk.
_MAX_TIME_IN_PROGRESS = 600.0


class Retry:
    """Repeats requests, with a growing pause, and says so.

    Args:
        sleep: waits so many seconds.
        notify: tells the user, in a line, that it takes longer.
    """

    def __init__(self, sleep: Callable[[float], None], notify: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._notify = notify

    def on_unavailable(
        self, ask: Callable[[], httpx.Response], why: Callable[[httpx.Response], str]
    ) -> httpx.Response:
        """Gives the first answer of an API that is there, or after about ten seconds the last one.

        It is not there when it says so itself (503), or a proxy before it does (502, 504, 429).

        Args:
            ask: sends the request.
            why: gives the reason in such an answer.
        """
        waited = 0.0
        for pause in _pauses():
            response = ask()
            if response.status_code not in UNAVAILABLE:
                return response
            pause = max(pause, retry_after(response) or 0.0)
            if waited + pause > _MAX_WAIT:
                return response
            response.read()
            response.close()
            self.notify(
                f"not available at the moment: {why(response)}; asking again in {pause:g} s"
            )
            self._sleep(pause)
            waited += pause
        raise AssertionError("pauses never end")

    def while_in_progress(self, ask: Callable[[], T]) -> T:
        """Gives the answer, once the server does not say any more that it takes some time.

        Raises:
            ApiRefused: after ten minutes, the server's word that it still does.
        """
        waited = 0.0
        for pause in _pauses():
            try:
                return ask()
            except ApiRefused as refused:
                if refused.status != httpx.codes.CONFLICT or refused.retry_after is None:
                    raise
                pause = min(max(pause, refused.retry_after), _MAX_PAUSE)
                if waited + pause > _MAX_TIME_IN_PROGRESS:
                    raise
                self.notify(f"the API is still busy with it, asking again in {pause:g} s")
            self._sleep(pause)
            waited += pause
        raise AssertionError("pauses never end")

    def wait(self, seconds: float) -> None:
        """Waits so many seconds."""
        self._sleep(seconds)

    def notify(self, text: str) -> None:
        """Tells the user, in a line, that it takes longer."""
        self._notify(text)

    def on_cut(self, attempt: Callable[[], T], *, repeatable: bool, attempts: int = ATTEMPTS) -> T:
        """Gives what the attempt gives, which is made up to `tries` times.

        Args:
            attempt: does all of it, from the start; raises errors of our tree.
            repeatable: whether it may be done twice; else only a harmless cut is an occasion.
            tries: how often at most.

        Raises:
            ConnectionCut: the last attempt's.
        """
        for number, pause in zip(range(2, attempts + 1), _pauses(), strict=False):
            try:
                return attempt()
            except ConnectionCut as cut:
                if not (repeatable or cut.safe_to_retry):
                    raise
                pause = max(pause, cut.retry_after or 0.0)
                again = f"trying again in {pause:g} s ({number} of {attempts})"
                self.notify(f"{cut.summary}, {again}")
            self._sleep(pause)
        return attempt()


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause *= 2


def retry_after(response: httpx.Response) -> float | None:
    """Gives the seconds the server asks for; its other form, a date, is not used by knit."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
