"""Temporal's dev server as a process of a test's own, which may be stopped and killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Final

from knit_workflows.embedded import dev_server_command, free_port
from knit_workflows.provision.temporal_cli import obtain_temporal

_WITHIN: Final = 300.0


class Temporal:
    """Temporal's dev server as a process on one file and one port, which may be stopped."""

    def __init__(self, folder: Path) -> None:
        cli = obtain_temporal()
        self.address = f"127.0.0.1:{free_port()}"
        port = int(self.address.rpartition(":")[2])
        database = folder / "temporal.db"
        self._command = dev_server_command(cli, database, port=port, ui_port=free_port())
        self._log = folder / "temporal.log"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        host, _, port = self.address.partition(":")
        async with asyncio.timeout(_WITHIN):
            while True:
                assert self.process.poll() is None, self._log.read_text()
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)
