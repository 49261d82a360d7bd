"""Reads from the Kubernetes API from inside a pod: one connection per request, streamed."""

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

_READ_TIMEOUT = 600.0
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_NOT_ALLOWED_OR_NOT_THERE = (401, 403, 404)


class KubeApiError(Exception):
    """The API server is unreachable, cut the connection, or failed; it may recover, so retry."""


class KubeApiRefused(KubeApiError):
    """The API server answered 401, 403 or 404; right after a pod's start this may pass, too.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class KubeApiSilent(KubeApiError):
    """Nothing came for as long as the caller wanted to wait."""


class KubeApiCut(KubeApiError):
    """The connection was cut in the middle of a body."""


class KubeApi:
    """The API server of the cluster that the pod is in."""

    def __init__(self, connect: Callable[[], HTTPConnection], token: Callable[[], str]) -> None:
        """Both are called for every request: certificates and tokens are rotated."""
        self._connect = connect
        self._token = token

    @classmethod
    def from_pod(cls, environ: Mapping[str, str], account: Path = ACCOUNT_FOLDER) -> KubeApi:
        """Configures it from the environment of every pod; raises KeyError outside a pod."""
        host = environ["KUBERNETES_SERVICE_HOST"]
        port = int(environ.get("KUBERNETES_SERVICE_PORT", "443"))

        def connect() -> HTTPConnection:
            context = ssl.create_default_context(cafile=str(account / "ca.crt"))
            return HTTPSConnection(host, port, timeout=_READ_TIMEOUT, context=context)

        return cls(connect, lambda: (account / "token").read_text().strip())

    def stream(
        self,
        path: str,
        query: Mapping[str, str],
        patience: Callable[[], float] = lambda: _READ_TIMEOUT,
    ) -> Iterator[bytes]:
        """Yields the body of a GET as it arrives; the iterator ends only if the body is complete.

        `patience` is asked before each part for how many seconds it may take.

        Raises:
            KubeApiSilent: a part took longer.
            KubeApiCut: the body did not come whole.
            KubeApiRefused: 401, 403, 404.
            KubeApiError: any other failure; nothing has come.
        """
        try:
            connection = self._connect()
        except OSError as error:
            raise KubeApiError(f"cannot prepare a connection: {error}") from error
        with closing(connection):
            response, sock = self._open(connection, f"{path}?{urlencode(query)}")
            while True:
                sock.settimeout(patience())
                if not (chunk := _read(response)):
                    return
                yield chunk

    def lines(self, path: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """Yields the lines of such a body without their ends; for watches."""
        remainder = b""
        for chunk in self.stream(path, query):
            *whole, remainder = (remainder + chunk).split(b"\n")
            yield from whole

    def _open(self, connection: HTTPConnection, target: str) -> tuple[HTTPResponse, socket.socket]:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "*/*"}
            connection.connect()
            sock = connection.sock  # a response that ends with its connection takes it over
            _keep_alive(sock)
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            if response.status == 200:
                return response, sock
            message = _message(response.read(16 << 10))
        except (OSError, HTTPException) as error:
            raise KubeApiError(f"the API cannot be reached: {error!r}") from error
        if response.status in _NOT_ALLOWED_OR_NOT_THERE:
            raise KubeApiRefused(response.status, message)
        raise KubeApiError(f"the API answered {response.status}: {message}")


def _read(response: HTTPResponse) -> bytes:
    try:
        chunk = response.read1(64 << 10)
    except TimeoutError as error:
        raise KubeApiSilent("nothing came for too long") from error
    except (OSError, HTTPException) as error:
        raise KubeApiCut(f"the connection was cut: {error!r}") from error
    if not chunk and response.length:
        raise KubeApiCut("the connection was cut")
    return chunk


def _keep_alive(connection: socket.socket) -> None:
    """Enables TCP keep-alive, so that a vanished peer is noticed within a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _message(body: bytes) -> str:
    """Returns the message of a Kubernetes Status, else the first 300 bytes of the body."""
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if isinstance(status, dict) and isinstance(status.get("message"), str):
        return str(status["message"])
    return body[:300].decode("utf-8", "replace").strip()
