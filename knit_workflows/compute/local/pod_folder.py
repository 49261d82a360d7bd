"""Keeps what is known of one run pod, readable at any instant and after any crash.

```
pods/<pod>/
  pod.json    what was asked for, for humans; and the container engine, if one runs it
  state       what the supervisor says, line by line, see below; and locked (flock) by it and by
              what it started: free means that nothing runs
  stop        blank, or asked to stop: the instant (seconds since boot) from which on it is killed
  reaper      locked by the program that removes a container; `gone` when that has succeeded
```
`state` and `stop` have their place on the disk reserved and are overwritten there, so that a Run
can end, and be stopped, on a full disk. The lines of `state`, in this order:

```
started PID BORN BOOT    the supervisor; never again is anything started under this name
full PATH                this output was not empty (PATH empty: the log); nothing was run
pulling IMAGE            the image is not here: the engine is told to pull it
answered                 the registry has been reached
failure TEXT             the image cannot be pulled, or the container not be made, so far
image ID [DIGEST…]       the image is there
refused TEXT             the container could not be made
"child-pid": PID         the first process in the sandbox
running                  the user's command is started next
facts CODE OOM RUNNING   the container as its engine describes it
exited CODE COPIED       the end: exit codes of the container and of the log's copier
```
Other lines are what programs complained about.
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
class Account:
    """What the supervisor has said of its pod so far."""

    supervisor: tuple[int, int] | None = None
    """Its process number and birth, which mean something only until the machine is booted anew."""
    boot: str | None = None
    full_output: str | None = None
    pulling: str | None = None
    """The image that is not here."""
    answered: bool = False
    """Whether a registry has answered the pull."""
    failure: str | None = None
    image: str | None = None
    refusal: str | None = None
    sandbox: int | None = None
    running: bool = False
    facts: tuple[int, bool, bool] | None = None
    """Exit code, whether memory ran out, whether it still runs; as the engine says."""
    exit: tuple[int, int] | None = None
    """Exit codes of the container and of the log's copier."""
    ended_at: datetime | None = None
    complaints: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.exit is not None or self.full_output is not None or self.refusal is not None


def reserve(folder: Path) -> None:
    """Makes the files of a pod that are overwritten later."""
    (folder / STATE).write_bytes(bytes(_STATE_BYTES))
    (folder / STOP).write_bytes(b"\n".rjust(_STOP_BYTES))


def read_account(folder: Path) -> Account | None:
    """Reads a pod's state; None when there is no such pod."""
    try:
        with (folder / STATE).open("rb") as file:
            text = file.read().partition(b"\0")[0].decode(errors="replace")
            written = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    # A line without its end is still being written.
    account = parse_account(text[: text.rfind("\n") + 1])
    if not account.ended:
        return account
    return replace(account, ended_at=datetime.fromtimestamp(written, UTC))


def parse_account(text: str) -> Account:
    """Reads whole lines of a pod's state; pure."""
    account = Account()
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        parts = rest.split()
        sandbox = _SANDBOX.fullmatch(line)
        match word:
            case "started" if len(parts) == 3:
                known = (int(parts[0]), int(parts[1]))
                account = replace(account, supervisor=known, boot=parts[2])
            case "full":
                account = replace(account, full_output=rest)
            case "pulling":
                account = replace(account, pulling=rest)
            case "answered":
                account = replace(account, answered=True)
            case "failure":
                account = replace(account, failure=rest)
            case "image":
                account = replace(account, image=rest, failure=None)
            case "refused":
                account = replace(account, refusal=rest)
            case "running":
                account = replace(account, running=True)
            case "facts" if len(parts) == 3:
                facts = (int(parts[0]), parts[1] == "true", parts[2] == "true")
                account = replace(account, facts=facts)
            case "exited" if len(parts) == 2:
                account = replace(account, exit=(int(parts[0]), int(parts[1])))
            case _ if sandbox:
                account = replace(account, sandbox=int(sandbox[1]))
            case _ if line.strip("{} ") and not line.lstrip().startswith('"'):
                account = replace(account, complaints=(*account.complaints, line))
    return account


# --- locks -------------------------------------------------------------------------------------


def try_lock(path: Path, *, make: bool = False) -> int | None:
    """Locks a file and gives its descriptor, to be passed on or closed; None when it is locked.

    Raises FileNotFoundError when there is no such file, unless it is to be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    """Says whether somebody living holds a lock; False also when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- stopping ----------------------------------------------------------------------------------


def request_stop(folder: Path, grace: timedelta) -> float:
    """Records that the pod is to be killed after `grace`, or earlier if that was said before.

    Gives the seconds that are left. Raises FileNotFoundError when there is no such pod.
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
    """Gives the instant from which on the pod is killed, as seconds since boot; None: not asked."""
    with suppress(FileNotFoundError, ValueError):
        return float((folder / STOP).read_text())
    return None


def is_overdue(deadline: float) -> bool:
    """Says whether a stop's grace is over."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline
