"""Copies the log of a Run, over connections that break if need be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from knit_cli.api.client import ApiClient
from knit_cli.api.retry import UNAVAILABLE
from knit_cli.api.streamed_response import Stream
from knit_cli.errors import ApiBroken, ApiRefused, ApiUnreachable, ConnectionCut, TransferFailed
from knit_workflows.wire.runs import Run

_FINAL = ("done", "failed", "invalidated")
_NOT_THAT_LONG = 409
_UPGRADE_REQUIRED = 426  # a proxy speaks HTTP/1.0 to the API: only what has a length can be had
_ATTEMPTS_WHILE_FOLLOWING = 6  # with their pauses, they outlast the restart of a server
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 5.0  # seconds


def copy_log(api: ApiClient, run_id: str, *, follow: bool, write: Callable[[bytes], None]) -> None:
    """Hands on the log piece by piece, each byte once: what there is, or until the Run has ended.

    A log only grows, so after a broken connection it goes on where it was. With `follow` that is so
    for as long as the Run goes on, however often it breaks: a Run may be silent for longer than
    what lies between us and the API suffers a silent connection.

    Raises:
        TransferFailed: after a cut there is less than before: the Run was retried meanwhile. Or
            nothing proves that the log is complete.
        CliError: the API did not give it, or cannot be reached any more.
    """
    copy = _Copy(api, run_id, write)
    if follow:
        copy.follow()
    else:
        copy.rest()


class _Copy:
    def __init__(self, api: ApiClient, run_id: str, write: Callable[[bytes], None]) -> None:
        self._api = api
        self._run_id = run_id
        self._write = write
        self._copied = 0
        self._log_id: str | None = None
        self._begun = False  # whether the API has ever given something of it

    def rest(self) -> None:
        """Copies what there is now. Given up when three tries bring nothing new."""
        while True:
            before = self._copied
            try:
                return self._api.retry_on_cut(self._part, repeatable=True)
            except ConnectionCut:
                if self._copied == before:
                    raise

    def follow(self) -> None:
        """Copies what comes until the Run is final. How its stream ends tells nothing about that.

        A proxy cuts what is silent, an API that is restarted cuts its answers; the Run's status is
        the API's word. What is there when it is final is all.
        """
        pause, live = _FIRST_PAUSE, True
        while True:
            before = self._copied
            try:
                live = live and self._can_be_live()
                if not live:
                    self._part()
            except (ApiUnreachable, ApiBroken) as error:
                if isinstance(error, ApiBroken) and not (
                    self._begun and error.status in UNAVAILABLE
                ):
                    raise
            if self._has_ended():
                return self.rest()
            pause = _FIRST_PAUSE if self._copied > before else min(pause * 2, _MAX_PAUSE)
            self._api.pause(pause)

    def _can_be_live(self) -> bool:
        """Copies what one connection brings; False: over this way to the API it is refused."""
        try:
            self._part(follow=True)
        except ApiRefused as refused:
            if refused.status != _UPGRADE_REQUIRED:
                raise
            return False
        return True

    def _part(self, *, follow: bool = False) -> None:
        """Copies what one connection brings."""
        try:
            opened = self._api.open_log(self._run_id, follow=follow, offset=self._copied)
            with opened as stream:
                self._begun = True
                self._expect(stream.log_id)
                for chunk in self._behind(self._copied - stream.offset, stream.chunks):
                    self._write(chunk)
                    self._copied += len(chunk)
        except ApiRefused as refused:
            if refused.status == _NOT_THAT_LONG:
                raise self._another_one() from refused
            raise
        if not follow:
            self._prove_end(stream)

    def _prove_end(self, stream: Stream) -> None:
        """Raises ConnectionCut if it is not all of the log, TransferFailed if nothing tells."""
        if stream.size is not None and self._copied < stream.size:
            raise ConnectionCut(
                f"the log of Run {self._run_id} was cut",
                reason=f"{self._copied} of {stream.size} bytes came",
                advice="try again; if it happens again, look for a proxy on the way that cuts",
            )
        if stream.size is None and not stream.framed:
            raise TransferFailed(
                f"the log of Run {self._run_id} may be incomplete",
                reason="a proxy on the way to the API leaves out what says where it ends",
                advice="let the proxy speak HTTP/1.1, or pull the log's Data: knit run show",
            )

    def _behind(self, skipped: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if rest := chunk[skipped:]:
                yield rest
            skipped = max(0, skipped - len(chunk))
        if skipped:
            raise self._another_one()

    def _has_ended(self) -> bool:
        run = self._api.retry_on_cut(
            self._run, repeatable=True, attempts=_ATTEMPTS_WHILE_FOLLOWING if self._begun else 1
        )
        self._expect(run.log.knit_id if run.log else None)
        return run.status in _FINAL

    def _expect(self, log_id: str | None) -> None:
        """Notes whose log it is. Raises TransferFailed if something of another one was copied."""
        if self._copied and None not in (self._log_id, log_id) and self._log_id != log_id:
            raise self._another_one()
        self._log_id = log_id or self._log_id

    def _run(self) -> Run:
        try:
            return self._api.get_run(self._run_id)
        except ApiBroken as broken:
            if broken.status not in UNAVAILABLE:
                raise
            raise ConnectionCut(broken.summary, reason=broken.reason, advice=broken.advice) from (
                broken
            )

    def _another_one(self) -> TransferFailed:
        return TransferFailed(
            f"the log of Run {self._run_id} was cut, and it is another one now",
            reason="the Run was retried",
            advice=f"show it from its start: knit run show --log {self._run_id}",
        )
