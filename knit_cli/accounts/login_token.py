"""The token of a login: read from the credentials file, and renewed when it expires."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from knit_cli.accounts.credentials import CredentialsFile, Login
from knit_cli.accounts.provider import Provider, ProviderFault
from knit_cli.api.authorization import bearer
from knit_cli.errors import ApiUnreachable, CliError, NotLoggedIn
from knit_cli.signals import endings_deferred

_LOG_IN_AGAIN: Final = "log in again: knit login"


class LoginToken:
    """Credentials of a login; thread-safe, and several processes may use the same file.

    Args:
        file: has the login.
        api_root: the API whose login it is.
        login: what the file has now.
        provider: opens a connection to the identity provider of that address.
        renews: whether it may be renewed. A caller that does not wait for its end must not: the
            answer may be the only copy of the next refresh token.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        file: CredentialsFile,
        api_root: str,
        login: Login,
        provider: Callable[[str], Provider],
        *,
        renews: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._api_root = api_root
        self._login = login
        self._provider = provider
        self._renews = renews
        self._clock = clock
        self._lock = threading.Lock()

    def header(self) -> str | None:
        """Gives a valid token; one that is about to expire is renewed first.

        Raises:
            NotLoggedIn: the login has ended.
            ApiUnreachable: the token has expired, and the identity provider does not answer.
        """
        with self._lock:
            if self._renews and not self._login.is_fresh(self._clock()):
                try:
                    self._renew()
                except ApiUnreachable:
                    if not self._login.is_valid(self._clock()):
                        raise
            return bearer(self._login.token)

    def renewed(self, refused: str) -> str | None:
        """Gives another token than the one that the API has refused; None: there is none."""
        if not self._renews:
            return None
        with self._lock:
            if bearer(self._login.token) == refused:
                try:
                    self._renew()
                except CliError:  # what the API says of the old one is the better message
                    return None
            other = bearer(self._login.token)
            return None if other == refused else other

    def advice(self) -> str:
        """Says what to do when the API refuses the token."""
        return _LOG_IN_AGAIN

    def _renew(self) -> None:
        with endings_deferred():  # the answer is the only copy of the next refresh token
            self._login = self._renewed_login()

    def _renewed_login(self) -> Login:
        with self._file.locked():
            found = self._file.find(self._api_root)
            if found is None:
                raise NotLoggedIn("you have logged out", advice=_LOG_IN_AGAIN)
            if found.token != self._login.token and found.is_fresh(self._clock()):
                return found  # another process was faster
            renewed = self._exchanged(found)
            self._file.put(self._api_root, renewed)
            return renewed

    def _exchanged(self, login: Login) -> Login:
        if login.refresh_token is None:
            raise NotLoggedIn(
                "your login has expired",
                reason=f"{login.issuer} gave no refresh token, or has ended the session",
                advice=_LOG_IN_AGAIN,
            )
        with self._provider(login.issuer) as provider:
            try:
                tokens = provider.refresh(
                    login.token_endpoint, login.client_id, login.refresh_token
                )
            except ProviderFault as fault:
                if fault.code == "invalid_grant":  # for good: it need not be asked again
                    self._file.put(self._api_root, login.ended())
                raise NotLoggedIn(
                    f"{login.issuer} has ended your login",
                    reason=fault.reason,
                    advice=_LOG_IN_AGAIN,
                ) from fault
        token, seconds = tokens.of_kind(login.kind), tokens.lifetime(login.kind)
        next_one = replace(login, refresh_token=tokens.refresh_token or login.refresh_token)
        if token is None:
            # The refresh token may have been used up all the same.
            self._file.put(self._api_root, next_one)
            raise NotLoggedIn(
                f"{login.issuer} gives no new {login.kind} for a refresh token",
                advice=_LOG_IN_AGAIN,
            )
        expires_at = None if seconds is None else self._clock() + seconds
        return replace(next_one, token=token, expires_at=expires_at)
