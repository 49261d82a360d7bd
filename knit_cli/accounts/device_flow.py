"""Logs in without a browser on this machine: the device flow of OAuth 2.0 (RFC 8628)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from knit_cli.accounts.provider import DEVICE_GRANT, Endpoints, Provider, ProviderFault, Tokens
from knit_cli.accounts.provider import tokens_of as _tokens_of
from knit_cli.errors import ApiUnreachable, CliError
from knit_workflows.domain.accounts.secure_urls import fault_of_url

_INTERVAL: Final = 5.0  # seconds; RFC 8628, 3.2 and 3.5
_SLOWER: Final = 5.0
_MAX_INTERVAL: Final = 60.0
_LIFE: Final = 600.0  # of a code whose answer does not say, which it must
_WANTED: Final = ("openid", "profile", "email", "groups", "offline_access")
_AGAIN: Final = "run `knit login` again"


@dataclass(frozen=True)
class Prompt:
    """What the user is to do: open a page, and compare or type a code."""

    page: str
    code: str
    complete: str | None
    """The page with the code in its address, if there is one."""


@dataclass(frozen=True)
class _Device:
    code: str
    interval: float
    life: float


def scopes_for(endpoints: Endpoints, named: str | None) -> str:
    """Gives the scopes to ask for.

    Args:
        endpoints: with the scopes that the provider says it has; it may refuse others.
        named: those that knit's administrator has named, if any.
    """
    if named is not None:
        return named
    known = endpoints.scopes or frozenset(("openid", "profile", "email", "offline_access"))
    return " ".join(one for one in _WANTED if one in known or one == "openid")


def log_in(
    provider: Provider,
    endpoints: Endpoints,
    client_id: str,
    scope: str,
    *,
    show: Callable[[Prompt], None],
    sleep: Callable[[float], None],
) -> Tokens:
    """Asks for a code, shows it, and waits until the user has confirmed it elsewhere.

    Raises:
        CliError: the provider has no device flow, the user has denied, or the code has expired.
    """
    if endpoints.device is None:
        raise CliError(
            f"the identity provider {endpoints.issuer} has no device flow",
            reason="its configuration names no device_authorization_endpoint",
            advice="have it enabled for knit's client (RFC 8628), or use a token of knit's: "
            "ask your administrator for one",
        )
    answer = provider.submit(endpoints.device, {"client_id": client_id, "scope": scope})
    prompt, device = _read(answer, endpoints)
    show(prompt)
    form = {"grant_type": DEVICE_GRANT, "device_code": device.code, "client_id": client_id}
    return _polled(provider, endpoints.token, form, device, sleep)


def _read(answer: Mapping[str, Any], endpoints: Endpoints) -> tuple[Prompt, _Device]:
    # Google, and drafts of the RFC, write `verification_url`.
    page = answer.get("verification_uri") or answer.get("verification_url")
    code, device_code = answer.get("user_code"), answer.get("device_code")
    complete = answer.get("verification_uri_complete")
    texts = (page, code, device_code)
    if not all(isinstance(one, str) and one for one in texts) or fault_of_url(str(page)):
        raise ProviderFault(
            f"the identity provider {endpoints.issuer} answers with no code",
            reason="device_code, user_code or a verification_uri under https is missing",
            advice="ask your knit's administrator for a token instead",
        )
    if not isinstance(complete, str) or fault_of_url(complete):
        complete = None
    interval = _seconds(answer.get("interval"), _INTERVAL)
    life = _seconds(answer.get("expires_in"), _LIFE)
    return Prompt(str(page), str(code), complete), _Device(str(device_code), interval, life)


def _seconds(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else default


def _polled(
    provider: Provider,
    url: str,
    form: Mapping[str, str],
    device: _Device,
    sleep: Callable[[float], None],
) -> Tokens:
    interval, waited = device.interval, 0.0
    while waited < device.life:
        sleep(interval)
        waited += interval
        try:
            return _tokens_of(provider.submit(url, form))
        except ApiUnreachable:  # RFC 8628, 3.5: wait twice as long
            interval = min(2 * interval, _MAX_INTERVAL)
        except ProviderFault as fault:
            if fault.code == "slow_down":
                interval += _SLOWER
            elif fault.code != "authorization_pending":
                raise _ended(fault) from fault
    raise CliError("the code has expired", reason="nobody has confirmed it", advice=_AGAIN)


def _ended(fault: ProviderFault) -> CliError:
    match fault.code:
        case "access_denied":
            return CliError(
                "the login was denied", reason=fault.reason, advice=f"if it was you, {_AGAIN}"
            )
        case "expired_token":
            return CliError("the code has expired", reason=fault.reason, advice=_AGAIN)
    return CliError("the login has failed", reason=fault.reason, advice=_AGAIN)
