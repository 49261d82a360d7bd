"""Tokens of an OpenID Connect provider: their signature, their claims, and the role they give.

PyJWT reads and checks them: it is the library that most of Python uses for it, is maintained, and
does nothing but this. Keys are ours to find (see `issuer`), since its own client blocks and reads
them as often as tokens ask.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import jwt

from knit_api.accounts.issuer import KEYS_OF, IssuerKeys
from knit_api.accounts.verifiers import NoRole, TokenRefused
from knit_workflows.domain.accounts.principals import Principal, Role
from knit_workflows.domain.tags import Tag, parse_tag
from knit_workflows.settings import AccountSettings, SettingsRefused

MAX_TOKEN_CHARS: Final = 16 * 1024
"""The longest token that is looked at."""
LEEWAY: Final = timedelta(seconds=60)
"""By how much the provider's clock may differ from ours."""

_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")
"""What `typ` may be: providers sign other things with the same keys, such as notices of logout."""
_MAX_SUBJECT: Final = 255
_MAX_NAME: Final = 100
_GROUPS_SHOWN: Final = 10
_LAST_END: Final = int((datetime.max.replace(tzinfo=UTC) - 2 * LEEWAY).timestamp())
"""The latest `exp` that can be an instant here; some providers say "never" by the year 9999."""
_MALFORMED: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


def issuer_client(settings: AccountSettings) -> httpx.AsyncClient:
    """Gives the HTTP client for the provider, with the proxies that the environment names.

    Raises:
        SettingsRefused: the file of its certificate authorities cannot be used.
    """
    trust = ssl.create_default_context()
    if settings.oidc_ca_file is not None:
        try:
            trust.load_verify_locations(cafile=settings.oidc_ca_file)
        except OSError as cause:  # ssl.SSLError among them
            reason = getattr(cause, "reason", None) or cause.strerror
            raise SettingsRefused(
                f"KNIT_ACCOUNTS__OIDC_CA_FILE: {settings.oidc_ca_file} has no usable certificates "
                f"in PEM: {reason}"
            ) from cause
    return httpx.AsyncClient(verify=trust, timeout=httpx.Timeout(5.0))


class OidcVerifier:
    """Knows the tokens of one provider's users: those of three parts.

    Args:
        settings: with `oidc_issuer` set.
        http: reaches the provider; closed by `aclose`.
        clock: seconds that only grow, for the age of keys.
    """

    def __init__(
        self,
        settings: AccountSettings,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        assert settings.oidc_issuer is not None
        self._settings = settings
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience or settings.oidc_client_id or ""
        self._http = http
        self._keys = IssuerKeys(self._issuer, http, **({"clock": clock} if clock else {}))

    async def verify(self, token: str) -> Principal | None:
        """Gives whom a token authenticates; None: it is of another kind.

        Raises:
            TokenRefused: it is not a valid token of this provider for this knit.
            NoRole: it is, and no group of its user has a role.
            Unavailable: the keys of the provider cannot be read.
        """
        if token.count(".") != 2:
            return None
        if len(token) > MAX_TOKEN_CHARS:
            raise TokenRefused(f"the token has more than {MAX_TOKEN_CHARS} characters")
        kid, algorithm = self._checked_head(token)
        key = await self._keys.find(kid, algorithm)
        if key is None:
            named = "with no key id" if kid is None else f"with the key {kid[:80]!r}"
            raise TokenRefused(f"the token is signed {named}, which {self._issuer} does not have")
        claims = self._checked_claims(token, key, algorithm)
        return principal_of(claims, self._settings)

    async def aclose(self) -> None:
        """Ends what is under way, and the connections to the provider."""
        await self._keys.aclose()
        await self._http.aclose()

    def _checked_head(self, token: str) -> tuple[str | None, str]:
        """Gives key id and algorithm; nothing else of the head is used.

        Keys and addresses of keys in it (`jwk`, `jku`, `x5c`, `x5u`) are the sender's own.
        """
        try:
            parts = jwt.decode_complete(token, options={"verify_signature": False})
        except _MALFORMED as cause:
            raise TokenRefused("the token is not a JSON Web Token") from cause
        head, claims = parts["header"], parts["payload"]
        algorithm, kid, kind = head.get("alg"), head.get("kid"), head.get("typ")
        if not isinstance(algorithm, str) or algorithm not in KEYS_OF:
            known = ", ".join(KEYS_OF)
            raise TokenRefused(
                f"the token is signed with {str(algorithm)[:80]!r}; knit knows {known}"
            )
        if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise TokenRefused(f"this is a {str(kind)[:80]!r}, not a token for an API")
        # Nothing is proved yet. But it is no use to look for keys of others, and this says why.
        if claims.get("iss") != self._issuer:
            raise TokenRefused(
                f"the token was issued by {str(claims.get('iss'))[:200]!r}; "
                f"this knit knows the users of {self._issuer}"
            )
        return kid if isinstance(kid, str) else None, algorithm

    def _checked_claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],  # one of KEYS_OF, and the key is of that kind
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as cause:
            raise TokenRefused("the token has expired") from cause
        except jwt.ImmatureSignatureError as cause:
            raise TokenRefused(
                "the token is not valid yet: the clocks of knit and of the identity provider "
                f"differ by more than {LEEWAY.seconds} s, or it was made for later"
            ) from cause
        except jwt.InvalidAudienceError as cause:
            raise TokenRefused(
                f"the token is for others: its audience (aud) does not have {self._audience!r}"
            ) from cause
        except jwt.MissingRequiredClaimError as cause:
            raise TokenRefused(f"the token has no {cause.claim!r}") from cause
        except jwt.InvalidSignatureError as cause:
            raise TokenRefused("the signature of the token is not that of its issuer") from cause
        except _MALFORMED as cause:
            raise TokenRefused(f"the token is not valid: {cause}") from cause
        return claims


