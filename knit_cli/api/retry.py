"""Repeats requests: while the API is unavailable, and when a connection breaks.

Whether a request may be repeated is for the caller to say. If no connection was established,
repeating is always safe; if one broke, only for requests whose second execution has no effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from knit_cli.errors import ApiRefused, ConnectionCut
from knit_workflows.backoff import Backoff

T = TypeVar("T")

ATTEMPTS = 3
"""How often a request is sent at most when its connection breaks."""
PATIENT_ATTEMPTS = 6
"""The same for what is not given up lightly: with their pauses, enough to outlast a restart."""

UNAVAILABLE = (
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
)
"""Statuses of an API that is temporarily unavailable or overloaded, or of the proxy before it."""

_FIRST_PAUSE = 0.5
_MAX_PAUSE = 10.0
_MAX_WAIT = 10.0
_LONGEST_PAUSE = 120.0
"""Who is asked to wait for longer is told so, and decides; the API's limits count by the minute."""
# As long as the response to an upload may take: what was received is still being written to disk.
_MAX_TIME_IN_PROGRESS = 600.0


class Retry:
    """Repeats requests with exponential back-off, and tells the user.

    Args:
        sleep: waits for so many seconds.
        notify: shows the user a line about the delay.
        clock: gives the seconds since some moment.
    """

    def __init__(
        self,
        sleep: Callable[[float], None],
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self.notify = notify
        self._clock = clock

    def on_unavailable(
        self, send: Callable[[], httpx.Response], why: Callable[[httpx.Response], str]
    ) -> httpx.Response:
        """Returns the first response of an available API, or after about ten seconds the last one.

        Args:
            send: sends the request.
            why: extracts the reason from a response with an UNAVAILABLE status.
        """
        waited, backoff = 0.0, _backoff()
        while True:
            sent_at = self._clock()
            response = send()
            if response.status_code not in UNAVAILABLE:
                return response
            # The API itself may have tried for a minute, to open a transfer.
            waited += self._clock() - sent_at
            pause = max(backoff.next(), retry_after(response) or 0.0)
            if waited + pause > _MAX_WAIT:
                return response
            response.read()
            response.close()
            self.notify(f"temporarily unavailable: {why(response)}; retrying in {pause:.1f} s")
            self._sleep(pause)
            waited += pause

    def while_in_progress(self, attempt: Callable[[], T]) -> T:
        """Returns the result once the API no longer says that the upload is still in progress.

        Raises:
            ApiRefused: after ten minutes it still is.
        """
        waited, backoff = 0.0, _backoff()
        while True:
            try:
                return attempt()
            except ApiRefused as refused:
                if refused.status != httpx.codes.CONFLICT or refused.retry_after is None:
                    raise
                pause = min(max(backoff.next(), refused.retry_after), _MAX_PAUSE)
                if waited + pause > _MAX_TIME_IN_PROGRESS:
                    raise
                self.notify(f"the API is still working on it; asking again in {pause:.1f} s")
            self._sleep(pause)
            waited += pause

    def wait(self, seconds: float) -> None:
        """Waits for so many seconds."""
        self._sleep(seconds)

    def on_cut(self, attempt: Callable[[], T], *, repeatable: bool, attempts: int = ATTEMPTS) -> T:
        """Returns the result of the first attempt whose connection does not break.

        Args:
            attempt: does everything from the start; raises errors of our tree.
            repeatable: whether it may be executed twice; else only a cut that is `safe_to_retry`
                is followed by another attempt.
            attempts: how many at most.

        Raises:
            ConnectionCut: the connection of the last attempt broke too, or the next one is to come
                in more than two minutes.
        """
        backoff = _backoff()
        for number in range(2, attempts + 1):
            try:
                return attempt()
            except ConnectionCut as cut:
                if not (repeatable or cut.safe_to_retry):
                    raise
                if (cut.retry_after or 0.0) > _LONGEST_PAUSE:
                    raise
                pause = max(backoff.next(), cut.retry_after or 0.0)
                self.notify(f"{cut.summary}; retrying in {pause:.1f} s ({number} of {attempts})")
            self._sleep(pause)
        return attempt()


def postponed(refused: ApiRefused, summary: str) -> ConnectionCut:
    """Gives what `on_cut` repeats, after the pause that the API has asked for."""
    again = ConnectionCut(f"{summary}: {refused.reason}")
    again.retry_after = refused.retry_after
    return again


def _backoff() -> Backoff:
    return Backoff(_FIRST_PAUSE, _MAX_PAUSE)


def retry_after(response: httpx.Response) -> float | None:
    """Gives the seconds of `Retry-After`; its other form, a date, is not used by knit."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
