"""Profiles: the address of a project's API, and the CA to trust."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from knit_cli.api.tls import context_trusting, default_context, raise_if_expired, read_certificates
from knit_cli.config.files import sole_writer, write_private
from knit_cli.errors import ProfileProblem
from knit_cli.invocation import PROFILE_MARKER
from knit_workflows.domain.os_errors import advice_for, reason_of

_RUN_INIT = (
    "run `knit init KNIT_PROFILE_FILE` here with the file your knit's administrator gave you, "
    "or start a knit of your own: knit dev up"
)


@dataclass(frozen=True)
class Profile:
    """A valid profile: an absolute `api_root` without trailing `/`; `ca` is PEM or None."""

    api_root: str
    ca: str | None = None

    def trust(self, variables: Mapping[str, str], where: str) -> ssl.SSLContext:
        """Creates a TLS context that trusts `ca` only, or without it the system's CAs.

        Args:
            variables: the environment, which may replace the system's CAs.
            where: names the profile, for messages.

        Raises:
            ProfileProblem: the CA has expired, or a CA named by the environment cannot be used.
        """
        if self.ca is None:
            return default_context(variables)
        context = context_trusting(self.ca)
        raise_if_expired(context, where)
        return context


def read_profile(path: Path) -> Profile:
    """Reads and validates a knitprofile file.

    Raises:
        ProfileProblem: the file cannot be read, or is not a valid profile.
    """
    return _validated(_load_yaml(path), f"{path}")


def load_profile(store: Path, name: str) -> Profile:
    """Reads and validates the profile of that name in the store.

    Raises:
        ProfileProblem: there is no store, no such profile, or it is invalid.
    """
    try:
        profiles = _load_store(store)
    except ProfileProblem as problem:
        if not isinstance(problem.__cause__, (FileNotFoundError, NotADirectoryError)):
            raise
        raise ProfileProblem(
            "there is no knit profile yet", reason=f"{store} does not exist", advice=_RUN_INIT
        ) from problem.__cause__
    if name not in profiles:
        raise ProfileProblem(
            f"no profile named {name}", reason=f"{store} does not have it", advice=_RUN_INIT
        )
    return _validated(profiles[name], f"{store}, profile {name}")


def save_profile(profile: Profile, *, store: Path, name: str) -> None:
    """Saves the profile under that name, replacing an earlier one; other profiles are kept.

    The store is readable by its owner only. Safe against concurrent calls.

    Raises:
        ProfileProblem: the store cannot be read or written.
    """
    entry: dict[str, Any] = {"apiRoot": profile.api_root}
    if profile.ca is not None:
        entry["cert"] = {"ca": base64.b64encode(profile.ca.encode()).decode("ascii")}
    try:
        with sole_writer(store):
            profiles = dict(_load_store(store)) if store.exists() else {}
            profiles[name] = entry
            write_private(store, yaml.safe_dump(profiles, allow_unicode=True))
    except OSError as cause:
        raise ProfileProblem(
            f"cannot write {store}",
            reason=reason_of(cause),
            advice=f"{advice_for(cause)} (--profile-store)",
        ) from cause


def mark_folder(folder: Path, name: str) -> Path:
    """Makes the folder and all below use the profile of that name; returns the file written.

    Raises:
        ProfileProblem: the folder cannot be written.
    """
    marker = folder / PROFILE_MARKER
    try:
        write_private(marker, name)
    except OSError as cause:
        raise ProfileProblem(
            f"cannot write {marker}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
    return marker


def _load_store(store: Path) -> Mapping[str, Any]:
    content = _load_yaml(store)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ProfileProblem(
            f"{store} is not a profile store",
            reason="it must map profile names to profiles",
            advice="move it away and run `knit init KNIT_PROFILE_FILE` again",
        )
    return content


def _load_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as cause:
        raise ProfileProblem(
            f"cannot read {path}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
    except (yaml.YAMLError, ValueError, RecursionError) as cause:  # a date such as 2026-99-99
        raise ProfileProblem(
            f"{path} is not valid YAML", reason=str(cause), advice="correct the file"
        ) from cause


def _validated(content: Any, where: str) -> Profile:
    def broken(reason: str, advice: str) -> ProfileProblem:
        return ProfileProblem(f"the profile in {where} is broken", reason=reason, advice=advice)

    if not isinstance(content, dict):
        raise broken("it is not a mapping with `apiRoot`", "write `apiRoot: https://HOST:PORT/api`")
    api_root = content.get("apiRoot")
    if not isinstance(api_root, str) or not _is_absolute(api_root):
        raise broken(
            f"`apiRoot` is not an absolute http or https URL: {api_root!r}",
            "write `apiRoot: https://HOST:PORT/api`",
        )
    cert = content.get("cert") or {}
    encoded = cert.get("ca") if isinstance(cert, dict) else cert
    if not encoded:
        return Profile(api_root.removesuffix("/"))
    encode = "encode the file of the CA's certificate: base64 -w0"
    try:
        pem = read_certificates(base64.b64decode("".join(str(encoded).split()), validate=True))
        context_trusting(pem)
    except binascii.Error as cause:
        raise broken(f"`cert.ca` is not base64: {cause}", encode) from cause
    except ssl.SSLError as cause:
        raise broken(f"`cert.ca` cannot be used: {cause}", "ask for a valid CA") from cause
    except ValueError as cause:
        raise broken(f"`cert.ca` is not a certificate in PEM or DER: {cause}", encode) from cause
    return Profile(api_root.removesuffix("/"), pem)


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or unbalanced brackets
        return False
