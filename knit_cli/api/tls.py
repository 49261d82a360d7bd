"""Whom to trust under TLS: reads certificates as people have them, and says why one is refused."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knit_cli.errors import ProfileProblem

_CERTIFICATE = re.compile(
    r"-----BEGIN (?:X509 )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END (?:X509 )?CERTIFICATE-----"
)
_OTHER_KIND = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
_DER_SEQUENCE = b"\x30"
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

# What OpenSSL says of a certificate: its `X509_V_ERR_…`.
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_WRONG_NAME = (62, 64)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


def read_certificates(content: bytes) -> str:
    """Gives the certificates in a file as PEM, one after the other, nothing between them.

    Args:
        content: PEM with whatever else is in it (comments in any encoding, a byte order mark,
            Windows' line ends), or one certificate in DER.

    Raises:
        ValueError: there is none; says what is there instead.
    """
    if content.startswith(_DER_SEQUENCE):
        return ssl.DER_cert_to_PEM_cert(content)
    text = content.decode("latin-1")  # any byte is a letter, and PEM itself is ASCII
    found = ["".join(body.split()) for body in _CERTIFICATE.findall(text)]
    if found:
        return "".join(f"{_BEGIN}\n{body}\n{_END}\n" for body in found)
    other = _OTHER_KIND.search(text)
    raise ValueError(f"it has a {other[1].lower()}" if other else "it has no certificate")


def context_trusting(pem: str) -> ssl.SSLContext:
    """Gives the TLS context that trusts these certificates and nobody else.

    Each is an anchor, also one that another has issued: whoever writes it down trusts it.

    Raises:
        ssl.SSLError: OpenSSL cannot read one of them.
    """
    context = ssl.create_default_context(cadata=pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def raise_if_expired(context: ssl.SSLContext, where: str) -> None:
    """Raises ProfileProblem when all authorities that are trusted here have expired."""
    authorities = context.get_ca_certs()
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in authorities]
    if not ends or max(ends) >= time.time():
        return
    last = authorities[ends.index(max(ends))]
    raise ProfileProblem(
        f"the CA certificate in {where} has expired",
        reason=f"{_name(last['subject'])} was valid until {last['notAfter']}; {_now()}",
        advice="ask your knit's administrator for a profile with the present one, "
        "or set this machine's clock",
    )


def default_context(variables: Mapping[str, str]) -> ssl.SSLContext:
    """Gives the TLS context that trusts whom the system does, or SSL_CERT_FILE and SSL_CERT_DIR.

    Raises:
        ProfileProblem: one of these variables names what cannot be used.
    """
    file, folder = variables.get("SSL_CERT_FILE"), variables.get("SSL_CERT_DIR")
    if not file and not folder:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if file:
        try:
            context.load_verify_locations(cadata=read_certificates(Path(file).read_bytes()))
        except (OSError, ValueError) as cause:  # ssl.SSLError is an OSError
            reason = getattr(cause, "strerror", None) or str(cause)
            raise _unusable("SSL_CERT_FILE", file, reason) from cause
    if folder:
        for one in folder.split(":"):
            if not Path(one).is_dir():
                raise _unusable("SSL_CERT_DIR", one, "there is no such folder")
            context.load_verify_locations(capath=one)
    return context


def _unusable(variable: str, path: str, reason: str) -> ProfileProblem:
    return ProfileProblem(
        f"the certificates of {variable} cannot be used",
        reason=f"{path}: {reason}",
        advice=f"correct {variable}, or unset it to trust whom this system trusts",
    )


def explain_ssl_error(error: ssl.SSLError, where: str) -> tuple[str, str]:
    """Gives the reason in words, and what to do about it; `where` names the profile."""
    code = getattr(error, "verify_code", None)  # None: the handshake itself failed
    words = getattr(error, "verify_message", "") or str(error)
    if code == _HAS_EXPIRED:
        return f"{words}; {_now()}", "have the API's certificate renewed, or set the clock"
    if code == _NOT_YET_VALID:
        return f"{words}; {_now()}", "set this machine's clock, or wait until it is valid"
    if code in _WRONG_NAME:
        return words, f"use a name in apiRoot that the certificate has, see {where}"
    if code in _UNKNOWN_ISSUER:
        advice = (
            f"put the certificate of who has issued it into cert.ca in {where}; "
            "a proxy on the way may show one of its own"
        )
        return words, advice
    return words, f"check apiRoot (http or https?) and cert.ca in {where}"


def _now() -> str:
    return time.strftime("this machine's clock says %b %d %H:%M:%S %Y GMT", time.gmtime())


def _name(subject: Any) -> str:
    parts = [f"{key}={value}" for pairs in subject for key, value in pairs]
    return ", ".join(parts) or "it"
