"""Remembers, for the whole machine, which cluster was started and tells whether it lives."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from knit_workflows.provision.cache import SetUpError

# One place per machine, not per cache folder: bridge, cgroups and address ranges are the machine's.
RECORD = Path("/run/knit-test-cluster.json")
LOCK = Path("/run/knit-test-cluster.lock")


@dataclass(frozen=True)
class Record:
    """What must be known to find, check and remove one started cluster."""

    state: str
    boot: str
    init: int
    init_started: str
    settings: dict[str, str]
    # Set once the cluster was seen to work; one that lives without it was left by a killed start.
    proven: bool = False

    @classmethod
    def read(cls) -> Record | None:
        """Returns the machine's record, or None when there is none that can be read."""
        try:
            return cls(**json.loads(RECORD.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self) -> None:
        """Replaces the machine's record in one step."""
        fresh = RECORD.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(self)))
        fresh.replace(RECORD)

    def with_init(self, pid: int) -> Record:
        """Returns this record with the node's first process, as it is identified now."""
        return dataclasses.replace(self, init=pid, init_started=start_time(pid))

    def as_proven(self) -> Record:
        """Returns this record of a cluster that was seen to work."""
        return dataclasses.replace(self, proven=True)

    def is_alive(self) -> bool:
        """Tells whether the recorded process is still the one that was started, not a namesake."""
        if not self.init or self.boot != boot_id():
            return False
        return self.init_started != "" and start_time(self.init) == self.init_started

    def end(self, patience_seconds: float = 30) -> None:
        """Ends the node's first process, and with it all others; returns when they are gone."""
        deadline = time.monotonic() + patience_seconds
        while self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SetUpError(f"Process {self.init}, the test node's first, does not end.")
            time.sleep(0.05)


def boot_id() -> str:
    """Returns what names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str:
    """Returns when a process started, in ticks since boot; empty when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The program's name, in parentheses, may hold blanks; what follows it may not.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
