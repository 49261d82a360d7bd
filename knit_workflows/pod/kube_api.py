"""Reads from the Kubernetes API as a container of a pod may: one connection a request, streamed."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_STALL_SECONDS = 600.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_NOT_ALLOWED_OR_NOT_THERE = (401, 403, 404)


class ApiTrouble(Exception):
    """The API could not be reached, broke off, or has a bad moment. Trying again helps, in time."""


class ApiRefused(ApiTrouble):
    """The API answered 401, 403 or 404: no right to it, or it is not there. It may come, shortly.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class KubeApi:
    """The API server, as seen from inside a pod."""

    def __init__(self, connect: Callable[[], HTTPConnection], token: Callable[[], str]) -> None:
        """Both are called for every request: certificates and tokens are renewed while we run."""
        self._connect = connect
        self._token = token

    @classmethod
    def from_pod(cls, environ: Mapping[str, str], account: Path = ACCOUNT_FOLDER) -> KubeApi:
        """The API of the cluster the pod is in. Raises KeyError if the environment is no pod's."""
        host = environ["KUBERNETES_SERVICE_HOST"]
        port = int(environ.get("KUBERNETES_SERVICE_PORT", "443"))

        def connect() -> HTTPConnection:
            context = ssl.create_default_context(cafile=str(account / "ca.crt"))
            return HTTPSConnection(host, port, timeout=_STALL_SECONDS, context=context)

        return cls(connect, lambda: (account / "token").read_text().strip())

    def stream(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """The body of a GET as it comes. Ends only if it is complete.

        Raises:
            ApiRefused: 401, 403, 404.
            ApiTrouble: any other trouble, also in the middle.
        """
        try:
            connection = self._connect()
        except OSError as error:
            raise ApiTrouble(f"cannot prepare a connection: {error}") from error
        with closing(connection):
            response = self._open(connection, f"{path}?{urlencode(query)}")
            while piece := _read(response):
                yield piece

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """The lines of such a body, without their ends; for watches."""
        rest = b""
        for piece in self.stream(path, query):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole

    def _open(self, connection: HTTPConnection, target: str) -> HTTPResponse:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "*/*"}
            connection.connect()
            _keep_alive(connection.sock)
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status == 200:
                return response
            message = _message(response.read(16 << 10))
        except (OSError, HTTPException) as error:
            raise ApiTrouble(f"the API cannot be reached: {error!r}") from error
        if response.status in _NOT_ALLOWED_OR_NOT_THERE:
            raise ApiRefused(response.status, message)
        raise ApiTrouble(f"the API answered {response.status}: {message}")


def _read(response: HTTPResponse) -> bytes:
    try:
        piece = response.read1(64 << 10)
    except (OSError, HTTPException) as error:
        raise ApiTrouble(f"the connection was cut: {error!r}") from error
    if not piece and response.length:
        raise ApiTrouble("the connection was cut")
    return piece


def _keep_alive(connection: socket.socket) -> None:
    """Notices within a minute when the other side has vanished, which a reader never would."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _message(body: bytes) -> str:
    """The sentence in a Kubernetes Status, else the body's beginning."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and isinstance(status.get("message"), str):
        return str(status["message"])
    return body[:300].decode("utf-8", "replace").strip()
