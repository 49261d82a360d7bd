"""Runs the supervisor in this process, or starts it detached and waits for readiness."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType
from typing import IO, Final

from knit_cli.dev.child_process import READY_TIMEOUT, last_lines
from knit_cli.dev.dev_folder import DevFolder, DevState, Ports
from knit_cli.dev.supervisor import Supervisor
from knit_cli.errors import CliError
from knit_workflows.log import JsonFormatter

ALREADY_RUNNING: Final = 75
"""Exit code of a supervisor that finds another one running."""
_MARGIN: Final = 30.0
"""Seconds for what happens before and after the processes start."""
SETTLE_TIMEOUT: Final = READY_TIMEOUT + _MARGIN
_FLAGS: Final = {"api": "--api-port", "temporal": "--temporal-port", "web_ui": "--web-port"}


def supervise(
    folder: DevFolder,
    ports: Mapping[str, int | None],
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    on_ports: Callable[[Ports], None] = lambda _: None,
    on_change: Callable[[Supervisor], None] = lambda _: None,
) -> bool:
    """Supervises until SIGTERM, SIGINT or SIGHUP; False: another supervisor holds the folder.

    What was ignored before, as SIGHUP is under `nohup`, stays so.
    """
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)
        # A second signal must not interrupt the shutdown.

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or behind `&`
            signal.signal(number, stop)
    with folder.locked() as mine:
        if not mine:
            return False
        _log_to(folder)
        supervisor = Supervisor(
            folder, ports, settings=settings, on_ports=on_ports, on_change=on_change
        )
        supervisor.run(until=lambda: bool(stopping))
    return True


def wait_until_settled(folder: DevFolder) -> DevState | None:
    """Gives the record of a running, ready stack, after waiting for one that starts or stops.

    None: no stack is running, or it did not settle in time.
    """
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < deadline:
        record = folder.running()
        if record is None or record.ready:
            return record
        time.sleep(0.05)
    return None


def running_detached(
    folder: DevFolder,
    ports: Mapping[str, int | None],
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    timeout: float = SETTLE_TIMEOUT,
) -> DevState:
    """Gives the record of the stack once it is ready; starts a supervisor if there is none.

    Raises:
        CliError: it does not start; with the supervisor's own message.
    """
    deadline = time.monotonic() + timeout
    process: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryFile(dir=folder.logs) as output:
        while time.monotonic() < deadline:
            record = folder.running()
            if record is not None and record.ready:
                return record
            if process is None:
                if not folder.is_held():
                    process = _spawn(folder, ports, settings, output)
            elif process.poll() == ALREADY_RUNNING:
                process = None  # another start was faster, or the last stack is still stopping
            elif process.returncode is not None:
                raise start_failure(folder, process.returncode, output)
            time.sleep(0.05)
    raise CliError(
        "knit does not start", reason="it takes too long", advice=f"read the logs in {folder.logs}"
    )


def _spawn(
    folder: DevFolder,
    ports: Mapping[str, int | None],
    settings: Mapping[str, str],
    output: IO[bytes],
) -> subprocess.Popen[bytes]:
    # -P: the user's folder may contain files named like modules.
    command = [sys.executable, "-P", "-m", "knit_cli.dev", str(folder.root)]
    for name, port in ports.items():
        command += [_FLAGS[name], str(port)] if port else []
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=folder.root,
        env={**os.environ, **settings},
        start_new_session=True,
    )


def start_failure(folder: DevFolder, code: int, output: IO[bytes]) -> CliError:
    """Explains why a detached supervisor exited, from its output or else its log."""
    output.seek(0)
    printed = output.read().decode(errors="replace").strip().splitlines()
    try:
        document = json.loads(printed[-1])
        return CliError(document["summary"], reason=document["reason"], advice=document["advice"])
    except (IndexError, ValueError, TypeError, KeyError):
        reason = "\n".join(printed[-5:]) or last_lines(folder.log("supervisor"))
        how = f"its supervisor was killed by signal {-code}" if code < 0 else reason
        return CliError(
            "knit does not start",
            reason=how,
            advice=f"try again, or read the logs in {folder.logs}",
        )


def _log_to(folder: DevFolder) -> None:
    """Sends our log to the folder, because the terminal shows the live status."""
    handler = logging.FileHandler(folder.log("supervisor"), mode="w", encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    ours = logging.getLogger("knit_cli.dev")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)
