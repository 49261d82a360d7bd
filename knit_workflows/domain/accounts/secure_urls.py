"""Which addresses are safe to get keys from, and to send secrets to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def fault_of_url(url: str) -> str | None:
    """Says why an address is not safe for keys and secrets; None: it is.

    It must be absolute, and https; on this machine's own loopback addresses http will do. A user, a
    password or a fragment in it is refused.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as cause:
        return str(cause)
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        return "it is not an absolute https URL"
    if "@" in parts.netloc or parts.fragment:
        return "it has a user, a password or a fragment"
    if parts.scheme == "http" and not is_loopback(host):
        return "it is http, which others on the way can read and change"
    return None


def is_loopback(host: str) -> bool:
    """Says whether a name or address, without port, is this machine's own."""
    if host.lower().rstrip(".") in ("localhost", "ip6-localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
