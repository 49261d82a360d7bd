"""Chooses what a command authenticates with, and opens the identity provider of a login."""

from __future__ import annotations

from typing import Final

import httpx

from knit_cli.accounts.credentials import CredentialsFile
from knit_cli.accounts.login_token import LoginToken
from knit_cli.accounts.provider import Provider
from knit_cli.api.authorization import (
    Credentials,
    FixedCredentials,
    NoCredentials,
    bearer,
    is_sendable,
)
from knit_cli.api.proxies import proxy_to
from knit_cli.api.tls import default_context
from knit_cli.config.profile import Profile
from knit_cli.errors import ProfileProblem
from knit_cli.invocation import Invocation
from knit_cli.version import version

TOKEN_VARIABLE: Final = "KNIT_TOKEN"


def given_credentials(invocation: Invocation, profile: Profile, where: str) -> Credentials | None:
    """Gives the token of KNIT_TOKEN, else of the profile; None: there is none.

    Raises:
        ProfileProblem: it cannot be one.
    """
    text = invocation.surroundings.variables.get(TOKEN_VARIABLE, "").strip()
    if text:
        if not is_sendable(text):
            raise ProfileProblem(
                f"{TOKEN_VARIABLE} is not a token",
                reason="it has other characters than letters, digits and -._~+/=",
                advice=f"copy it again, or unset {TOKEN_VARIABLE}",
            )
        return FixedCredentials(bearer(text), TOKEN_VARIABLE)
    found = profile.authorization(where)
    return None if found is None else FixedCredentials(*found)


def credentials_of(
    invocation: Invocation, profile: Profile, where: str, *, renews: bool = True
) -> Credentials:
    """Gives what to authenticate with: KNIT_TOKEN, else the profile's token, else the login.

    Args:
        invocation: the invocation.
        profile: names the API.
        where: names the profile, for messages.
        renews: whether a login may be renewed; see LoginToken.

    Raises:
        ProfileProblem: a token cannot be one.
        CliError: the file with the logins cannot be read.
    """
    given = given_credentials(invocation, profile, where)
    if given is not None:
        return given
    file = CredentialsFile(invocation.credentials_path)
    login = file.find(profile.api_root)
    if login is None:
        return NoCredentials()

    def provider(issuer: str) -> Provider:
        return open_provider(issuer, profile, invocation)

    return LoginToken(file, profile.api_root, login, provider, renews=renews)


def open_provider(issuer: str, profile: Profile, invocation: Invocation) -> Provider:
    """Creates a client of an identity provider; sends nothing yet.

    Its certificate may be one that this machine trusts, or one of the profile's own CA.

    Raises:
        ProfileProblem: a proxy or CA that the environment names cannot be used.
    """
    http = httpx.Client(
        transport=invocation.surroundings.transport or _transport(issuer, profile, invocation),
        headers={"User-Agent": f"knit/{version()}"},
        trust_env=False,  # the transport has read it
    )
    return Provider(issuer, http)


def _transport(issuer: str, profile: Profile, invocation: Invocation) -> httpx.HTTPTransport:
    variables = invocation.surroundings.variables
    trust = default_context(variables)
    if profile.ca is not None:
        trust.load_verify_locations(cadata=profile.ca)
    proxy = proxy_to(issuer, variables)
    return httpx.HTTPTransport(
        verify=trust, proxy=None if proxy is None else proxy.for_httpx(trust)
    )
