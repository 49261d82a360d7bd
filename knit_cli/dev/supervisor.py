"""Keeps the processes of the embedded stack running until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from knit_cli.dev.child_process import READY_TIMEOUT, ChildProcess
from knit_cli.dev.dev_folder import DevFolder, DevState, Ports, ProcessIdentity
from knit_cli.dev.disk_reserve import ReserveKeeper
from knit_cli.dev.ports import choose_ports
from knit_cli.dev.prerequisites import require_named_user, require_temporal
from knit_cli.dev.services import services
from knit_cli.dev.shutdown import stop_leftovers
from knit_cli.errors import BadInput, CliError
from knit_workflows.disk import Reserve
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.embedded import (
    EmbeddedPostgres,
    EmbeddedRefused,
    forget_libpq_variables,
)
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.store import migrate

log = logging.getLogger(__name__)

POLL_INTERVAL: Final = 0.1
STARTUP_POLL_INTERVAL: Final = 0.03
WRITERS: Final = ("postgres", "temporal")
"""Services that cannot start on a full disk."""
MAX_FAILED_STARTS: Final = 3
"""After so many deaths of a process that never became ready, the start has failed."""


@dataclass
class Supervisor:
    """Starts PostgreSQL, Temporal, workers and API, restarts what dies, and stops them in order."""

    folder: DevFolder
    chosen_ports: Mapping[str, int | None]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables for the processes, besides those in the environment."""
    on_ports: Callable[[Ports], None] = lambda _: None
    """Called when the ports are chosen, before anything listens on them."""
    on_change: Callable[[Supervisor], None] = lambda _: None
    """Called at every poll; its OSError and ValueError, of a closed terminal, are ignored."""
    ports: Ports = field(init=False)
    children: list[ChildProcess] = field(init=False, default_factory=list)
    _since: float = field(init=False, default_factory=time.time)
    _stopping: bool = field(init=False, default=False)
    _floor: int = field(
        init=False, default_factory=lambda: _settings().compute.local.min_free_bytes
    )
    _reserve: ReserveKeeper = field(init=False)

    def __post_init__(self) -> None:
        """Prepares to watch the disk; raises BadInput if the settings are invalid."""
        self._reserve = ReserveKeeper(self.folder.root, Reserve(self.folder.reserve), self._floor)

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return bool(self.children) and all(child.is_ready for child in self.children)

    def run(self, until: Callable[[], bool]) -> None:
        """Starts everything, keeps it running until `until()` is true, then stops it.

        The caller holds the folder's lock. What a killed supervisor left running is stopped first.

        Raises:
            CliError: something does not start.
        """
        forget_libpq_variables()
        require_temporal()
        last = self.folder.load()
        stop_leftovers(self.folder)
        # Only now are the ports of leftovers free, so that the addresses stay the same.
        self.ports = choose_ports(self.chosen_ports, last.ports if last else None)
        try:
            self._save()
            self.on_ports(self.ports)
            self.children = self._make_children()
            self._start(until)
            while not until():
                self._poll()
                time.sleep(POLL_INTERVAL if self.ready else STARTUP_POLL_INTERVAL)
        finally:
            self._stop()

    def _make_children(self) -> list[ChildProcess]:
        require_named_user()
        database = EmbeddedPostgres(self.folder.postgres)
        try:
            database.prepare()
        except EmbeddedRefused as refused:
            raise CliError(
                "PostgreSQL cannot be set up", reason=refused.reason, advice=refused.advice
            ) from refused
        except (OSError, subprocess.SubprocessError) as cause:
            raise CliError(
                "PostgreSQL cannot be set up",
                reason=reason_of(cause) if isinstance(cause, OSError) else str(cause),
                advice=advice_for(cause)
                if isinstance(cause, OSError)
                else f"check the free space in {self.folder.root}, and who owns it",
            ) from cause
        migrated = False

        def migrate_once() -> None:
            nonlocal migrated
            if not migrated:
                asyncio.run(migrate(database.url()))
                migrated = True

        made = services(self.folder, self.ports, database, migrate_once, self.settings)
        return [ChildProcess(service, self.folder) for service in made]

    def _start(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while not self.ready and not until():
            self._poll()
            for child in self.children:
                if child.failed_starts >= MAX_FAILED_STARTS or time.monotonic() > deadline:
                    raise CliError(
                        f"{child.name} does not start",
                        reason=child.last_error or "it takes too long",
                        advice=f"read {self.folder.log(child.name)}",
                    )
            time.sleep(STARTUP_POLL_INTERVAL)

    def _poll(self) -> None:
        ready = {child.name for child in self.children if child.is_ready}
        self._reserve.poll(in_need=not ready.issuperset(WRITERS))
        changes = [
            child.poll(may_start=ready.issuperset(child.service.needs)) for child in self.children
        ]
        if any(changes):
            self._save()
        with suppress(OSError, ValueError):
            self.on_change(self)

    def _stop(self) -> None:
        self._stopping = True
        self._save()  # whoever starts the stack now waits until it has stopped
        for together in _in_stop_order(self.children):
            for child in together:
                child.request_stop()
            for child in together:
                child.stop()
            with suppress(OSError, ValueError):
                self.on_change(self)
        stop_leftovers(self.folder)
        with suppress(OSError):
            self.folder.save(DevState(ports=self.ports))

    def _save(self) -> None:
        state = DevState(
            ports=self.ports,
            supervisor=ProcessIdentity.of(os.getpid()),
            processes={
                child.name: ProcessIdentity.of(child.process.pid)
                for child in self.children
                if child.process is not None
            },
            ready=self.ready and not self._stopping,
            since=self._since,
            floor=self._floor,
        )
        try:
            self.folder.save(state)
        except OSError as error:  # a full disk must not stop the stack
            log.warning("the record is outdated: %s", error, extra={"action": "record_kept"})


def _settings() -> Settings:
    """Reads the settings of the processes; raises BadInput before each of them fails."""
    try:
        return read_settings()
    except SettingsRefused as refused:
        raise BadInput("the settings cannot be used", reason=str(refused)) from refused


def _in_stop_order(children: list[ChildProcess]) -> list[list[ChildProcess]]:
    """Groups processes that may stop at the same time: dependents first."""
    users = [child for child in children if child.service.needs]
    return [users, *([child] for child in reversed(children) if child not in users)]
