"""Keeps the processes of the embedded stack running until it is told to end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import psutil

from knit_cli.dev.services import Service, services
from knit_cli.dev.state import DevState, Ports, ProcessMark, StateFolder
from knit_cli.errors import CliError
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate

START_WITHIN: Final = 60.0
END_WITHIN: Final = 15.0
LOOK_EVERY: Final = 0.1
MAX_BACK_OFF: Final = 5.0


@dataclass
class Child:
    """One process as the supervisor knows it."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    restarts: int = 0
    start_at: float = 0.0
    """Monotonic instant before which it is not started again."""
    back_off: float = 0.25
    was_ready: bool = False

    @property
    def state(self) -> str:
        """One word: stopped, starting or ready."""
        if self.process is None or self.process.poll() is not None:
            return "stopped"
        return "ready" if self.was_ready else "starting"


@dataclass
class Supervisor:
    """Starts PostgreSQL, Temporal, worker and API; starts again what dies; ends them in turn."""

    folder: StateFolder
    ports: Ports
    changed: Callable[[Supervisor], None] = lambda _: None
    children: list[Child] = field(default_factory=list)
    _postgres: EmbeddedPostgres | None = None
    _postgres_pid: int = 0

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return bool(self.children) and all(child.state == "ready" for child in self.children)

    def run(self, until: Callable[[], bool]) -> None:
        """Start everything, keep it running until `until` says so, then end it.

        What an earlier supervisor left behind (it was killed) is ended first; PostgreSQL is
        simply taken over. Raises CliError when something does not start in time.
        """
        end_processes(self.folder.load())
        try:
            self._start()
            self._save(ready=True)
            while not until():
                self._look()
                self.changed(self)
                time.sleep(LOOK_EVERY)
        finally:
            self._end()

    def _start(self) -> None:
        self._postgres = EmbeddedPostgres(self.folder.postgres)
        url = self._start_postgres()
        asyncio.run(migrate(url))
        self.children = [Child(service) for service in services(self.folder, self.ports, url)]
        temporal, *others = self.children
        self._spawn(temporal)
        self._wait_for([temporal])
        for child in others:
            self._spawn(child)
        self._wait_for(others)

    def _start_postgres(self) -> str:
        assert self._postgres is not None
        try:
            self._postgres.start()
        except (OSError, subprocess.SubprocessError) as cause:
            raise CliError(
                "PostgreSQL does not start",
                reason=str(cause),
                advice=f"look into {self.folder.postgres / 'log'}",
            ) from cause
        self._postgres_pid = self._postgres.pid()
        return self._postgres.url()

    def _spawn(self, child: Child) -> None:
        service = child.service
        log = self.folder.logs / f"{service.name}.log"
        with log.open("wb") as output:
            # Its own session: a Ctrl-C in the terminal reaches the supervisor alone, which then
            # ends its children in order.
            child.process = subprocess.Popen(
                service.command,
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder.root,
                start_new_session=True,
            )
        child.since, child.was_ready = time.monotonic(), False
        self._save(ready=False)

    def _wait_for(self, children: list[Child]) -> None:
        deadline = time.monotonic() + START_WITHIN
        while not all(child.was_ready for child in children):
            for child in children:
                self._check(child, deadline)
            self.changed(self)
            time.sleep(LOOK_EVERY / 2)

    def _check(self, child: Child, deadline: float) -> None:
        assert child.process is not None
        child.was_ready = child.was_ready or child.service.is_ready()
        if child.process.poll() is not None or time.monotonic() > deadline:
            log = self.folder.logs / f"{child.service.name}.log"
            raise CliError(
                f"{child.service.name} does not start",
                reason=_last_lines(log.read_text(encoding="utf-8", errors="replace")),
                advice=f"look into {log}",
            )

    def _look(self) -> None:
        """Start again what has died, with a growing pause; look whether what started is ready."""
        assert self._postgres is not None
        if not psutil.pid_exists(self._postgres_pid):
            self._start_postgres()
        now = time.monotonic()
        for child in self.children:
            if child.process is None or child.process.poll() is not None:
                if child.process is not None:
                    child.process, child.restarts = None, child.restarts + 1
                    child.start_at = now + child.back_off
                    child.back_off = min(child.back_off * 2, MAX_BACK_OFF)
                elif now >= child.start_at:
                    self._spawn(child)
            elif not child.was_ready:
                child.was_ready = child.service.is_ready()
                if child.was_ready:
                    self._save(ready=self.ready)
            elif now - child.since > 10 * MAX_BACK_OFF:
                child.back_off = 0.25

    def _end(self) -> None:
        for child in reversed(self.children):
            if child.process is not None:
                _end_one(child.process)
            child.was_ready = False
            self.changed(self)
        if self._postgres is not None:
            self._postgres.stop()
        self.folder.save(DevState(ports=self.ports))

    def _save(self, *, ready: bool) -> None:
        running = {
            child.service.name: ProcessMark.of(child.process.pid)
            for child in self.children
            if child.process is not None
        }
        state = DevState(
            ports=self.ports, supervisor=ProcessMark.of(os.getpid()), processes=running
        )
        self.folder.save(replace(state, ready=ready))


def end_processes(state: DevState | None) -> None:
    """End what a record names, each by its id and only if it is still the same process."""
    for mark in state.processes.values() if state else ():
        process = mark.process()
        if process is None:
            continue
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(END_WITHIN)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(END_WITHIN)


def _end_one(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_lines(text: str, count: int = 5) -> str:
    return "\n".join(text.strip().splitlines()[-count:]) or "it said nothing"
