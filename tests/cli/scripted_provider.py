"""An identity provider that answers as a test says; what a real one does is in test_login_walk."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import parse_qsl

import httpx

ISSUER = "https://login.test/lab"
DEVICE = f"{ISSUER}/device"
TOKEN = f"{ISSUER}/token"
REVOKE = f"{ISSUER}/revoke"


def id_token(name: str, seconds: int = 300) -> str:
    """A token as it is seen from outside; nobody checks its signature here."""
    now = int(time.time())
    claims = {"sub": name, "iat": now, "exp": now + seconds}
    return ".".join(_part(one) for one in ({"alg": "RS256"}, claims, name))


def _part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def tokens(name: str = "first", seconds: int = 300, **more: Any) -> dict[str, Any]:
    """An answer with tokens; None leaves one out."""
    usual = {
        "id_token": id_token(name, seconds),
        "access_token": f"access-{name}",
        "refresh_token": f"refresh-{name}",
        "expires_in": 60,
    }
    return {key: value for key, value in {**usual, **more}.items() if value is not None}


class ScriptedProvider:
    """Answers by URL, once per item; the last one stays. `forms` are what it was sent, by URL."""

    def __init__(self) -> None:
        self.configuration: dict[str, Any] = {
            "issuer": ISSUER,
            "device_authorization_endpoint": DEVICE,
            "token_endpoint": TOKEN,
            "revocation_endpoint": REVOKE,
            "scopes_supported": ["openid", "groups", "profile", "offline_access", "other"],
        }
        self.device: dict[str, Any] = {
            "device_code": "device-secret",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{ISSUER}/activate",
            "verification_uri_complete": f"{ISSUER}/activate?user_code=ABCD-EFGH",
            "expires_in": 600,
            "interval": 2,
        }
        self.answers: dict[str, list[Any]] = {TOKEN: [tokens()], REVOKE: [{}]}
        self.forms: dict[str, list[dict[str, str]]] = {}
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        url = str(request.url)
        if url == f"{ISSUER}/.well-known/openid-configuration":
            return _response(self.configuration)
        self.forms.setdefault(url, []).append(dict(parse_qsl(request.content.decode())))
        if url == DEVICE:
            return _response(self.device)
        waiting = self.answers[url]
        return _response(waiting.pop(0) if len(waiting) > 1 else waiting[0])


def refusal(code: str, told: str | None = None) -> httpx.Response:
    """An error of OAuth 2.0."""
    body = {"error": code} | ({"error_description": told} if told else {})
    return httpx.Response(400, json=body)


def _response(answer: Any) -> httpx.Response:
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, httpx.Response):  # a fresh one, since a client consumes it
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
    return httpx.Response(200, json=answer)
