"""`Set-Cookie` of a service, as clients of knit must get it so that they send the cookie back."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from knit_api.extra.endpoints import Endpoint


def moved(sent: str, endpoint: Endpoint, host: str) -> str:
    """Gives the value of a `Set-Cookie` for clients that reach knit as `host` (with its port).

    `Path` leads through knit: what is `proxy_to` or below becomes the path of the endpoint or
    below, and so does what is above, lest other extra APIs get the cookie. A `Domain` that holds
    for the service, but not for knit, goes: the client then takes knit's own name. All the rest
    stays as it was sent.
    """
    pair, *attributes = sent.split(";")
    if pair.strip().lower().startswith("__host-"):  # must have `Path=/`, and no `Domain`
        return sent
    ours = urlsplit(f"//{host}").hostname or ""
    kept = [pair]
    for attribute in attributes:
        name, is_pair, value = attribute.partition("=")
        what = name.strip().lower() if is_pair else ""
        if what == "path":
            attribute = f"{name}={_path(value.strip(), endpoint)}"
        elif what == "domain" and _holds(value, endpoint.host) and not _holds(value, ours):
            continue
        kept.append(attribute)
    return ";".join(kept)


def _path(path: str, endpoint: Endpoint) -> str:
    if not path.startswith("/"):  # clients take the path of the request instead
        return path
    own = "".join(f"/{segment}" for segment in endpoint.segments) or "/"
    base, asked = endpoint.base.rstrip("/"), path.rstrip("/")
    return own if f"{base}/".startswith(f"{asked}/") else endpoint.location(path)


def _holds(domain: str, host: str) -> bool:
    """Says whether a cookie with this `Domain` is for a host (RFC 6265, §5.1.3)."""
    wanted = domain.strip().lower().removeprefix(".")
    is_address = re.fullmatch(r"[0-9.]+|.*:.*", host) is not None
    return host == wanted or (not is_address and host.endswith(f".{wanted}"))
