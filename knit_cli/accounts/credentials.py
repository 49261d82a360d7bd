"""The file with this user's logins: one per API, readable by the owner only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from knit_cli.config.files import sole_writer, write_private
from knit_cli.errors import CliError
from knit_workflows.domain.os_errors import advice_for, reason_of

FRESH_SECONDS: Final = 30.0
"""A token that is valid for less than this is renewed before it is used."""


@dataclass(frozen=True)
class Login:
    """A login at the identity provider of one API; its texts are secrets.

    `kind` names the token of the provider's answers that is sent to the API: `id_token` or
    `access_token`. `expires_at` is in seconds since 1970, by this machine's clock; None: unknown.
    """

    issuer: str
    client_id: str
    kind: str
    token: str
    expires_at: float | None
    refresh_token: str | None
    token_endpoint: str
    revocation_endpoint: str | None

    def __repr__(self) -> str:
        return f"Login({self.issuer!r})"

    def is_fresh(self, now: float) -> bool:
        """Says whether the token is valid for a while yet, as far as is known."""
        return self.expires_at is None or now < self.expires_at - FRESH_SECONDS

    def is_valid(self, now: float) -> bool:
        """Says whether the token is valid, as far as is known."""
        return self.expires_at is None or now < self.expires_at

    def ended(self) -> Login:
        """Gives the login of which nothing but its end is left."""
        return replace(self, refresh_token=None, expires_at=0.0)

    @classmethod
    def read(cls, content: Any) -> Self | None:
        """Reads what was written; None: it is not a login."""
        if not isinstance(content, dict):
            return None
        names = [field.name for field in fields(cls)]
        optional = ("expires_at", "refresh_token", "revocation_endpoint")
        values: dict[str, Any] = {name: content.get(name) for name in names}
        if not all(isinstance(values[name], str) for name in names if name not in optional):
            return None
        return cls(**values)


class CredentialsFile:
    """The logins of a user by the address of the API, so that all profiles of an API share one.

    Every method raises CliError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, api_root: str) -> Login | None:
        """Gives the login at that API; None: there is none."""
        return Login.read(self._read().get(api_root))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes of knit from changing the file during the block.

        A provider that rotates refresh tokens gives each once: of two processes that renew at the
        same time, the second would present one that is used up, and lose the login.
        """
        try:
            with sole_writer(self.path):
                yield
        except OSError as cause:
            raise self._cannot("write", cause) from cause

    def put(self, api_root: str, login: Login | None) -> None:
        """Replaces the login at that API (None: removes it); call it with the file locked."""
        logins = {**self._read(), api_root: asdict(login) if login else None}
        text = json.dumps({root: one for root, one in logins.items() if one is not None}, indent=1)
        try:
            write_private(self.path, text)
        except OSError as cause:
            raise self._cannot("write", cause) from cause

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as cause:
            raise self._cannot("read", cause) from cause
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise CliError(
                f"{self.path} is damaged",
                reason="it should have the logins of this user, as JSON",
                advice="remove it, then log in again: knit login",
            )
        return content

    def _cannot(self, what: str, cause: OSError) -> CliError:
        return CliError(
            f"cannot {what} {self.path}", reason=reason_of(cause), advice=advice_for(cause)
        )
