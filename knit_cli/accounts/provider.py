"""Speaks to an identity provider: its discovery document, and the forms of OAuth 2.0."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from knit_cli.errors import ApiUnreachable, CliError
from knit_workflows.domain.accounts.secure_urls import fault_of_url

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT: Final = httpx.Timeout(15.0, connect=10.0)
_MAX_WORDS: Final = 500


class ProviderFault(CliError):
    """The identity provider does not answer as one should, or refuses; `code` is OAuth's, or ''."""

    def __init__(self, summary: str, *, code: str = "", reason: str = "", advice: str = "") -> None:
        super().__init__(summary, reason=reason or None, advice=advice or None)
        self.code = code


@dataclass(frozen=True)
class Endpoints:
    """Where a provider does what; None: it does not."""

    issuer: str
    token: str
    device: str | None
    revocation: str | None
    scopes: frozenset[str]


@dataclass(frozen=True)
class Tokens:
    """What a provider gives for a login; its texts are secrets, and some may be missing."""

    id_token: str | None
    access_token: str | None
    refresh_token: str | None
    expires_in: float | None
    """Seconds for which the access token is valid."""

    def __repr__(self) -> str:
        return "Tokens(…)"

    def of_kind(self, kind: str) -> str | None:
        """Gives the token that is sent to the API."""
        return self.id_token if kind == "id_token" else self.access_token

    def lifetime(self, kind: str) -> float | None:
        """Gives the seconds for which that token is valid; None: unknown.

        An ID token says so itself. Its instants are by the provider's clock, so only their
        difference counts here.
        """
        token = self.of_kind(kind)
        claims = _claims(token) if kind == "id_token" and token else {}
        begin, end = claims.get("iat"), claims.get("exp")
        if isinstance(begin, int | float) and isinstance(end, int | float):
            return float(end - begin)
        return self.expires_in


class Provider:
    """A client of one identity provider; a context manager that closes its connections.

    Every method raises ApiUnreachable if it does not answer, ProviderFault if it refuses.
    """

    def __init__(self, issuer: str, http: httpx.Client) -> None:
        self.issuer = issuer
        self._http = http

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def discover(self) -> Endpoints:
        """Reads where it does what."""
        url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        with self._network_errors():
            response = self._http.get(url, timeout=_TIMEOUT)
        document = _object(response)
        if response.status_code != httpx.codes.OK or document is None:
            raise self._fault(f"{url} answers {response.status_code}, and not its configuration")
        if document.get("issuer") != self.issuer:
            raise self._fault(f"its configuration is that of {document.get('issuer')!r}")
        token = self._endpoint(document, "token_endpoint")
        if token is None:
            raise self._fault("its configuration names no token_endpoint")
        scopes = document.get("scopes_supported")
        return Endpoints(
            issuer=self.issuer,
            token=token,
            device=self._endpoint(document, "device_authorization_endpoint"),
            revocation=self._endpoint(document, "revocation_endpoint"),
            scopes=frozenset(map(str, scopes)) if isinstance(scopes, list) else frozenset(),
        )

    def submit(self, url: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """Submits a form and gives the JSON of the answer; `{}` if it has none."""
        with self._network_errors():
            response = self._http.post(
                url, data=dict(form), headers={"Accept": "application/json"}, timeout=_TIMEOUT
            )
        document = _object(response) or {}
        if response.is_success:
            return document
        code, told = document.get("error"), document.get("error_description")
        said = f"HTTP status {response.status_code}"
        words = ": ".join(str(one) for one in (code or said, told) if one)[:_MAX_WORDS]
        if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise self._away(words)
        raise ProviderFault(
            f"the identity provider {self.issuer} refuses",
            code=code if isinstance(code, str) else "",
            reason=words,
        )

    def refresh(self, token_endpoint: str, client_id: str, refresh_token: str) -> Tokens:
        """Exchanges a refresh token, which may be used up by that."""
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": client_id,
        }
        return tokens_of(self.submit(token_endpoint, form))

    def revoke(self, revocation_endpoint: str, client_id: str, refresh_token: str) -> None:
        """Ends the session of a refresh token (RFC 7009); a second call changes nothing."""
        form = {
            "token": refresh_token,
            "token_type_hint": "refresh_token",
            "client_id": client_id,
        }
        self.submit(revocation_endpoint, form)

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str | None:
        url = document.get(name)
        if not isinstance(url, str):
            return None
        if (fault := fault_of_url(url)) is not None:
            raise self._fault(f"its {name} cannot be used: {fault}")
        return url

    @contextmanager
    def _network_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as cause:
            raise self._away(str(cause) or type(cause).__name__) from cause

    def _away(self, reason: str) -> ApiUnreachable:
        return ApiUnreachable(
            f"the identity provider {self.issuer} does not answer",
            reason=reason,
            advice="try again later; its certificate must be one that this machine, or cert.ca of "
            "the profile, trusts",
        )

    def _fault(self, reason: str) -> ProviderFault:
        return ProviderFault(
            f"the identity provider {self.issuer} cannot be used",
            reason=reason,
            advice="ask your knit's administrator, who has named it "
            "(KNIT_ACCOUNTS__OIDC_ISSUER), or for a token",
        )


def tokens_of(answer: Mapping[str, Any]) -> Tokens:
    """Reads the tokens of an answer; what is no text is missing."""

    def text(name: str) -> str | None:
        value = answer.get(name)
        return value if isinstance(value, str) and value else None

    seconds = answer.get("expires_in")
    return Tokens(
        id_token=text("id_token"),
        access_token=text("access_token"),
        refresh_token=text("refresh_token"),
        expires_in=float(seconds) if isinstance(seconds, int | float) else None,
    )


def _object(response: httpx.Response) -> Mapping[str, Any] | None:
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _claims(token: str) -> Mapping[str, Any]:
    """Reads the claims of a JSON Web Token without believing them; `{}` if it is none."""
    try:
        payload = token.split(".")[1]
        content = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
