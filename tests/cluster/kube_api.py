"""Speaks to one API server over HTTPS with a client certificate: single requests and watches."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

Object = dict[str, Any]


class ApiError(Exception):
    """The API server answered with an error; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Access:
    """Where an API server is and the files to speak to it with."""

    server: str
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def in_folder(cls, server: str, folder: Path) -> Access:
        """Returns the administrator's access of a cluster whose certificates are in `folder`."""
        return cls(server, folder / "ca.crt", folder / "admin.crt", folder / "admin.key")


class KubeApi:
    """One kept-open connection; not for use by two threads at once."""

    def __init__(self, access: Access, timeout_seconds: float = 30) -> None:
        self._tls = ssl.create_default_context(cafile=str(access.authority))
        self._tls.load_cert_chain(access.certificate, access.key)
        self._host = urlsplit(access.server).netloc
        self._timeout = timeout_seconds
        self._kept: http.client.HTTPSConnection | None = None

    def get(self, path: str) -> Object:
        """Returns an object or a list."""
        return self._request("GET", path)

    def create(self, path: str, content: Object) -> Object:
        """Posts `content` to a collection; what exists already is returned as it is."""
        try:
            return self._request("POST", path, content)
        except ApiError as error:
            if error.code != http.client.CONFLICT:
                raise
            return self.get(f"{path}/{content['metadata']['name']}")

    def patch(self, path: str, content: Object) -> Object:
        """Merges `content` into an object."""
        return self._request("PATCH", path, content)

    def delete(self, path: str, grace_seconds: int | None = None) -> None:
        """Deletes an object; one that is gone is fine."""
        query = "" if grace_seconds is None else f"?gracePeriodSeconds={grace_seconds}"
        try:
            self._request("DELETE", path + query)
        except ApiError as error:
            if error.code != http.client.NOT_FOUND:
                raise

    def is_ready(self) -> bool:
        """Tells whether the API server answers and calls itself ready."""
        try:
            connection = self._connect()
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._kept = None
            return False
        return answer.status == http.client.OK

    def watch(self, path: str, resource_version: str, seconds: int = 300) -> Iterator[Object]:
        """Yields watch events (`type`, `object`) after a version, until the server ends the watch.

        Raises:
            ApiError: the version is too old (410) or the server refuses.
        """
        options = {"watch": "1", "resourceVersion": resource_version, "timeoutSeconds": seconds}
        connection = self._new_connection(timeout=seconds + 30)
        try:
            connection.request("GET", f"{path}?{urlencode(options)}")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise ApiError(answer.status, answer.read().decode(errors="replace"))
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"].get("code", 500), str(event["object"]))
                yield event
        finally:
            connection.close()

    def _request(self, method: str, path: str, content: Object | None = None) -> Object:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        body = None if content is None else json.dumps(content)
        for attempt in (1, 2):
            connection = self._connect()
            try:
                connection.request(method, path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                raw = answer.read()
                break
            except (OSError, http.client.HTTPException):
                # An idle connection may have been closed; with a new one the error is real.
                self._kept = None
                if attempt == 2:
                    raise
        if answer.status >= http.client.BAD_REQUEST:
            raise ApiError(answer.status, raw.decode(errors="replace"))
        found: Object = json.loads(raw)
        return found

    def _connect(self) -> http.client.HTTPSConnection:
        if self._kept is None:
            self._kept = self._new_connection(self._timeout)
        return self._kept

    def _new_connection(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, timeout=timeout, context=self._tls)
