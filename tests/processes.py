"""Real processes of workers and the API, for tests that kill them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from knit_workflows.plugin import Role
from tests.waiting import PATIENCE


def bare_environment(**variables: str) -> dict[str, str]:
    """Gives what a process needs that inherits nothing: programs, knit, and who hears its texts."""
    folders = filter(None, (os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])))
    needed = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(folders)}
    if "KNIT_MESSAGES" in os.environ:  # see tests/messages
        needed["KNIT_MESSAGES"] = os.environ["KNIT_MESSAGES"]
    return needed | variables


class _Process:
    """`python -m MODULE` with these settings, on a log file of its own per start."""

    module: ClassVar[str]
    is_ready: ClassVar[str]
    """What its log says when it is."""

    def __init__(
        self, environment: Mapping[str, str], logs: Path, arguments: Sequence[str] = ()
    ) -> None:
        self._arguments = arguments
        self._environment = {**os.environ, **environment, "KNIT_LOG_FORMAT": "json"}
        self._logs = logs
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The log of the present (or last) process."""
        return self._logs / f"{type(self).__name__}-{self._starts}.log"

    @property
    def pid(self) -> int:
        """The process id of the present process."""
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """How the last process has ended; None: it has not."""
        assert self._process is not None
        return self._process.returncode

    def poll(self) -> int | None:
        """Looks whether the last process has ended; gives its exit code."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Starts one; it is not ready yet."""
        self._starts += 1
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *self._arguments],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Waits until it serves."""
        ends = time.monotonic() + PATIENCE
        while f'"{self.is_ready}"' not in self.log.read_text():
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Waits until it has ended by itself; gives its exit code."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, PATIENCE)

    def kill(self) -> None:
        """kill -9, and nothing else: what it started lives on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)


class WorkerProcess(_Process):
    """A worker; it has all roles unless some are named."""

    module = "knit_workflows"
    is_ready = "worker_ready"

    def __init__(
        self,
        environment: Mapping[str, str],
        logs: Path,
        *,
        roles: Sequence[Role] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        named = ["--roles", ",".join(roles)] if roles else []
        super().__init__(environment, logs, [*named, *arguments])


class ApiProcess(_Process):
    """The API, on another port after each start; callers need no token."""

    module = "knit_api"
    is_ready = "api_ready"

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        open_to_all = {"KNIT_ACCOUNTS__REQUIRED": "false"}
        super().__init__({**open_to_all, **environment}, logs, ["--port", "0"])

    @property
    def root(self) -> str:
        """The address of the Web API; it must be ready."""
        found = re.search(r'"api_ready".*"port": (\d+)', self.log.read_text())
        assert found
        return f"http://127.0.0.1:{found[1]}/api"
