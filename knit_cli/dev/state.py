"""What `knit dev` remembers in its state folder: addresses, and which processes are its own."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from knit_cli.errors import BadInput
from knit_cli.files import write_private


@dataclass(frozen=True)
class ProcessMark:
    """A process by its id and the instant (epoch seconds) it was started: ids are used again."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessMark:
        """Mark a process that runs now; one that is gone already gets a mark that matches none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return cls(pid, 0.0)

    def process(self) -> psutil.Process | None:
        """Give the very process that was marked, or None when it is gone (or only a zombie)."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if alive and process.create_time() == self.started else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Ports:
    """TCP ports on the loopback address; kept from start to start, so that addresses last."""

    api: int
    temporal: int
    web_ui: int


@dataclass(frozen=True)
class DevState:
    """One start of the stack; `processes` by name, besides `supervisor`."""

    ports: Ports
    supervisor: ProcessMark | None = None
    processes: dict[str, ProcessMark] = field(default_factory=dict)
    ready: bool = False


class StateFolder:
    """The folder that holds everything of one embedded stack."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self.postgres = self.root / "postgres"
        self.compute = self.root / "compute"
        self.temporal_database = self.root / "temporal.db"
        self._record = self.root / "state.json"

    def create(self) -> None:
        """Make the folder; there already: fine. Raises BadInput when it cannot be made."""
        try:
            for folder in (self.root, self.logs, self.compute):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise BadInput(
                f"cannot make the state folder {self.root}",
                reason=cause.strerror,
                advice="choose another with --state",
            ) from cause

    def load(self) -> DevState | None:
        """Give what the last start left, or None."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            return DevState(
                ports=Ports(**record["ports"]),
                supervisor=ProcessMark(**record["supervisor"]) if record["supervisor"] else None,
                processes={k: ProcessMark(**v) for k, v in record["processes"].items()},
                ready=record["ready"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # None, or torn by a crash: the stack itself is found by its folders.

    def save(self, state: DevState) -> None:
        """Replace the record, whole or not at all."""
        write_private(self._record, json.dumps(asdict(state), indent=2))

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the folder for one supervisor; yields False when another one holds it."""
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)
