"""One process of the stack as the supervisor knows it: its start, its death, the next start."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.services import Service

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 10.0
BACKOFF_RESET_AFTER: Final = 30.0
"""Who has been ready for so many seconds may be started again at once when it dies."""
READY_TIMEOUT: Final = 120.0
READY_RETRY_INTERVAL: Final = 1.0
STOP_TIMEOUT: Final = 15.0


@dataclass
class ChildProcess:
    """One process; started again when it dies, after a pause that doubles."""

    service: Service
    folder: DevFolder
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    """Monotonic instant of its start, or of its becoming ready."""
    is_ready: bool = False
    restarts: int = 0
    """Deaths since the stack has been started."""
    failed_starts: int = 0
    """Deaths since it has been ready."""
    last_error: str = ""
    """How it died the last time, for humans."""
    _next_start: float = 0.0
    _next_check: float = 0.0
    _stop_requested: bool = False
    _pause: float = FIRST_PAUSE

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    @property
    def state(self) -> Literal["stopped", "starting", "ready"]:
        """One word: stopped, starting or ready."""
        if self.process is None:
            return "stopped"
        return "ready" if self.is_ready else "starting"

    def poll(self, *, may_start: bool) -> bool:
        """Notices what has happened, and does what follows; gives whether something changed."""
        if self.process is None:
            return may_start and time.monotonic() >= self._next_start and self._start()
        code = self.process.poll()
        if code is not None:
            self._on_exit(code)
            return True
        return self._check_readiness()

    def request_stop(self) -> None:
        """Has it begin to end; the second call changes nothing."""
        if self.process is not None and not self._stop_requested:
            self._stop_requested = True
            with suppress(ProcessLookupError):
                self.process.send_signal(self.service.stop_signal)

    def stop(self) -> None:
        """Ends it, and waits; it is not started again."""
        if self.process is None:
            return
        self.request_stop()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process, self.is_ready = None, False

    def _start(self) -> bool:
        service, path = self.service, self.folder.log(self.name)
        try:
            service.prepare()
            if path.exists():  # what it said before it died
                path.replace(path.with_name(f"{path.name}.old"))
            with path.open("wb") as output:
                # Its own session: a Ctrl-C in the terminal reaches the supervisor alone, which
                # then ends its children in order.
                self.process = subprocess.Popen(
                    service.command,
                    env=dict(service.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder.root,
                    user=service.user,
                    group=service.group,
                    extra_groups=None if service.user is None else [],
                    start_new_session=True,
                )
        except (OSError, subprocess.SubprocessError) as error:
            self._schedule_restart(f"it cannot be started: {error}")
            return True
        with suppress(ProcessLookupError):  # its death is noticed by the next look
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self.process.pid, ours + service.niceness)
        self.since, self.is_ready = time.monotonic(), False
        log.info("%s is started", self.name, extra=self._extra("process_started"))
        return True

    def _check_readiness(self) -> bool:
        assert self.process is not None
        age = time.monotonic() - self.since
        if self.is_ready:
            if age > BACKOFF_RESET_AFTER:
                self._pause = FIRST_PAUSE
            return False
        if time.monotonic() >= self._next_check and self.service.is_ready(self.process.pid):
            return self._mark_ready()
        if age > READY_TIMEOUT:
            self.process.kill()  # its death is noticed by the next look
        return False

    def _mark_ready(self) -> bool:
        try:
            self.service.on_ready()
        except Exception as error:  # noqa: BLE001  whatever a database raises that dies now
            self.last_error, self._next_check = str(error), time.monotonic() + READY_RETRY_INTERVAL
            log.warning("%s: %s", self.name, error, extra=self._extra("process_not_ready"))
            return False
        self.is_ready, self.since, self.failed_starts = True, time.monotonic(), 0
        log.info("%s is ready", self.name, extra=self._extra("process_ready"))
        return True

    def _on_exit(self, code: int) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        printed = last_lines(self.folder.log(self.name))
        self.process, self.is_ready = None, False
        self._schedule_restart(f"{how}\n{printed}" if printed else how)

    def _schedule_restart(self, message: str) -> None:
        self.last_error = message
        self.restarts, self.failed_starts = self.restarts + 1, self.failed_starts + 1
        self._next_start = time.monotonic() + self._pause
        log.warning(
            "%s is started again in %.2f s: %s",
            self.name,
            self._pause,
            message,
            extra=self._extra("process_died"),
        )
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _extra(self, action: str) -> dict[str, object]:
        return {"action": action, "process_id": self.process.pid if self.process else None}


def last_lines(path: Path, count: int = 5) -> str:
    """Gives the end of a log, empty when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-count:])
