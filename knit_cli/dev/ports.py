"""Ports of the loopback address: which are free, and which process listens on one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

import psutil

from knit_cli.dev.dev_folder import Ports
from knit_cli.errors import BadInput
from knit_workflows import embedded

LOOPBACK = "127.0.0.1"
_FLAGS = {"api": "--api-port", "temporal": "--temporal-port", "web_ui": "--web-port"}


def choose_ports(chosen: Mapping[str, int | None], last: Ports | None) -> Ports:
    """Takes the port the user chose, else the one of the last start if free, else any free one.

    Raises:
        BadInput: a port that the user chose is not free.
    """
    taken: dict[str, int] = {name: port for name, port in chosen.items() if port}
    for name, port in taken.items():
        _refuse_unless_usable(_FLAGS[name], port, list(taken.values()).count(port))
    for name in _FLAGS:
        if name not in taken:
            before = getattr(last, name) if last else 0
            usable = before and before not in taken.values() and why_not_free(before) is None
            taken[name] = before if usable else _another(set(taken.values()))
    return Ports(**taken)


def why_not_free(port: int) -> str | None:
    """Tells why nothing can listen on a port now; None if it is free."""
    with socket.socket() as probe:
        # As servers do, so that old connections in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            return "another program listens there" if taken else str(error)
    return None


def listens(pid: int, port: int) -> bool:
    """Tells whether this process itself listens on a port."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(
        found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
        for found in connections
    )


def _refuse_unless_usable(flag: str, port: int, times: int) -> None:
    reason = "it is given twice" if times > 1 else why_not_free(port)
    if reason is not None:
        raise BadInput(
            f"{flag} {port} cannot be used",
            reason=reason,
            advice=f"choose another {flag}, or leave it out to get a free port",
        )


def _another(taken: set[int]) -> int:
    while (port := embedded.free_port()) in taken:
        pass
    return port
