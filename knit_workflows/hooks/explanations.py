"""Errors of the HTTP client in words that say what to do."""

from __future__ import annotations

import os
import ssl
from typing import Final

import aiohttp

from knit_workflows.hooks.addresses import AddressRefused
from knit_workflows.hooks.failures import one_line

_SEE_RECEIVER: Final = "see the receiver's log"


def explanation(error: Exception, proxy: str | None) -> str:
    """Explains an error of the connection or of the protocol; `proxy` is without its password."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return (
                f"the proxy {proxy} refused with {error.status} {error.message}; see the proxy "
                "variables of the hooks worker, or put the hook's host into NO_PROXY"
            )
        case aiohttp.ClientProxyConnectionError():
            return (
                f"the proxy {proxy} does not answer: {_os_words(error.os_error)}; see the proxy "
                "variables of the hooks worker, or put the hook's host into NO_PROXY"
            )
        case aiohttp.ClientConnectorDNSError():
            if isinstance(error.os_error, AddressRefused):
                return str(error.os_error)
            return (
                f"the name {error.host} cannot be resolved: {_os_words(error.os_error)}; check the "
                "host in the hooks file, from where the hooks worker runs"
            )
        case aiohttp.ClientConnectorCertificateError():
            return _certificate_words(error.certificate_error)
        case aiohttp.ClientSSLError():
            return f"TLS cannot be agreed on: {_os_words(error.os_error)}; is it really https?"
        case aiohttp.ClientConnectorError():
            return f"no connection: {_os_words(error.os_error)}; is the receiver running there?"
        case aiohttp.ServerDisconnectedError():
            return f"the connection was closed before an answer; {_SEE_RECEIVER}"
        case aiohttp.ClientPayloadError():
            return f"the connection was closed before the answer was complete; {_SEE_RECEIVER}"
        case aiohttp.ClientResponseError():
            return f"the answer is not HTTP: {one_line(error.message)}; check the URL's port"
        case aiohttp.InvalidURL():
            return f"the URL cannot be called: {error}"
        case AddressRefused():
            return str(error)
        case OSError():
            return f"the connection broke: {_os_words(error)}; {_SEE_RECEIVER}"
    return f"the call failed: {one_line(str(error)) or type(error).__name__}"


def _os_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    if error.errno is None or error.errno <= 0:  # several at once, or the resolver's own number
        return one_line(error.strerror or str(error))
    return os.strerror(error.errno)


def _certificate_words(error: Exception) -> str:
    words = getattr(error, "verify_message", "") or str(error)
    return (
        f"its certificate is not trusted: {words}; name the file of its authority in "
        "KNIT_HOOKS__CA_FILE, or have the certificate corrected"
    )
