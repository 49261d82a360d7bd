"""Connections to the API server: sends requests, and fails as sockets do.

Loaded when the back-end is opened: a worker whose roles need no right on it needs no HTTP client.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp

from knit_workflows.compute.kubernetes.api.credentials import (
    Credentials,
    no_credentials,
    of_kubeconfig,
    of_service_account,
)
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.settings import KubernetesSettings

_CONNECTIONS: Final = 32
"""More would only queue in the server, and each costs a third of a MiB."""
_BUFFER: Final = 2 << 20
"""The longest line of a watch, in bytes: an object of etcd's limit fits."""
_CONNECT_TIMEOUT: Final = 5.0


class Answer:
    """A response whose body has not been read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.headers

    async def read(self) -> bytes:
        """Gives the whole body; the connection is free again."""
        with _as_os_errors():
            return await self._response.read()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields the lines of the body as they come."""
        with _as_os_errors():
            async for line in self._response.content:
                yield line

    def close(self) -> None:
        """Closes the connection, read or not."""
        self._response.close()


class Connection:
    """A pool of connections; every method fails with OSError if the server cannot be reached."""

    def __init__(self, settings: KubernetesSettings, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._has_sent_token = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            trust_env=True,
            read_bufsize=_BUFFER,
            headers={"User-Agent": "knit"},
        )

    @classmethod
    async def open(cls, settings: KubernetesSettings) -> Connection:
        """Loads the credentials; connections are made when needed.

        Raises:
            BackendRejected: there are no credentials.
        """
        return cls(settings, await _credentials(settings))

    async def renew_credentials(self) -> None:
        """Loads the credentials again.

        Raises:
            BackendRejected: there are none any more; those before stay.
        """
        renewed = await _credentials(self._settings)
        if self._has_sent_token and await renewed.authorization() is None:
            raise no_credentials("the kubeconfig, or its plugin, gave no token this time")
        self._credentials = renewed

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
        *,
        headers: Mapping[str, str],
        silence: float,
    ) -> Answer:
        """Sends a request and gives the response; `silence` is how long the server may be silent.

        There is no time-out in all: to wait for one of our own connections says nothing about the
        server.
        """
        who = self._credentials
        sent = {"Content-Type": "application/json", **headers}
        if authorization := await who.authorization():
            sent["Authorization"] = authorization
            self._has_sent_token = True
        with _as_os_errors():
            return Answer(
                await self._session.request(
                    method,
                    who.server + path,
                    params=query,
                    data=None if body is None else json.dumps(body),
                    headers=sent,
                    ssl=who.tls,
                    server_hostname=who.server_name,
                    proxy=who.proxy,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=silence
                    ),
                )
            )


async def _credentials(settings: KubernetesSettings) -> Credentials:
    if settings.kubeconfig is None:
        return of_service_account()
    return await of_kubeconfig(settings.kubeconfig)


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Turns what only this client raises into what any connection may raise."""
    try:
        yield
    except aiohttp.ClientError as error:
        if isinstance(error, OSError):
            raise
        raise ConnectionError(str(error) or type(error).__name__) from error
