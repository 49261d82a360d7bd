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

from knit_cli.dev.services import Service
from knit_cli.dev.state import StateFolder

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 10.0
HEALTHY_AFTER: Final = 30.0
"""Who has been ready for so many seconds may be started again at once when it dies."""
READY_WITHIN: Final = 120.0
ASK_AGAIN: Final = 1.0
END_WITHIN: Final = 15.0


@dataclass
class Child:
    """One process; started again when it dies, after a pause that doubles."""

    service: Service
    folder: StateFolder
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    """Monotonic instant of its start, or of its becoming ready."""
    is_ready: bool = False
    restarts: int = 0
    """Deaths since the stack has been started."""
    deaths: int = 0
    """Deaths since it has been ready."""
    last_words: str = ""
    """How it died the last time, for humans."""
    _start_at: float = 0.0
    _ask_at: float = 0.0
    _asked_to_end: bool = False
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

    def look(self, *, may_start: bool) -> bool:
        """Notices what has happened, and does what follows; gives whether something changed."""
        if self.process is None:
            return may_start and time.monotonic() >= self._start_at and self._start()
        code = self.process.poll()
        if code is not None:
            self._died(code)
            return True
        return self._get_older()

    def ask_to_end(self) -> None:
        """Has it begin to end; the second call changes nothing."""
        if self.process is not None and not self._asked_to_end:
            self._asked_to_end = True
            with suppress(ProcessLookupError):
                self.process.send_signal(self.service.end_signal)

    def end(self) -> None:
        """Ends it, and waits; it is not started again."""
        if self.process is None:
            return
        self.ask_to_end()
        try:
            self.process.wait(END_WITHIN)
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
            self._later(f"it cannot be started: {error}")
            return True
        with suppress(ProcessLookupError):  # its death is noticed by the next look
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self.process.pid, ours + service.niceness)
        self.since, self.is_ready = time.monotonic(), False
        log.info("%s is started", self.name, extra=self._extra("process_started"))
        return True

    def _get_older(self) -> bool:
        assert self.process is not None
        age = time.monotonic() - self.since
        if self.is_ready:
            if age > HEALTHY_AFTER:
                self._pause = FIRST_PAUSE
            return False
        if time.monotonic() >= self._ask_at and self.service.is_ready(self.process.pid):
            return self._become_ready()
        if age > READY_WITHIN:
            self.process.kill()  # its death is noticed by the next look
        return False

    def _become_ready(self) -> bool:
        try:
            self.service.made_ready()
        except Exception as error:  # noqa: BLE001  whatever a database raises that dies now
            self.last_words, self._ask_at = str(error), time.monotonic() + ASK_AGAIN
            log.warning("%s: %s", self.name, error, extra=self._extra("process_not_ready"))
            return False
        self.is_ready, self.since, self.deaths = True, time.monotonic(), 0
        log.info("%s is ready", self.name, extra=self._extra("process_ready"))
        return True

    def _died(self, code: int) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        said = last_lines(self.folder.log(self.name))
        self.process, self.is_ready = None, False
        self._later(f"{how}\n{said}" if said else how)

    def _later(self, words: str) -> None:
        self.last_words = words
        self.restarts, self.deaths = self.restarts + 1, self.deaths + 1
        self._start_at = time.monotonic() + self._pause
        log.warning(
            "%s is started again in %.2f s: %s",
            self.name,
            self._pause,
            words,
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
