"""Copies the log of a Run, and continues after broken connections."""

from __future__ import annotations

from collections.abc import Callable

from knit_cli.api.client import ApiClient
from knit_cli.api.retry import UNAVAILABLE
from knit_cli.api.streamed_response import StreamedResponse
from knit_cli.errors import ApiBroken, ApiRefused, ApiUnreachable, ConnectionCut, TransferFailed
from knit_workflows.backoff import Backoff
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.wire.runs import Run

_FINAL = frozenset(status for status in RunStatus if status.is_final)
_CONFLICT = 409
_UPGRADE_REQUIRED = 426  # a proxy speaks HTTP/1.0 to the API, which allows no endless response
_ATTEMPTS_WHILE_FOLLOWING = 7  # with their pauses, enough to outlast a server's restart
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 5.0  # seconds


def copy_log(api: ApiClient, run_id: str, *, follow: bool, write: Callable[[bytes], None]) -> None:
    """Writes the log chunk by chunk, each byte once.

    A log only grows, so after a broken connection copying continues where it stopped. With
    `follow` that goes on until the Run ends, however often the connection breaks: a Run may be
    silent for longer than proxies keep an idle connection open.

    Args:
        api: the API.
        run_id: which Run.
        follow: whether to wait for more until the Run ends, or copy only what exists now.
        write: receives each chunk.

    Raises:
        TransferFailed: the Run was retried in the meantime, so this is another log; or nothing
            proves that the log is complete.
        CliError: the API did not send it, or can no longer be reached.
    """
    copy = _Copy(api, run_id, write)
    if follow:
        copy.follow()
    else:
        copy.copy_remainder()


class _Copy:
    def __init__(self, api: ApiClient, run_id: str, write: Callable[[bytes], None]) -> None:
        self._api = api
        self._run_id = run_id
        self._write = write
        self._copied = 0
        self._log_id: str | None = None
        self._opened = False  # whether the API has ever opened it for us

    def copy_remainder(self) -> None:
        """Copies what exists now; gives up after three attempts without a new byte."""
        while True:
            before = self._copied
            try:
                return self._api.retry_on_cut(self._copy_once, repeatable=True)
            except ConnectionCut:
                if self._copied == before:
                    raise

    def follow(self) -> None:
        """Copies until the Run is final, then what remains.

        The end of a response proves nothing: proxies cut idle connections, and a restarting API
        cuts its responses. Only the Run's status tells.
        """
        backoff, live = Backoff(_FIRST_PAUSE, _MAX_PAUSE), True
        while True:
            before = self._copied
            try:
                live = live and self._follow_once()
                if not live:
                    self._copy_once()
            except (ApiUnreachable, ApiBroken) as error:
                if isinstance(error, ApiBroken) and not (
                    self._opened and error.status in UNAVAILABLE
                ):
                    raise
            if self._has_ended():
                return self.copy_remainder()
            if self._copied > before:
                backoff.reset()
            self._api.pause(backoff.next())

    def _follow_once(self) -> bool:
        """Follows the log over one connection; returns False if a proxy makes that impossible."""
        try:
            self._copy_once(follow=True)
        except ApiRefused as refused:
            if refused.status != _UPGRADE_REQUIRED:
                raise
            return False
        return True

    def _copy_once(self, *, follow: bool = False) -> None:
        """Copies over one connection, from where the copy stands."""
        try:
            opened = self._api.open_log(self._run_id, follow=follow, offset=self._copied)
            with opened as stream:
                self._opened = True
                self._expect(stream.log_id)
                for chunk in stream.chunks:
                    self._write(chunk)
                    self._copied += len(chunk)
        except ApiRefused as refused:
            if refused.status == _CONFLICT:
                raise self._log_replaced() from refused
            raise
        if not follow:
            self._check_end(stream)

    def _check_end(self, stream: StreamedResponse) -> None:
        """Raises ConnectionCut if the log is incomplete, TransferFailed if that cannot be known."""
        if stream.size is not None and self._copied < stream.size:
            raise ConnectionCut(
                f"the log of Run {self._run_id} was cut",
                reason=f"{self._copied} of {stream.size} bytes arrived",
                advice="try again; if it happens again, look for a proxy that cuts connections",
            )
        if stream.size is None and not stream.framed:
            raise TransferFailed(
                f"the log of Run {self._run_id} may be incomplete",
                reason="a proxy on the way to the API drops what marks its end",
                advice="let the proxy speak HTTP/1.1, or pull the log's Data, see knit run show",
            )

    def _has_ended(self) -> bool:
        run = self._api.retry_on_cut(
            self._run, repeatable=True, attempts=_ATTEMPTS_WHILE_FOLLOWING if self._opened else 1
        )
        self._expect(run.log.knit_id if run.log else None)
        return run.status in _FINAL

    def _expect(self, log_id: str | None) -> None:
        """Records which log this is; raises TransferFailed if part of another one was copied."""
        if self._copied and None not in (self._log_id, log_id) and self._log_id != log_id:
            raise self._log_replaced()
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

    def _log_replaced(self) -> TransferFailed:
        return TransferFailed(
            f"the log of Run {self._run_id} was cut, and has been replaced since",
            reason="the Run was retried",
            advice=f"show it from its start: knit run show --log {self._run_id}",
        )
