"""One process of the stack under supervision: started, watched, restarted when it dies."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.services import Service
from knit_workflows.backoff import Backoff
from knit_workflows.embedded import EmbeddedRefused

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.25
MAX_PAUSE: Final = 10.0
BACKOFF_RESET_AFTER: Final = 30.0
"""After this many seconds of readiness the restart back-off is reset."""
READY_TIMEOUT: Final = 120.0
READY_RETRY_INTERVAL: Final = 1.0
STOP_TIMEOUT: Final = 15.0


@dataclass
class ChildProcess:
    """One process, restarted with exponential back-off when it dies."""

    service: Service
    folder: DevFolder
    stop_timeout: float = STOP_TIMEOUT
    """Seconds from the request to stop until it is killed."""
    clock: Callable[[], float] = time.monotonic
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    """When it was started, or became ready, by that clock."""
    is_ready: bool = False
    restarts: int = 0
    """Deaths since the stack was started."""
    failed_starts: int = 0
    """Deaths since it was last ready."""
    last_error: str = ""
    """Why it died or is not ready, for people."""
    _next_start: float = 0.0
    _next_check: float = 0.0
    _stop_requested: bool = False
    _backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, MAX_PAUSE))

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    @property
    def state(self) -> Literal["stopped", "starting", "ready"]:
        """The state in a word."""
        if self.process is None:
            return "stopped"
        return "ready" if self.is_ready else "starting"

    def poll(self, *, may_start: bool) -> bool:
        """Checks the process, and starts or kills it if need be; returns whether it changed."""
        if self.process is None:
            return may_start and self.clock() >= self._next_start and self._start()
        code = self.process.poll()
        if code is not None:
            self._on_exit(code)
            return True
        return self._check_readiness()

    def request_stop(self) -> None:
        """Sends the stop signal; a second call does nothing."""
        if self.process is not None and not self._stop_requested:
            self._stop_requested = True
            with suppress(ProcessLookupError):
                self.process.send_signal(self.service.stop_signal)

    def stop(self) -> None:
        """Stops it for good, and waits; kills it if it does not stop in time."""
        if self.process is None:
            return
        self.request_stop()
        try:
            self.process.wait(self.stop_timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process, self.is_ready = None, False

    def _start(self) -> bool:
        service, path = self.service, self.folder.log(self.name)
        try:
            service.prepare()
            if path.exists():  # keep the log of the process that died
                path.replace(path.with_name(f"{path.name}.old"))
            with path.open("wb") as output:
                # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which
                # then stops its children in order.
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
        except (OSError, subprocess.SubprocessError, EmbeddedRefused) as error:
            self._schedule_restart(f"it cannot be started: {error}")
            return True
        with suppress(ProcessLookupError):  # the next poll notices its death
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self.process.pid, ours + service.niceness)
        self.since, self.is_ready = self.clock(), False
        log.info("%s started", self.name, extra=self._extra("process_started"))
        return True

    def _check_readiness(self) -> bool:
        assert self.process is not None
        age = self.clock() - self.since
        if self.is_ready:
            if age > BACKOFF_RESET_AFTER:
                self._backoff.reset()
            return False
        if self.clock() >= self._next_check and self.service.is_ready(self.process.pid):
            return self._mark_ready()
        if age > READY_TIMEOUT:
            self.process.kill()  # the next poll notices its death
        return False

    def _mark_ready(self) -> bool:
        try:
            self.service.on_ready()
        except Exception as error:  # noqa: BLE001  whatever a dying database raises
            self.last_error = str(error)
            self._next_check = self.clock() + READY_RETRY_INTERVAL
            log.warning("%s: %s", self.name, error, extra=self._extra("process_not_ready"))
            return False
        self.is_ready, self.since, self.failed_starts = True, self.clock(), 0
        log.info("%s is ready", self.name, extra=self._extra("process_ready"))
        return True

    def _on_exit(self, code: int) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"it exited with code {code}"
        output = last_lines(self.folder.log(self.name))
        self.process, self.is_ready = None, False
        self._schedule_restart(f"{how}\n{output}" if output else how)

    def _schedule_restart(self, error: str) -> None:
        self.last_error = error
        self.restarts, self.failed_starts = self.restarts + 1, self.failed_starts + 1
        pause = self._backoff.next()
        self._next_start = self.clock() + pause
        log.warning(
            "%s restarts in %.2f s: %s",
            self.name,
            pause,
            error,
            extra=self._extra("process_died"),
        )

    def _extra(self, action: str) -> dict[str, object]:
        return {"action": action, "process_id": self.process.pid if self.process else None}


def last_lines(path: Path) -> str:
    """Gives the last five lines of a log; empty if there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-5:])
