"""Sends requests to the API: timeouts, retries, and translation of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from knit_cli.api.proxies import Proxy, proxy_errors
from knit_cli.api.responses import (
    detail_of,
    network_errors,
    parsed,
    raise_for_status,
    refuse_web_page,
)
from knit_cli.api.retry import PATIENT_ATTEMPTS, UNAVAILABLE, Retry, postponed
from knit_cli.api.streamed_response import StreamedResponse
from knit_cli.errors import ApiRefused, ConnectionCut

T = TypeVar("T")
Query = Sequence[tuple[str, str]]

NEXT_HEADER = "X-Next-Cursor"
PAGE = 1000
"""The most items that the API gives at once if it is asked for a number."""

REQUEST_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
TRANSFER_TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=600.0)
"""A transfer may wait for a pod, and the response to an upload until everything is stored."""


class Requests:
    """Sends requests to one API and reads the responses.

    Every method raises ApiUnreachable, ApiRefused (4xx) or ApiBroken.

    Args:
        http: carries the requests; its base URL is the profile's `apiRoot`.
        where: names the file with the address, for messages.
        retry: repeats requests.
        proxy: the proxy in use, if any; for messages.
    """

    def __init__(
        self, http: httpx.Client, *, where: str, retry: Retry, proxy: Proxy | None = None
    ) -> None:
        self.retry = retry
        self._http = http
        self._where = where
        self._proxy = proxy

    @property
    def root(self) -> str:
        """The address of the API, without a trailing `/`."""
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def read(self, path: str, query: Query, kind: type[T], failure: str) -> T:
        """Reads something; repeated while the API is unavailable or the connection breaks."""
        return self._read(path, query, kind, failure)[0]

    def read_page(self, path: str, query: Query, kind: type[T], failure: str) -> tuple[T, bool]:
        """Reads one page of a list, as `read` does; tells whether another page follows."""
        page, response = self._read(path, query, kind, failure)
        return page, "next" in response.links

    def read_pages(
        self, path: str, query: Query, kind: type[list[T]], failure: str
    ) -> Iterator[list[T]]:
        """Reads a whole list, each page as `read` does.

        It is not the list of one instant: what moves in its order meanwhile may come on two pages,
        or on none if it moves to the front.
        """
        asked = [*query, ("limit", str(PAGE))]
        page, response = self._read(path, asked, kind, failure)
        yield page
        while cursor := response.headers.get(NEXT_HEADER):
            page, response = self._read(path, [*asked, ("cursor", cursor)], kind, failure)
            yield page

    def _read(
        self, path: str, query: Query, kind: type[T], failure: str
    ) -> tuple[T, httpx.Response]:
        def attempt() -> tuple[T, httpx.Response]:
            with self._translated_errors():
                response = self.retry.on_unavailable(
                    lambda: self._http.get(path, params=list(query), timeout=REQUEST_TIMEOUT),
                    _reason,
                )
            return _parsed(response, kind, failure), response

        return self.retry.on_cut(attempt, repeatable=True)

    def change(self, method: str, path: str, kind: type[T], failure: str, body: Any = None) -> T:
        """Changes something; PUT and DELETE, which are idempotent, are repeated after a cut."""
        return self.retry.on_cut(
            lambda: self.once(method, path, kind, failure, json=body),
            repeatable=method in ("PUT", "DELETE"),
        )

    def once(
        self,
        method: str,
        path: str,
        kind: type[T],
        failure: str,
        *,
        timeout: httpx.Timeout = REQUEST_TIMEOUT,
        **options: Any,
    ) -> T:
        """Sends a request once; `options` are those of httpx."""
        with self._translated_errors():
            response = self._http.request(method, path, timeout=timeout, **options)
        return _parsed(response, kind, failure)

    def repeated(self, method: str, path: str, kind: type[T], failure: str, **options: Any) -> T:
        """Sends what may be executed twice, again after a cut and while the API is overloaded.

        Raises:
            ApiRefused: in the end too, or it asks for a pause of more than two minutes.
        """

        def attempt() -> T:
            try:
                return self.once(method, path, kind, failure, **options)
            except ApiRefused as refused:
                if refused.status not in UNAVAILABLE:
                    raise
                raise postponed(refused, failure) from refused

        try:
            return self.retry.on_cut(attempt, repeatable=True, attempts=PATIENT_ATTEMPTS)
        except ConnectionCut as cut:
            if isinstance(cut.__cause__, ApiRefused):  # it is reachable, and says why not
                raise cut.__cause__ from None
            raise

    def send(self, method: str, path: str, failure: str) -> httpx.Headers:
        """Sends a request once whose response has no content; gives its headers."""
        with self._translated_errors():
            response = self._http.request(method, path, timeout=REQUEST_TIMEOUT)
        raise_for_status(response, failure)
        return response.headers

    @contextmanager
    def stream(
        self,
        path: str,
        query: Mapping[str, str],
        failure: str,
        *,
        headers: Mapping[str, str],
        retrying: bool = True,
    ) -> Iterator[StreamedResponse]:
        """Opens a response to read as it arrives; `retrying` while the API is unavailable."""

        def ask() -> httpx.Response:
            request = self._http.build_request(
                "GET", path, params=query, headers=headers, timeout=TRANSFER_TIMEOUT
            )
            return self._http.send(request, stream=True)

        with self._translated_errors():
            response = self.retry.on_unavailable(ask, _reason) if retrying else ask()
            try:
                if response.is_error or response.is_redirect:
                    response.read()
                raise_for_status(response, failure)
                refuse_web_page(response, failure)
                yield StreamedResponse.of(response)
            finally:
                response.close()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        root, proxy = self.root, self._proxy
        place = root if proxy is None else f"{root} through the proxy {proxy}"
        with network_errors(place, self._where), proxy_errors(proxy, root):
            yield


def _parsed(response: httpx.Response, kind: type[T], failure: str) -> T:
    raise_for_status(response, failure)
    return parsed(response, kind, failure)


def _reason(response: httpx.Response) -> str:
    return detail_of(response).reason
