"""The folder of one run pod: readable at any instant and after any crash.

```
pods/<pod>/
  pod.json    what was launched, for humans; and the container engine, if one runs it
state       what the supervisor reports, line by line, see below; locked (flock) by it and by what
            it started: an unlocked file means that nothing runs
stop        blank, or the deadline of a stop: seconds since boot
reaper      locked by the program that removes a container; `gone` appears when it has succeeded
```
The disk space of `state` and `stop` is reserved and overwritten in place, so that a Run can end,
and be stopped, on a full disk. The lines of `state`, in this order:

```
started PID BORN BOOT           the supervisor; from now on nothing is started under this name
output-not-empty PATH           this output was not empty (PATH empty: the log); nothing was run
pulling IMAGE                   the image is missing: the engine is asked to pull it
answered                        the registry has responded
failure TEXT                    why the pull, or the creation of the container, has failed so far
image ID [DIGEST…]              the image is there
create-error TEXT               the container cannot be created
"child-pid": PID                the first process in the sandbox
running                         the user's command starts next
container-state CODE OOM RUNNING    exit code and flags as the engine reports them
start-error TEXT                the container has never started
exited CODE COPIED              the end: exit codes of the container and of the log's copier
```
All other lines are what programs wrote to stderr.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

POD: Final = "pod.json"
STATE: Final = "state"
STOP: Final = "stop"
REAPER: Final = "reaper"
GONE: Final = "gone"

_STATE_BYTES: Final = 4096
_STOP_BYTES: Final = 32

_SANDBOX: Final = re.compile(r'\s*"child-pid": (\d+),?')


@dataclass(frozen=True, slots=True)
class SupervisorState:
    """What the supervisor has reported of its pod so far."""

    supervisor: tuple[int, int] | None = None
    """Its process number and start time; meaningless after a reboot."""
    boot: str | None = None
    output_not_empty: str | None = None
    pulling: str | None = None
    """The image that is missing."""
    answered: bool = False
    """Whether a registry has responded to the pull."""
    failure: str | None = None
    image: str | None = None
    create_error: str | None = None
    sandbox: int | None = None
    running: bool = False
    container_state: tuple[int, bool, bool] | None = None
    """Exit code, whether it was OOM-killed, whether it still runs; as the engine reports."""
    start_error: str | None = None
    exit: tuple[int, int] | None = None
    """Exit codes of the container and of the log's copier."""
    ended_at: datetime | None = None
    stderr_lines: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the pod has ended: nothing more will be reported."""
        return (
            self.exit is not None
            or self.output_not_empty is not None
            or self.create_error is not None
        )


def reserve(folder: Path) -> None:
    """Creates the files of a pod that are overwritten later."""
    (folder / STATE).write_bytes(bytes(_STATE_BYTES))
    (folder / STOP).write_bytes(b"\n".rjust(_STOP_BYTES))


def read_state(folder: Path) -> SupervisorState | None:
    """Reads a pod's state; None when there is no such pod."""
    try:
        with (folder / STATE).open("rb") as file:
            text = file.read().partition(b"\0")[0].decode(errors="replace")
            written = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    # A line without a newline is still being written.
    reported = parse_state(text[: text.rfind("\n") + 1])
    if not reported.ended:
        return reported
    return replace(reported, ended_at=datetime.fromtimestamp(written, UTC))


def parse_state(lines: str) -> SupervisorState:
    """Parses whole lines of a pod's state; pure."""
    reported = SupervisorState()
    for line in lines.splitlines():
        word, _, text = line.partition(" ")
        parts = text.split()
        sandbox = _SANDBOX.fullmatch(line)
        match word:
            case "started" if len(parts) == 3:
                known = (int(parts[0]), int(parts[1]))
                reported = replace(reported, supervisor=known, boot=parts[2])
            case "output-not-empty":
                reported = replace(reported, output_not_empty=text)
            case "pulling":
                reported = replace(reported, pulling=text)
            case "answered":
                reported = replace(reported, answered=True)
            case "failure":
                reported = replace(reported, failure=text)
            case "image":
                reported = replace(reported, image=text, failure=None)
            case "create-error":
                reported = replace(reported, create_error=text)
            case "running":
                reported = replace(reported, running=True)
            case "container-state" if len(parts) == 3:
                container_state = (int(parts[0]), parts[1] == "true", parts[2] == "true")
                reported = replace(reported, container_state=container_state)
            case "start-error":
                reported = replace(reported, start_error=text)
            case "exited" if len(parts) == 2:
                reported = replace(reported, exit=(int(parts[0]), int(parts[1])))
            case _ if sandbox:
                reported = replace(reported, sandbox=int(sandbox[1]))
            case _ if line.strip("{} ") and not line.lstrip().startswith('"'):
                reported = replace(reported, stderr_lines=(*reported.stderr_lines, line))
    return reported


# --- locks -------------------------------------------------------------------------------------


def try_lock(path: Path, *, make: bool = False) -> int | None:
    """Locks a file and gives its descriptor, to be passed on or closed; None if it is locked.

    Raises:
        FileNotFoundError: there is no such file, and it is not to be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Says whether a living process holds the lock; False also when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two concurrent callers do not mistake each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- stopping ----------------------------------------------------------------------------------


def request_stop(folder: Path, grace: timedelta) -> float:
    """Records that the pod is to be killed after `grace`; an earlier deadline stays.

    Gives the seconds that are left.

    Raises:
        FileNotFoundError: there is no such pod.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    deadline = now + grace.total_seconds()
    earlier = stop_deadline(folder)
    if earlier is None or deadline < earlier:
        with (folder / STOP).open("r+b") as file:
            file.write(f"{deadline:.6f}\n".rjust(_STOP_BYTES).encode())
        return deadline - now
    return max(0.0, earlier - now)


def stop_deadline(folder: Path) -> float | None:
    """Gives the deadline of a requested stop in seconds since boot; None: none was requested."""
    with suppress(FileNotFoundError, ValueError):
        return float((folder / STOP).read_text())
    return None


def is_overdue(deadline: float) -> bool:
    """Says whether the deadline of a stop has passed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline
