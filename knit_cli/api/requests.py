"""How a request travels to the API: how patiently, how often, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter

from knit_cli.api.answers import detail_of, network_errors, parsed, refuse_unless_ok
from knit_cli.api.proxies import Proxy, proxy_errors
from knit_cli.api.received import Stream, stream_of
from knit_cli.api.retry import Retry

T = TypeVar("T")
Query = Sequence[tuple[str, str]]

PATIENCE = httpx.Timeout(60.0, connect=10.0)
TRANSFER_PATIENCE = httpx.Timeout(60.0, connect=10.0, read=600.0)
"""A transfer may have to wait for a pod, and the answer to an upload for all to be stored."""


class Requests:
    """Sends requests to one API and reads their answers.

    Every method raises ApiUnreachable, ApiRefused (4xx) or ApiBroken.

    Args:
        http: carries the requests; its base URL is the profile's `apiRoot`.
        where: names the file the address comes from, for messages.
        retry: how to wait while the API is away.
        proxy: leads there, if one does; for messages.
    """

    def __init__(
        self, http: httpx.Client, *, where: str, retry: Retry, proxy: Proxy | None = None
    ) -> None:
        self.retry = retry
        self._http = http
        self._where = where
        self._proxy = proxy

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def read(self, path: str, query: Query, shape: TypeAdapter[T], failing: str) -> T:
        """Reads something, and asks again while the API is away or the connection breaks."""

        def attempt() -> T:
            with self._talking():
                answer = self.retry.on_unavailable(
                    lambda: self._http.get(path, params=list(query), timeout=PATIENCE), _reason
                )
            return _parsed(answer, shape, failing)

        return self.retry.on_cut(attempt, repeatable=True)

    def change(
        self, method: str, path: str, shape: TypeAdapter[T], failing: str, body: Any = None
    ) -> T:
        """Changes something; with PUT and DELETE the second call changes nothing more."""
        return self.retry.on_cut(
            lambda: self.once(method, path, shape, failing, json=body),
            repeatable=method in ("PUT", "DELETE"),
        )

    def once(
        self,
        method: str,
        path: str,
        shape: TypeAdapter[T],
        failing: str,
        *,
        timeout: httpx.Timeout = PATIENCE,
        **options: Any,
    ) -> T:
        """Sends a request a single time; `options` are httpx's."""
        with self._talking():
            answer = self._http.request(method, path, timeout=timeout, **options)
        return _parsed(answer, shape, failing)

    def order(self, method: str, path: str, failing: str) -> None:
        """Asks once for something that is answered without content."""
        with self._talking():
            answer = self._http.request(method, path, timeout=PATIENCE)
        refuse_unless_ok(answer, failing)

    @contextmanager
    def stream(
        self,
        path: str,
        query: Mapping[str, str],
        failing: str,
        *,
        headers: Mapping[str, str],
        patient: bool = True,
    ) -> Iterator[Stream]:
        """Opens a body that is read as it comes; `patient`: asks again while the API is away."""

        def ask() -> httpx.Response:
            request = self._http.build_request(
                "GET", path, params=query, headers=headers, timeout=TRANSFER_PATIENCE
            )
            return self._http.send(request, stream=True)

        with self._talking():
            answer = self.retry.on_unavailable(ask, _reason) if patient else ask()
            try:
                if answer.is_error or answer.is_redirect:
                    answer.read()
                refuse_unless_ok(answer, failing)
                yield stream_of(answer)
            finally:
                answer.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        root, proxy = str(self._http.base_url).rstrip("/"), self._proxy
        place = root if proxy is None else f"{root} through the proxy {proxy}"
        with network_errors(place, self._where), proxy_errors(proxy, root):
            yield


def _parsed(answer: httpx.Response, shape: TypeAdapter[T], failing: str) -> T:
    refuse_unless_ok(answer, failing)
    return parsed(answer, shape, failing)


def _reason(answer: httpx.Response) -> str:
    return detail_of(answer).reason
