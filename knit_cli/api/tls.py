"""TLS trust: reads certificates in the forms people have, and explains why one is refused."""

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

# OpenSSL's verification errors, `X509_V_ERR_…`.
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_WRONG_NAME = (62, 64)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


def read_certificates(content: bytes) -> str:
    """Extracts the certificates of a file as concatenated PEM.

    Args:
        content: PEM with anything in between (comments in any encoding, a byte order mark, CRLF),
            or one certificate in DER.

    Raises:
        ValueError: there is no certificate; says what there is instead.
    """
    if content.startswith(_DER_SEQUENCE):
        return ssl.DER_cert_to_PEM_cert(content)
    text = content.decode("latin-1")  # decodes any byte; PEM itself is ASCII
    found = ["".join(body.split()) for body in _CERTIFICATE.findall(text)]
    if found:
        return "".join(f"{_BEGIN}\n{body}\n{_END}\n" for body in found)
    other = _OTHER_KIND.search(text)
    raise ValueError(f"it has a {other[1].lower()}" if other else "it has no certificate")


def context_trusting(pem: str) -> ssl.SSLContext:
    """Creates a TLS context that trusts these certificates only.

    Each is a trust anchor, even an intermediate or the server's own.

    Raises:
        ssl.SSLError: OpenSSL cannot read one of them.
    """
    context = ssl.create_default_context(cadata=pem)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def raise_if_expired(context: ssl.SSLContext, where: str) -> None:
    """Raises ProfileProblem if all trusted authorities have expired."""
    authorities = context.get_ca_certs()
    ends = [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in authorities]
    if not ends or max(ends) >= time.time():
        return
    last = authorities[ends.index(max(ends))]
    raise ProfileProblem(
        f"the CA certificate in {where} has expired",
        reason=f"{_name(last['subject'])} was valid until {last['notAfter']}; {_now()}",
        advice="ask your knit's administrator for a profile with the current one, "
        "or correct this machine's clock",
    )


def default_context(variables: Mapping[str, str]) -> ssl.SSLContext:
    """Creates a TLS context that trusts what the system, or SSL_CERT_FILE and SSL_CERT_DIR, trust.

    Raises:
        ProfileProblem: what one of these variables names cannot be used.
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
        advice=f"correct {variable}, or unset it to trust the system's certificates",
    )


def explain_ssl_error(error: ssl.SSLError, where: str) -> tuple[str, str]:
    """Gives reason and advice; `where` names the profile."""
    code = getattr(error, "verify_code", None)  # None: the handshake itself failed
    message = getattr(error, "verify_message", "") or str(error)
    if code == _HAS_EXPIRED:
        return f"{message}; {_now()}", "have the API's certificate renewed, or correct the clock"
    if code == _NOT_YET_VALID:
        return f"{message}; {_now()}", "correct this machine's clock, or wait until it is valid"
    if code in _WRONG_NAME:
        return message, f"use a host name in apiRoot that is in the certificate, see {where}"
    if code in _UNKNOWN_ISSUER:
        advice = (
            f"put the certificate of its issuer into cert.ca in {where}; "
            "a proxy in between may present its own certificate"
        )
        return message, advice
    return message, f"check apiRoot (http or https?) and cert.ca in {where}"


def _now() -> str:
    return time.strftime("this machine's clock says %b %d %H:%M:%S %Y GMT", time.gmtime())


def _name(subject: Any) -> str:
    parts = [f"{key}={value}" for pairs in subject for key, value in pairs]
    return ", ".join(parts) or "it"
