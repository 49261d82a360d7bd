"""Keeps the processes of the embedded stack running until it is told to end."""

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
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.store import migrate

log = logging.getLogger(__name__)

POLL_INTERVAL: Final = 0.1
STARTUP_POLL_INTERVAL: Final = 0.03
WRITERS: Final = ("postgres", "temporal")
"""Without room they do not come up."""
MAX_FAILED_STARTS: Final = 3
"""In a row, without having been ready: then the start of the stack has failed."""


@dataclass
class Supervisor:
    """Starts PostgreSQL, Temporal, worker and API; starts again what dies; ends them in turn."""

    folder: DevFolder
    chosen_ports: Mapping[str, int | None]
    on_ports: Callable[[Ports], None] = lambda _: None
    """Called when the addresses are known, before anything listens there."""
    on_change: Callable[[Supervisor], None] = lambda _: None
    """Called at every look; what it raises because a terminal has gone is ignored."""
    ports: Ports = field(init=False)
    children: list[ChildProcess] = field(init=False, default_factory=list)
    _since: float = field(init=False, default_factory=time.time)
    _ending: bool = field(init=False, default=False)
    _floor: int = field(
        init=False, default_factory=lambda: _settings().compute.local.min_free_bytes
    )
    _reserve: ReserveKeeper = field(init=False)

    def __post_init__(self) -> None:
        """Watches over the folder's disk. Raises BadInput."""
        self._reserve = ReserveKeeper(self.folder.root, Reserve(self.folder.reserve), self._floor)

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return bool(self.children) and all(child.is_ready for child in self.children)

    def run(self, until: Callable[[], bool]) -> None:
        """Starts everything, keeps it running until `until` says so, then ends it.

        The caller holds the folder. What an earlier supervisor left behind (it was killed) is
        ended first. Raises CliError when something does not start.
        """
        require_temporal()
        last = self.folder.load()
        stop_leftovers(self.folder)
        # After that: the ports of what was left are free again, and the addresses stay.
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
        except (OSError, subprocess.SubprocessError) as cause:
            raise CliError(
                "PostgreSQL cannot be set up",
                reason=reason_of(cause) if isinstance(cause, OSError) else str(cause),
                advice=advice_for(cause)
                if isinstance(cause, OSError)
                else f"see that there is room in {self.folder.root}, and that it is yours",
            ) from cause
        migrated = False

        def migrate_once() -> None:
            nonlocal migrated
            if not migrated:
                asyncio.run(migrate(database.url()))
                migrated = True

        made = services(self.folder, self.ports, database, migrate_once)
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
                        advice=f"look into {self.folder.log(child.name)}",
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
        self._ending = True
        self._save()  # Who starts the stack now waits for its end.
        for together in _in_order_of_end(self.children):
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
            ready=self.ready and not self._ending,
            since=self._since,
            floor=self._floor,
        )
        try:
            self.folder.save(state)
        except OSError as error:  # a full disk must not end what runs
            log.warning("the record is out of date: %s", error, extra={"action": "record_kept"})


def _settings() -> Settings:
    """Reads what the processes will read; raises BadInput before they fail of it, one by one."""
    try:
        return read_settings()
    except SettingsRefused as refused:
        raise BadInput("the settings cannot be used", reason=str(refused)) from refused


def _in_order_of_end(children: list[ChildProcess]) -> list[list[ChildProcess]]:
    """Puts together who may end at the same time: first those who need others."""
    users = [child for child in children if child.service.needs]
    return [users, *([child] for child in reversed(children) if child not in users)]
