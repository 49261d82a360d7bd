"""The state folder of `knit dev`, and the record in it: ports and processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import psutil

from knit_cli.config.files import write_private
from knit_cli.errors import BadInput
from knit_workflows.domain.os_errors import advice_for, reason_of

_LOCK_TIMEOUT: Final = 1.0
"""Seconds; `is_held` holds the lock for an instant too."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process by its id and start time, because ids are used again."""

    pid: int
    started_at: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Identifies a running process; one that is gone already matches no process."""
        return cls(pid, _started_at(pid) or "gone")

    def process(self) -> psutil.Process | None:
        """Gives that very process; None if it is gone or a zombie."""
        if _started_at(self.pid) != self.started_at:
            return None
        try:
            process = psutil.Process(self.pid)
            return process if process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _started_at(pid: int) -> str | None:
    """Gives the start time of a process in a form that clock corrections do not change."""
    try:
        # The second field is the command's name in parentheses and may hold anything.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{_BOOT_ID.read_text().strip()} {text[text.rindex(')') + 2 :].split()[19]}"
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        if _BOOT_ID.exists():
            return None
    try:  # not Linux
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True)
class Ports:
    """TCP ports on the loopback address; kept from start to start, so that addresses stay."""

    api: int
    temporal: int
    web_ui: int


@dataclass(frozen=True)
class DevState:
    """One start of the stack; `processes` by name, without the supervisor."""

    ports: Ports
    supervisor: ProcessIdentity | None = None
    processes: dict[str, ProcessIdentity] = field(default_factory=dict)
    ready: bool = False
    since: float = 0.0
    """When it was started, in seconds since the epoch; for people."""
    floor: int = 0
    """Free bytes on its disk below which nothing new starts."""


RECORD: Final = "state.json"
"""The file in a state folder that records what was started; kept after the stack stops."""


class DevFolder:
    """The folder with everything that belongs to one embedded stack."""

    def __init__(self, root: Path) -> None:
        # Resolved, because processes are found by it and the system reports resolved paths.
        self.root = root.resolve()
        self.logs = self.root / "logs"
        self.postgres = self.root / "postgres"
        self.compute = self.root / "compute"
        self.temporal_database = self.root / "temporal.db"
        self.reserve = self.root / "reserve"
        self._record = self.root / RECORD
        self._lock = self.root / "lock"

    def create(self) -> None:
        """Creates the folder; exists already: fine. Raises BadInput if it cannot be used."""
        try:
            for folder in (self.root, self.logs, self.compute):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        except OSError as cause:
            raise _unusable(self.root, cause) from cause

    def load(self) -> DevState | None:
        """Reads the record of the last start; None if there is none."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            return DevState(
                ports=Ports(**record["ports"]),
                supervisor=ProcessIdentity(**record["supervisor"])
                if record["supervisor"]
                else None,
                processes={k: ProcessIdentity(**v) for k, v in record["processes"].items()},
                ready=record["ready"],
                since=record["since"],
                floor=record.get("floor", 0),
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None  # missing, or of another version: processes are found without it

    def running(self) -> DevState | None:
        """Reads the record if its supervisor is alive, else None."""
        record = self.load()
        if record is None or record.supervisor is None or record.supervisor.process() is None:
            return None
        return record

    def save(self, state: DevState) -> None:
        """Replaces the record atomically."""
        write_private(self._record, json.dumps(asdict(state), indent=2))

    def log(self, name: str) -> Path:
        """Gives the path of a process's log."""
        return self.logs / f"{name}.log"

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Locks the folder for one supervisor; yields False if another one holds the lock."""
        try:
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise _unusable(self.root, cause) from cause
        try:
            yield _lock(handle)
        finally:
            os.close(handle)

    def is_held(self) -> bool:
        """Tells whether somebody holds the lock: a supervisor, or a `knit dev down`."""
        with suppress(FileNotFoundError, NotADirectoryError):
            handle = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(handle)
        return False


def _lock(handle: int) -> bool:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _unusable(root: Path, cause: OSError) -> BadInput:
    return BadInput(
        f"the state folder {root} cannot be used",
        reason=reason_of(cause),
        advice=f"{advice_for(cause)} (--state)",
    )
