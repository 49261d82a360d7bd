"""`knit login`, `logout` and `whoami`: who the user is to knit."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Final

import typer

from knit_cli.accounts.credentials import CredentialsFile, Login
from knit_cli.accounts.device_flow import Prompt, log_in, scopes_for
from knit_cli.accounts.provider import Provider, Tokens
from knit_cli.accounts.selection import given_credentials, open_provider
from knit_cli.config.profile import Profile
from knit_cli.errors import CliError, printable
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, print_text, say
from knit_cli.session import api_at, api_of, profile_of
from knit_cli.views.account import describe_caller
from knit_workflows.domain.accounts.secure_urls import fault_of_url
from knit_workflows.wire.accounts import ProtectedResource

app = typer.Typer()

_ASK_FOR_TOKEN: Final = (
    "ask your knit's administrator for a token (`knit admin token create`), and put it into "
    "KNIT_TOKEN or the profile"
)
_KINDS: Final = ("id_token", "access_token")


@app.command()
def login(
    context: typer.Context,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only show the address, do not open it.")
    ] = False,
) -> None:
    """Log in at the identity provider of your knit.

    It shows a code and the address of a page, which may be opened on any device. The login holds
    for all profiles with the same API, and is renewed as long as the provider allows.
    """
    invocation = invocation_of(context)
    profile, where = profile_of(invocation)
    if given_credentials(invocation, profile, where) is not None:
        raise CliError(
            "a login would not be used",
            reason="KNIT_TOKEN or the profile has a token, which takes precedence",
            advice="unset KNIT_TOKEN, and remove the token from the profile, to use a login",
        )
    with api_at(invocation, profile, where, None) as api:
        resource = api.accounts.protected_resource()
    made = _logged_in(invocation, profile, resource, opens=not no_browser)
    file = CredentialsFile(invocation.credentials_path)
    with file.locked():
        file.put(profile.api_root, made)
    with api_of(invocation) as api:
        say(f"logged in: {describe_caller(api.accounts.whoami())}")


def _logged_in(
    invocation: Invocation, profile: Profile, resource: ProtectedResource, *, opens: bool
) -> Login:
    client_id = resource.knit_client_id
    if not resource.authorization_servers or client_id is None:
        raise CliError(
            "this knit has no identity provider to log in at",
            reason=f"{profile.api_root} takes tokens of its own only, or asks nobody who they are",
            advice=_ASK_FOR_TOKEN,
        )
    issuer = resource.authorization_servers[0]
    if (fault := fault_of_url(issuer)) is not None:
        raise CliError(
            f"{profile.api_root} names an identity provider that cannot be used",
            reason=f"{issuer}: {fault}",
            advice=_ASK_FOR_TOKEN,
        )
    if fault_of_url(profile.api_root) is not None:
        say(f"{profile.api_root} is not https: others on the way can read what is sent to it")
    with open_provider(issuer, profile, invocation) as provider:
        endpoints = provider.discover()
        named = " ".join(resource.scopes_supported) or None
        tokens = log_in(
            provider,
            endpoints,
            client_id,
            scopes_for(endpoints, named),
            show=lambda prompt: _show(prompt, invocation, opens=opens),
            sleep=invocation.surroundings.sleep,
        )
    kind = resource.knit_token if resource.knit_token in _KINDS else _KINDS[0]
    return Login(
        issuer=issuer,
        client_id=client_id,
        kind=kind,
        token=_required(tokens, kind, issuer),
        expires_at=_end(tokens, kind),
        refresh_token=tokens.refresh_token,
        token_endpoint=endpoints.token,
        revocation_endpoint=endpoints.revocation,
    )


def _required(tokens: Tokens, kind: str, issuer: str) -> str:
    token = tokens.of_kind(kind)
    if token is None:
        raise CliError(
            "the login has failed",
            reason=f"{issuer} gives no {kind}",
            advice="have the scope openid allowed for knit's client (KNIT_ACCOUNTS__OIDC_SCOPES)",
        )
    return token


def _end(tokens: Tokens, kind: str) -> float | None:
    seconds = tokens.lifetime(kind)
    return None if seconds is None else time.time() + seconds


def _show(prompt: Prompt, invocation: Invocation, *, opens: bool) -> None:
    say(f"open {prompt.page} on any device, log in, and confirm the code {prompt.code}")
    if not opens or not _has_screen(invocation):
        return
    if invocation.surroundings.open_browser(prompt.complete or prompt.page):
        say("it should be open in your browser by now; compare the code")


def _has_screen(invocation: Invocation) -> bool:
    """Says whether a browser would be a window: one in the terminal helps nobody."""
    variables = invocation.surroundings.variables
    named = (variables.get("DISPLAY"), variables.get("WAYLAND_DISPLAY"))
    return any(named) or sys.platform in ("darwin", "win32")


@app.command()
def logout(context: typer.Context) -> None:
    """End your login, here and at the identity provider.

    Tokens of KNIT_TOKEN and of the profile stay as they are.
    """
    invocation = invocation_of(context)
    profile, _ = profile_of(invocation)
    file = CredentialsFile(invocation.credentials_path)
    if file.find(profile.api_root) is None:
        say(f"you are not logged in at {profile.api_root}")
        return
    with file.locked():
        found = file.find(profile.api_root)
        file.put(profile.api_root, None)
    if found is None or found.refresh_token is None:
        say("logged out")
    elif found.revocation_endpoint is None:
        say(f"logged out here; {found.issuer} cannot be told, so end the session there as well")
    else:
        with open_provider(found.issuer, profile, invocation) as provider:
            _revoke(provider, found.revocation_endpoint, found.client_id, found.refresh_token)
        say(f"logged out, and {found.issuer} has ended the session")


def _revoke(provider: Provider, endpoint: str, client_id: str, refresh_token: str) -> None:
    try:
        provider.revoke(endpoint, client_id, refresh_token)
    except CliError as error:
        raise CliError(
            "you are logged out here, but the identity provider could not be told",
            reason=": ".join(filter(None, (error.summary, error.reason))),
            advice=f"end the session at {provider.issuer} as well",
        ) from error


@app.command()
def whoami(context: typer.Context) -> None:
    """Show who you are to knit, and what you may do.

    It is JSON when piped.
    """
    with api_of(invocation_of(context)) as api:
        caller = api.accounts.whoami()
    if sys.stdout.isatty():
        print_text(printable(describe_caller(caller)))
    else:
        print_json(caller)