def principal_of(claims: Mapping[str, Any], settings: AccountSettings) -> Principal:
    """Gives the principal of a user by the claims of a valid token.

    The role is the highest of the user's groups; the projects are those of all of them.

    Raises:
        TokenRefused: the subject cannot be one.
        NoRole: no group has a role, or the groups are not in the token.
    """
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject.isprintable() or not _fits(subject):
        raise TokenRefused(f"the token's subject (sub) is not a text of 1 to {_MAX_SUBJECT}")
    name = _name(claims, subject, settings.oidc_name_claim)
    known_as = f"oidc:{subject}"
    try:
        groups = _groups(claims, name, settings.oidc_groups_claim)
        role = _role(groups, name, settings.oidc_roles)
    except _Lacking as lacking:
        raise NoRole(str(lacking), known_as, name) from None
    return Principal(
        known_as,
        name,
        role,
        _projects(groups, settings),
        # The clocks may differ by so much here too.
        expires=datetime.fromtimestamp(min(int(claims["exp"]), _LAST_END), UTC) + LEEWAY,
    )


def _fits(subject: str) -> bool:
    return 0 < len(subject) <= _MAX_SUBJECT


def _name(claims: Mapping[str, Any], subject: str, claim: str) -> str:
    """Gives the name for people, which need not be unique."""
    given = _claim(claims, claim)
    name = "".join(one for one in given if one.isprintable()) if isinstance(given, str) else ""
    return name.strip()[:_MAX_NAME].strip() or subject[:_MAX_NAME]


class _Lacking(Exception):
    """What a user would need for a role is not there; the message says what."""


def _role(groups: list[str], name: str, roles: Mapping[str, Role]) -> Role:
    given = [roles[group] for group in groups if group in roles]
    if not given:
        some = ", ".join(repr(group[:80]) for group in groups[:_GROUPS_SHOWN]) or "no group"
        more = ", …" if len(groups) > _GROUPS_SHOWN else ""
        raise _Lacking(
            f"{name} is in {some}{more}, and no such group has a role in this knit; its "
            "administrator gives roles to groups with KNIT_ACCOUNTS__OIDC_ROLES"
        )
    return max(given, key=tuple(Role).index)


def _groups(claims: Mapping[str, Any], name: str, claim: str) -> list[str]:
    given = _claim(claims, claim)
    if given is None:
        elsewhere = claims.get("_claim_names")
        if claims.get("hasgroups") or (isinstance(elsewhere, dict) and claim in elsewhere):
            raise _Lacking(
                f"{name} is in more groups than the identity provider puts into a token; let it "
                "send only those that knit needs (Entra: groups assigned to the application)"
            )
        raise _Lacking(
            f"the token does not say in which groups {name} is: it has no claim {claim!r}; let "
            "the identity provider add it, or name another with KNIT_ACCOUNTS__OIDC_GROUPS_CLAIM"
        )
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list):
        raise _Lacking(f"the claim {claim!r} of the token is not a list of groups")
    return [group for group in listed if isinstance(group, str)]


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Looks a claim up by its name, else step by step: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _projects(groups: list[str], settings: AccountSettings) -> frozenset[Tag]:
    tags = (tag for group in groups for tag in settings.oidc_projects.get(group, ()))
    return frozenset(map(parse_tag, tags))
