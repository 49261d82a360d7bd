"""What the API alone reads: who may call it, and what it serves for others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from knit_workflows.domain.accounts.principals import Role
from knit_workflows.domain.accounts.secure_urls import fault_of_url
from knit_workflows.domain.errors import InvalidTag
from knit_workflows.domain.tags import parse_tag
from knit_workflows.settings.forms import Grace, Group, Span


class AccountSettings(Group):
    """Who may call the API, and as whom."""

    required: bool = True
    """Whether callers must authenticate. Without it the API listens on loopback addresses only.
    `knit dev` switches it off, unless this variable is set."""
    bootstrap_token_sha256: SecretStr | None = None
    """Hex SHA-256 of a token with the role admin, for the first steps after an installation. None:
    there is none."""
    oidc_issuer: str | None = None
    """URL of an OpenID Connect provider whose users may call. None: only tokens of knit's own."""
    oidc_audience: str | None = None
    """What tokens of that provider must be for (`aud`). None: `oidc_client_id`."""
    oidc_client_id: str | None = None
    """The public client with which `knit login` asks that provider for tokens."""
    oidc_scopes: str | None = None
    """The scopes that `knit login` asks for, with spaces between. None: those of `openid profile
    email groups offline_access` that the provider says it has."""
    oidc_ca_file: Path | None = None
    """PEM file of certificate authorities trusted for that provider besides the system's."""
    oidc_name_claim: str = "preferred_username"
    """Claim that names a user for people; `sub` where it is missing."""
    oidc_groups_claim: str = "groups"
    """Claim that lists a user's groups; dots lead into objects: `realm_access.roles`."""
    oidc_roles: Mapping[str, Role] = Field(default_factory=dict)
    """Role of each group, as JSON: `{"ml-team": "editor"}`. The highest of a user's groups counts;
    a user without any is refused."""
    oidc_projects: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Tags to which members of a group are bound, as JSON: `{"ml-team": ["project:x"]}`. A user
    sees what has a tag of any of these groups, and is bound even if other groups are not. A group
    that is named here has at least one tag, none of them knit's own (`knit#…`)."""
    requests_per_minute: int = Field(default=1200, ge=1)
    """How many requests a subject may make per minute on average; each API process counts."""
    failures_per_minute: int = Field(default=30, ge=1)
    """How many requests without a valid token an address may make per minute on average."""
    public_url: str | None = None
    """How clients reach the API, without a path: `https://knit.example`. None: as the request says
    (its `Host`)."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses of the proxies in front of the API, as JSON: `["10.0.0.0/8"]`. What they say in
    `X-Forwarded-For` and `X-Forwarded-Proto` counts, what others say there does not."""

    @field_validator("bootstrap_token_sha256")
    @classmethod
    def _is_sha256(cls, digest: SecretStr | None) -> SecretStr | None:
        if digest is not None and not re.fullmatch(
            "[0-9a-fA-F]{64}", digest.get_secret_value().strip()
        ):
            raise ValueError("must be the 64 hexadecimal digits of a SHA-256, not the token itself")
        return digest

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[\w.:\[\]-]+/?", url):
            raise ValueError("must be scheme and host without a path: https://knit.example")
        return url and url.rstrip("/")

    @field_validator("oidc_issuer")
    @classmethod
    def _is_safe(cls, issuer: str | None) -> str | None:
        if issuer is not None and (fault := fault_of_url(issuer)) is not None:
            raise ValueError(f"{fault}; write https://…, as the provider itself does")
        return issuer

    @field_validator("oidc_projects")
    @classmethod
    def _are_tags(cls, projects: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for group, texts in projects.items():
            if not texts:
                # Whoever is bound to no tag is bound to nothing, and would see everything.
                raise ValueError(
                    f"group {group!r} has no tag: write at least one, or leave the group out if "
                    "its members may see everything"
                )
            try:
                tags = [parse_tag(text) for text in texts]
            except InvalidTag as cause:
                raise ValueError(f"group {group!r}: {cause.reason}") from cause
            if own := [str(tag) for tag in tags if tag.is_system]:
                raise ValueError(
                    f"group {group!r}: {own[0]!r} is a tag of knit's own: write one that people "
                    "give, such as project:x"
                )
        return projects

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.oidc_issuer is not None:
            if self.oidc_client_id is None and self.oidc_audience is None:
                raise ValueError(
                    "OIDC_ISSUER needs OIDC_CLIENT_ID or OIDC_AUDIENCE beside it, or tokens for "
                    "other services would open this one"
                )
            if not self.oidc_roles:
                raise ValueError("OIDC_ISSUER needs OIDC_ROLES beside it, or nobody has a role")
        return self


class ExtraApisSettings(Group):
    """Paths of the API that other services serve; read by the API."""

    config: Path | None = None
    """File that lists them; `--extra-apis-config` takes precedence. It is read again when it
    changes. Not set: there are none."""
    connect_timeout: Span = timedelta(seconds=5)
    """How long a service may take to accept a connection."""
    idle_timeout: Span = timedelta(minutes=5)
    """A request ends when nothing has moved for this long: a service that does not respond, a
    client that sends or takes nothing."""
    keep_alive: Grace = timedelta(seconds=4)
    """How long a connection to a service waits for another request. `PT0S`: each request has a
    connection of its own."""
    max_requests: int = Field(default=256, ge=1)
    """The most requests that are forwarded at once; more are refused with 503."""
