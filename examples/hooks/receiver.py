"""A receiver of hooks on Python's standard library: it takes no calls but those that knit signs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias

Run: TypeAlias = dict[str, Any]
MAX_BYTES = 16 << 20
MAX_AGE = 300  # seconds, for what the network and clocks may take


class Answer(NamedTuple):
    """What knit is answered; `variables` are for the environment of the Run's container."""

    status: int
    text: str = ""
    variables: Mapping[str, str] | None = None


def key_of(secret: str) -> bytes:
    """Gives the key in a secret; raises ValueError if it is not `whsec_` and base64."""
    if not secret.startswith("whsec_"):
        raise ValueError("a secret begins with whsec_")
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


def is_signed(headers: Mapping[str, str], body: bytes, key: bytes) -> bool:
    """Says whether knit has made this call, lately (https://www.standardwebhooks.com)."""
    told, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not re.fullmatch("[0-9]{1,12}", at) or abs(time.time() - int(at)) > MAX_AGE:
        return False
    right = hmac.digest(key, f"{told}.{at}.".encode() + body, hashlib.sha256)
    wanted = b"v1," + base64.b64encode(right)
    # While a secret is being changed, there are two.
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one.encode(), wanted) for one in given)


def serve(listen: str, answer: Callable[[Run], Answer]) -> None:
    """Answers calls until SIGTERM or Ctrl-C, each in a thread of its own.

    Args:
        listen: address and port, as `127.0.0.1:8701`; port 0 takes a free one.
        answer: is given the Run that a call is about.
    """
    try:
        key = key_of(os.environ.get("SECRET", ""))
    except ValueError as error:
        sys.exit(f"set SECRET in the environment to the secret that knit signs with: {error}")

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # for a caller that does not go on

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch("[0-9]{1,12}", length) or int(length) > MAX_BYTES:
                return self.write(Answer(413, f"say how long it is, up to {MAX_BYTES} bytes"))
            body = self.rfile.read(int(length))
            if not is_signed(dict(self.headers), body, key):
                return self.write(Answer(401, "this call is not signed with the secret"))
            return self.write(answer(json.loads(body)))

        def write(self, given: Answer) -> None:
            kind, text = "text/plain; charset=utf-8", given.text
            if given.variables is not None:
                kind = "application/json"
                text = json.dumps({"knitfabExtension": {"env": given.variables}})
            self.send_response(given.status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    address, _, port = listen.rpartition(":")
    with ThreadingHTTPServer((address, int(port)), Handler) as server:
        print(f"listening on http://{address}:{server.server_port}/", flush=True)
        server.serve_forever()
