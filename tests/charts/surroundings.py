"""What knit-app is installed beside in tests: PostgreSQL and Temporal outside the cluster."""

from __future__ import annotations

import secrets
import socket
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psycopg

from knit_workflows.embedded import EmbeddedPostgres, dev_server_command
from knit_workflows.provision.temporal_cli import obtain_temporal
from tests.waiting import wait_until


@dataclass(frozen=True)
class Surroundings:
    """Where pods reach both, and the passwords of the two roles of knit's database."""

    address: str
    postgres_port: int
    temporal_port: int
    passwords: dict[str, str]

    @property
    def temporal(self) -> str:
        return f"{self.address}:{self.temporal_port}"


@contextmanager
def surroundings(address: str, ports: tuple[int, int, int], folder: Path) -> Iterator[Surroundings]:
    """Serves both on an address of this machine that pods reach, while inside."""
    postgres_port, temporal_port, ui_port = ports
    passwords = {name: secrets.token_urlsafe(16) for name in ("knit", "knit-app")}
    with _postgres(address, postgres_port, folder / "postgres", passwords):
        program = obtain_temporal(quiet=True)
        command = dev_server_command(
            program, folder / "temporal.db", port=temporal_port, ui_port=ui_port
        )
        with (
            subprocess.Popen(command, stdout=subprocess.DEVNULL) as temporal,
            _forwarding(address, temporal_port),
        ):
            try:
                yield Surroundings(address, postgres_port, temporal_port, passwords)
            finally:
                temporal.terminate()


@contextmanager
def _forwarding(address: str, port: int) -> Iterator[None]:
    """Forwards a port of that address to loopback: Temporal's dev server serves one or all."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as inner:
                back = Thread(target=_copy, args=(inner, self.request), daemon=True)
                back.start()
                _copy(self.request, inner)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((address, port), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def _postgres(address: str, port: int, folder: Path, passwords: dict[str, str]) -> Iterator[None]:
    """The embedded server, reachable over the network for roles with a password."""
    server = EmbeddedPostgres(folder)
    server.prepare()
    with (folder / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    server.before_start()
    *program, sockets = server.command()
    command = [address if word == "" else word for word in program]
    with subprocess.Popen(
        [*command, sockets, "-p", str(port)],
        user=server.user,
        group=server.group,
        extra_groups=None if server.user is None else [],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: server.is_ready(process.pid))
            with psycopg.connect(
                host=sockets, port=port, user="postgres", dbname="postgres", autocommit=True
            ) as connection:
                for name, password in passwords.items():
                    role = f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"
                    connection.execute(role.encode())
                connection.execute('CREATE DATABASE knit OWNER "knit"')
            yield
        finally:
            server.clear()
