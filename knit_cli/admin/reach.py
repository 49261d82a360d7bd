"""Asks API and registry whether they answer, from this machine and as users do."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from knit_cli.admin.folder import SettingsFolder
from knit_cli.api.tls import context_trusting, default_context, explain_ssl_error
from knit_cli.errors import CliError

PATIENCE: Final = 10.0
"""Seconds that one answer may take."""
WITHIN: Final = 30.0
"""Seconds in which the nodes have learnt of a new port, with some to spare."""
_PAUSE: Final = 1.0
ANSWERS: Final = (200, 401)


class Unreachable(Exception):
    """There is no answer; the message says why. `by_certificate`: one that is not trusted."""

    def __init__(self, reason: str, *, by_certificate: bool = False) -> None:
        super().__init__(reason)
        self.by_certificate = by_certificate


def ask(folder: SettingsFolder, variables: Mapping[str, str], url: str) -> int:
    """Gives the status with which a URL answers, trusting the folder's authority; no proxy is used.

    Raises:
        Unreachable: nothing answers, or with a certificate that is not trusted.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        if parts.scheme == "http":
            connection = http.client.HTTPConnection(host, parts.port, timeout=PATIENCE)
        else:
            context = _context(folder, variables)
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=PATIENCE, context=context
            )
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status
        finally:
            connection.close()
    except ssl.SSLError as error:
        reason, _ = explain_ssl_error(error, str(folder.root))
        raise Unreachable(reason, by_certificate=True) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(reason) from error


def wait_for_api(
    folder: SettingsFolder,
    variables: Mapping[str, str],
    api_root: str,
    tell: Callable[[str], None],
) -> str | None:
    """Waits until the API answers at the address for users; gives why it does not, or None."""
    deadline = time.monotonic() + WITHIN
    said = False
    while True:
        reason = _why_not(folder, variables, f"{api_root}/plans")
        if reason is None or time.monotonic() > deadline:
            return reason
        if not said:
            tell(f"waits for the API at {api_root}: {reason}")
            said = True
        time.sleep(_PAUSE)


def _why_not(folder: SettingsFolder, variables: Mapping[str, str], url: str) -> str | None:
    try:
        status = ask(folder, variables, url)
    except Unreachable as cause:
        return str(cause)
    except CliError as error:  # the certificates of this machine cannot be used
        return error.reason or error.summary
    # Without a token it says 401; 404 or 502 come from something that stands before it.
    return None if status in ANSWERS else f"{url} answers with {status}"


def _context(folder: SettingsFolder, variables: Mapping[str, str]) -> ssl.SSLContext:
    authority = folder.read_bytes(folder.ca_certificate)
    if authority is None:
        return default_context(variables)
    return context_trusting(authority.decode("latin-1"))
