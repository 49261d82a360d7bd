"""What knit-app is installed beside in tests: PostgreSQL and Temporal outside the cluster."""

from __future__ import annotations

import secrets
import socket
import socketserver
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final

import psutil
import psycopg

from knit_workflows.embedded import EmbeddedPostgres, dev_server_command
from knit_workflows.provision.temporal_cli import obtain_temporal
from tests.standby import Standby
from tests.waiting import wait_until

_PROMOTED_AFTER: Final = 5.0
"""Seconds until somebody promotes the standby."""
_DRAINAGE: Final = (
    "matching.wv.VersionDrainageStatusVisibilityGracePeriod",
    "matching.wv.VersionDrainageStatusRefreshInterval",
)
"""Usually minutes pass before Temporal looks whether a version of workers is drained."""


@dataclass(frozen=True)
class Surroundings:
    """Where pods reach both, and the passwords of the two roles of knit's database."""

    address: str
    postgres_port: int
    temporal_port: int
    passwords: dict[str, str]
    restart_postgres: Callable[[], None]
    """Ends it as a crash does, and starts it again."""
    restart_temporal: Callable[[], None]
    fail_over: Callable[[], None]
    """Kills PostgreSQL for good; after seconds its standby, which has each commit, is promoted and
    takes over its address. Once only."""

    @property
    def temporal(self) -> str:
        return f"{self.address}:{self.temporal_port}"


@contextmanager
def surroundings(address: str, ports: tuple[int, int, int], folder: Path) -> Iterator[Surroundings]:
    """Serves both on an address of this machine that pods reach, while inside."""
    postgres_port, temporal_port, ui_port = ports
    passwords = {name: secrets.token_urlsafe(16) for name in ("knit", "knit-app")}
    with _postgres(address, postgres_port, folder / "postgres", passwords) as (restart, fail_over):
        program = obtain_temporal(quiet=True)
        command = dev_server_command(
            program, folder / "temporal.db", port=temporal_port, ui_port=ui_port
        )
        for one in _DRAINAGE:
            command += ["--dynamic-config-value", f'{one}="3s"']
        served = ("127.0.0.1", temporal_port)
        with _running(command) as restart_temporal, _forwarding((address, temporal_port), served):
            yield Surroundings(
                *(address, postgres_port, temporal_port, passwords),
                *(restart, restart_temporal, fail_over),
            )


@contextmanager
def _running(command: list[str]) -> Iterator[Callable[[], None]]:
    """Runs a program while inside; gives what kills it and starts it again."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def restart() -> None:
        nonlocal process
        process.kill()
        process.wait()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    try:
        yield restart
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _forwarding(outer: tuple[str, int], inner: tuple[str, int]) -> Iterator[None]:
    """Forwards one address to another: Temporal's dev server serves loopback or all."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(inner) as onward:
                back = Thread(target=_copy, args=(onward, self.request), daemon=True)
                back.start()
                _copy(self.request, onward)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(outer, Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def _postgres(
    address: str, port: int, folder: Path, passwords: dict[str, str]
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """The embedded server, reachable over the network for roles with a password.

    Gives what restarts it and what fails it over.
    """
    server = EmbeddedPostgres(folder)
    server.prepare()
    with (folder / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    *program, sockets = server.command()
    command = [address if word == "" else word for word in program]

    def start() -> None:
        server.before_start()
        process = subprocess.Popen(
            [*command, sockets, "-p", str(port)],
            user=server.user,
            group=server.group,
            extra_groups=None if server.user is None else [],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        wait_until(lambda: server.is_ready(process.pid))

    def kill() -> None:
        for process in server.processes():
            with suppress(psutil.NoSuchProcess):  # its head may have taken it along
                process.kill()
        started[-1].wait()

    def restart() -> None:
        kill()
        start()

    def fail_over() -> None:
        standby = Standby(folder.with_name("standby"), address="127.0.0.1", port=port)
        stack.callback(standby.end)
        standby.follow(server, port)
        kill()
        time.sleep(_PROMOTED_AFTER)
        standby.promote()
        stack.enter_context(_forwarding((address, port), ("127.0.0.1", port)))

    stack = ExitStack()
    started: list[subprocess.Popen[bytes]] = []
    try:
        start()
        with psycopg.connect(
            host=sockets, port=port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            for name, password in passwords.items():
                role = f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"
                connection.execute(role.encode())
            connection.execute('CREATE DATABASE knit OWNER "knit"')
        yield restart, fail_over
    finally:
        stack.close()
        server.clear()
        for process in started:
            process.wait()
