"""Profiles: the address of a project's API, the CA to trust, and a token if there is one."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx
import yaml

from knit_cli.api.authorization import bearer, is_sendable
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
    """A valid profile.

    `api_root` is absolute, without trailing `/` and without a password; `ca` is PEM or None.
    Of the others at most one is set: `token`, `token_file` (absolute), or `user_info`, the
    `USER:PASSWORD` that Knitfab's own client takes from `apiRoot`, percent-encoded as there.
    """

    api_root: str
    ca: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    user_info: str | None = field(default=None, repr=False)

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

    def authorization(self, where: str) -> tuple[str, str] | None:
        """Gives the header `Authorization`, and where its token stands; None: there is no token.

        Raises:
            ProfileProblem: the token's file cannot be read, or has no token.
        """
        if self.user_info is not None:
            encoded = base64.b64encode(unquote_to_bytes(self.user_info)).decode("ascii")
            return f"Basic {encoded}", f"apiRoot in {where}"
        if self.token is not None:
            return bearer(self.token), f"token in {where}"
        if self.token_file is None:
            return None
        try:
            text = self.token_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as cause:
            raise ProfileProblem(
                f"cannot read {self.token_file}, the tokenFile of {where}",
                reason=reason_of(cause),
                advice=advice_for(cause),
            ) from cause
        if not is_sendable(text):
            raise ProfileProblem(
                f"{self.token_file} has no token",
                reason="it must have one, and nothing else",
                advice="ask your knit's administrator for a token",
            )
        return bearer(text), f"{self.token_file}"


def read_profile(path: Path) -> Profile:
    """Reads and validates a knitprofile file.

    Raises:
        ProfileProblem: the file cannot be read, or is not a valid profile.
    """
    return _validated(_load_yaml(path), f"{path}", path.parent)


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
    return _validated(profiles[name], f"{store}, profile {name}", store.parent)


def save_profile(profile: Profile, *, store: Path, name: str) -> None:
    """Saves the profile under that name, replacing an earlier one; other profiles are kept.

    The store is readable by its owner only. Safe against concurrent calls.

    Raises:
        ProfileProblem: the store cannot be read or written.
    """
    entry = _entry(profile)
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


def _entry(profile: Profile) -> dict[str, Any]:
    scheme, _, rest = profile.api_root.partition("://")
    user_info = f"{profile.user_info}@" if profile.user_info else ""
    entry: dict[str, Any] = {"apiRoot": f"{scheme}://{user_info}{rest}"}
    if profile.ca is not None:
        entry["cert"] = {"ca": base64.b64encode(profile.ca.encode()).decode("ascii")}
    if profile.token is not None:
        entry["token"] = profile.token
    if profile.token_file is not None:
        entry["tokenFile"] = str(profile.token_file)
    return entry


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
            f"{path} is not valid YAML", reason=_words(cause), advice="correct the file"
        ) from cause


def _words(cause: Exception) -> str:
    """Says what is wrong and where, without the line itself: it may have a token."""
    if not isinstance(cause, yaml.MarkedYAMLError) or cause.problem_mark is None:
        return type(cause).__name__ if isinstance(cause, yaml.YAMLError) else str(cause)
    mark = cause.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {cause.problem}"


def _validated(content: Any, where: str, folder: Path) -> Profile:
    """Reads one profile; a relative `tokenFile` begins at the folder."""
    if not isinstance(content, dict):
        raise _broken(
            where, "it is not a mapping with `apiRoot`", "write `apiRoot: https://HOST:PORT/api`"
        )
    api_root = content.get("apiRoot")
    if not isinstance(api_root, str) or not _is_absolute(api_root):
        raise _broken(
            where,
            f"`apiRoot` is not an absolute http or https URL: {without_user(str(api_root))!r}",
            "write `apiRoot: https://HOST:PORT/api`",
        )
    token, token_file = _token(content, where, folder)
    user_info = urlsplit(api_root).netloc.rpartition("@")[0] or None
    if user_info and (token or token_file):
        raise _broken(
            where, "it has a token in `apiRoot`, and another one", "remove one of the two"
        )
    return Profile(
        without_user(api_root).removesuffix("/"),
        _ca(content, where),
        token=token,
        token_file=token_file,
        user_info=user_info,
    )


def _broken(where: str, reason: str, advice: str) -> ProfileProblem:
    return ProfileProblem(f"the profile in {where} is broken", reason=reason, advice=advice)


def _ca(content: Mapping[str, Any], where: str) -> str | None:
    cert = content.get("cert") or {}
    encoded = cert.get("ca") if isinstance(cert, dict) else cert
    if not encoded:
        return None
    encode = "encode the file of the CA's certificate: base64 -w0"
    try:
        pem = read_certificates(base64.b64decode("".join(str(encoded).split()), validate=True))
        context_trusting(pem)
    except binascii.Error as cause:
        raise _broken(where, f"`cert.ca` is not base64: {cause}", encode) from cause
    except ssl.SSLError as cause:
        raise _broken(where, f"`cert.ca` cannot be used: {cause}", "ask for a valid CA") from cause
    except ValueError as cause:
        reason = f"`cert.ca` is not a certificate in PEM or DER: {cause}"
        raise _broken(where, reason, encode) from cause
    return pem


def _token(content: Mapping[str, Any], where: str, folder: Path) -> tuple[str | None, Path | None]:
    token, file = content.get("token"), content.get("tokenFile")
    if token is not None and file is not None:
        raise _broken(where, "it has both `token` and `tokenFile`", "remove one of the two")
    if token is not None and not (isinstance(token, str) and is_sendable(token)):
        raise _broken(
            where,
            "`token` is not a token: it has other characters than letters, digits and -._~+/=",
            "copy it again, in quotes",
        )
    if file is not None and not (isinstance(file, str) and file):
        raise _broken(where, "`tokenFile` is not the name of a file", "write tokenFile: PATH")
    return token, None if file is None else _file_of_token(file, where, folder)


def _file_of_token(file: str, where: str, folder: Path) -> Path:
    try:
        return (folder / Path(file).expanduser()).absolute()
    except RuntimeError as cause:
        reason = f"`tokenFile` is in the home of a user that is not known here: {file}"
        raise _broken(where, reason, "write the whole path") from cause


def without_user(url: str) -> str:
    """Gives a URL without user and password, which are nobody's to see."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _is_absolute(url: str) -> bool:
    try:
        httpx.URL(url)  # it refuses control characters, which `urlsplit` leaves out
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port that is no number, or unbalanced brackets
        return False
