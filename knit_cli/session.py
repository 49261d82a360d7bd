"""Opens what commands need: the API client of the profile, and the project's defaults."""

from __future__ import annotations

from collections.abc import Callable

from knit_cli.accounts.selection import credentials_of
from knit_cli.api.authorization import Credentials
from knit_cli.api.client import ApiClient, open_api
from knit_cli.api.proxies import proxy_to
from knit_cli.config.knitenv import Environment, load_environment
from knit_cli.config.profile import Profile, load_profile
from knit_cli.invocation import Invocation
from knit_cli.output import say


def api_of(
    invocation: Invocation, *, notify: Callable[[str], None] = say, renews: bool = True
) -> ApiClient:
    """Creates a client of the profile's API, a context manager; sends nothing yet.

    Args:
        invocation: the invocation.
        notify: shows the user a line about a delay.
        renews: whether a login that expires is renewed; only for who waits for the end of it.

    Raises:
        ProfileProblem: there is no profile, or it is unusable.
        CliError: the file with the logins cannot be read.
    """
    profile, where = profile_of(invocation)
    credentials = credentials_of(invocation, profile, where, renews=renews)
    return api_at(invocation, profile, where, credentials, notify=notify)


def profile_of(invocation: Invocation) -> tuple[Profile, str]:
    """Reads the profile, and gives what to call it in messages.

    Raises:
        ProfileProblem: there is no profile, or it is unusable.
    """
    name = invocation.profile_name
    profile = load_profile(invocation.store_path, name)
    return profile, f"{invocation.store_path} (profile {name})"


def api_at(
    invocation: Invocation,
    profile: Profile,
    where: str,
    credentials: Credentials | None,
    *,
    notify: Callable[[str], None] = say,
) -> ApiClient:
    """Creates a client of a profile's API with these credentials (None: without)."""
    variables = invocation.surroundings.variables
    proxy = proxy_to(profile.api_root, variables)
    encrypted = profile.api_root.startswith("https:") or (proxy and proxy.is_encrypted)
    return open_api(
        profile.api_root,
        where=where,
        verify=profile.trust(variables, where) if encrypted else None,
        proxy=proxy,
        credentials=credentials,
        transport=invocation.surroundings.transport,
        sleep=invocation.surroundings.sleep,
        notify=notify,
    )


def environment_of(invocation: Invocation) -> Environment:
    """Reads the project's defaults from the nearest `knitenv`.

    Raises:
        BadInput: the file is invalid.
    """
    return load_environment(invocation.env_path)
