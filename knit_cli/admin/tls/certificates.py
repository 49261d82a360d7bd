"""Certificates of an installation: an authority, and the server certificate that it signs.

Keys are ECDSA on P-256: every TLS client of the last decade knows them, and making one takes
milliseconds, where an RSA key of the same strength takes seconds.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    PrivateKeyTypes,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=825)
"""Some clients refuse certificates of private authorities that are valid for longer."""
LOCAL: Final = ("localhost", "127.0.0.1")
_SKEW: Final = timedelta(hours=1)
"""Certificates are valid this long before they are made: clocks of clients may be behind."""
_DNS_NAME: Final = re.compile(
    r"(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_PEM: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----.+?-----END [A-Z0-9 ]+-----", re.DOTALL)
_PEM_KIND: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


class CertificateRefused(Exception):
    """A certificate or key cannot be used; the message says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate, with its intermediates behind it, and its private key; both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Certificate:
    """What matters of a certificate. `names`: host names and addresses it is for, in its order."""

    subject: str
    names: tuple[str, ...]
    not_after: datetime


def parse_host(text: str) -> str:
    """Normalizes a host name or an IP address.

    Raises:
        CertificateRefused: it is neither.
    """
    bare = text.strip().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if len(bare) > 253 or not _DNS_NAME.fullmatch(bare) or re.fullmatch(r"[0-9.]+", bare):
        raise CertificateRefused(
            f"{text!r} is neither a host name nor an IP address; write it without scheme and "
            "port, and other letters than English ones as xn--…"
        )
    return bare.lower()


def new_authority() -> Pair:
    """Makes a certificate authority with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "knit"),
            # Two authorities of one name could not be told apart in a list of trusted ones.
            x509.NameAttribute(NameOID.COMMON_NAME, f"knit CA {_now():%Y-%m-%d %H:%M:%S}"),
        ]
    )
    usage = _usage(signs_certificates=True)
    made = (
        _builder(name, name, key.public_key(), CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(made.public_bytes(serialization.Encoding.PEM), _pem(key))


def new_server(authority: Pair, hosts: Iterable[str]) -> Pair:
    """Makes a server certificate for these hosts, signed by the authority.

    Raises:
        CertificateRefused: the authority's key cannot be used, or a host is no name.
    """
    issuer = _chain(authority.certificate, "the CA certificate")[0]
    issuer_key = _signing_key(authority.key, "the CA's key")
    key = ec.generate_private_key(ec.SECP256R1())
    names = list(dict.fromkeys(parse_host(host) for host in hosts))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knit")])
    builder = (
        _builder(subject, issuer.subject, key.public_key(), SERVER_LIFE, issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    made = builder.sign(issuer_key, _digest_for(issuer_key))
    return Pair(made.public_bytes(serialization.Encoding.PEM), _pem(key))


def read_certificate(pem: bytes, what: str) -> Certificate:
    """Reads the first certificate of a PEM file; `what` names it in messages.

    Raises:
        CertificateRefused: there is none, or it is damaged.
    """
    first = _chain(pem, what)[0]
    try:
        listed = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: list[str] = []
    else:
        # In the order of the certificate, since the first is what profiles name.
        names = [str(one.value) for one in listed if isinstance(one, x509.DNSName | x509.IPAddress)]
    return Certificate(
        first.subject.rfc4514_string(),
        tuple(names),
        first.not_valid_after_utc,
    )


def check_pair(pair: Pair, what: str) -> None:
    """Checks that certificate and key belong together, and that it is valid now.

    Raises:
        CertificateRefused: they do not, or it is not.
    """
    first = _chain(pair.certificate, f"{what} certificate")[0]
    key = _private_key(pair.key, f"{what} key")
    if _public(key.public_key()) != _public(first.public_key()):
        raise CertificateRefused(f"the {what} key is not the key of the {what} certificate")
    _check_time(first, f"the {what} certificate")


def check_authority(certificate: bytes) -> None:
    """Checks that a certificate is an authority's, and valid now; raises CertificateRefused."""
    first = _chain(certificate, "CA certificate")[0]
    _check_time(first, "the CA certificate")
    try:
        constraints = first.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise CertificateRefused(
            "the CA certificate is not one of an authority (basicConstraints CA:TRUE)"
        )


def check_signed_by(server: bytes, authority: bytes) -> None:
    """Checks that the authority signed the server certificate, perhaps through intermediates.

    Raises:
        CertificateRefused: it did not.
    """
    chain = _chain(server, "server certificate")
    roots = _chain(authority, "CA certificate")
    for one, issuer in itertools.pairwise(chain):
        if not _is_issued_by(one, issuer):
            raise CertificateRefused(
                f"the server certificate's file is not in order: {one.subject.rfc4514_string()} "
                f"is not signed by {issuer.subject.rfc4514_string()}, which follows it"
            )
    last = chain[-1]
    if last not in roots and not any(_is_issued_by(last, root) for root in roots):
        raise CertificateRefused(
            f"the CA {roots[0].subject.rfc4514_string()} did not sign the server certificate, "
            f"whose issuer is {last.issuer.rfc4514_string()}"
        )


def is_signed_by(server: bytes, authority: bytes) -> bool:
    """Says whether the authority signed the server certificate, both being readable."""
    try:
        check_signed_by(server, authority)
    except CertificateRefused:
        return False
    return True


def _is_issued_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _chain(pem: bytes, what: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as cause:
        kinds = sorted({kind.decode().lower() for kind in _PEM_KIND.findall(pem)})
        there = f"it has {' and '.join(kinds)}" if kinds else "it is no PEM file"
        raise CertificateRefused(f"{what}: no certificate can be read; {there}") from cause


def _private_key(pem: bytes, what: str) -> PrivateKeyTypes:
    # Files made by `openssl ecparam` begin with the parameters, which are of no use.
    found = [block for block in _PEM.findall(pem) if b"PRIVATE KEY-----" in block]
    if not found:
        raise CertificateRefused(f"{what}: there is no private key in PEM")
    try:
        return serialization.load_pem_private_key(found[0], password=None)
    except TypeError as cause:
        raise CertificateRefused(
            f"{what}: it has a passphrase, which servers could not ask for; "
            "remove it: openssl pkey -in FILE -out FILE.plain"
        ) from cause
    except Exception as cause:  # of several kinds, UnsupportedAlgorithm among them
        raise CertificateRefused(f"{what}: it cannot be read: {cause}") from cause


def _signing_key(pem: bytes, what: str) -> CertificateIssuerPrivateKeyTypes:
    key = _private_key(pem, what)
    if not hasattr(key, "sign"):
        raise CertificateRefused(f"{what}: a key of this kind cannot sign")
    return key  # type: ignore[return-value]  # those that sign are those


def _digest_for(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | None:
    # Ed25519 and Ed448 bring their own.
    return None if type(key).__name__.lstrip("_").startswith("Ed") else hashes.SHA256()


def _check_time(one: x509.Certificate, what: str) -> None:
    now = _now()
    if one.not_valid_after_utc < now:
        raise CertificateRefused(
            f"{what} has expired: it was valid until {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )
    if one.not_valid_before_utc > now:
        raise CertificateRefused(
            f"{what} is not valid yet, only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "is this machine's clock right?"
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    life: timedelta,
    at_most: datetime | None = None,
) -> x509.CertificateBuilder:
    now = _now()
    ends = now + life
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(ends, at_most) if at_most else ends)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # all kinds have it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
