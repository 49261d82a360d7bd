"""Puts certificates into the settings folder: given ones, or new ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls.certificates import LOCAL, CertificateRefused, Pair
from knit_cli.errors import BadInput
from knit_workflows.domain.os_errors import advice_for, reason_of


@dataclass(frozen=True)
class GivenFiles:
    """Files with certificates that the administrator named; None: not given."""

    ca_certificate: Path | None = None
    ca_key: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        return any((self.ca_certificate, self.ca_key, self.certificate, self.key))

    def check_pairs(self) -> None:
        """Raises BadInput if a half is given without what it needs."""
        if (self.certificate is None) != (self.key is None):
            raise _incomplete("a server certificate and its key", "--tls-cert", "--tls-key")
        if self.ca_key is not None and self.ca_certificate is None:
            raise _incomplete(
                "the key of a CA and its certificate", "--tls-ca-cert", "--tls-ca-key"
            )
        if self.ca_certificate is not None and self.ca_key is None and self.certificate is None:
            raise BadInput(
                "the CA certificate alone is of no use",
                reason="without its key, no server certificate can be made with it",
                advice="add --tls-ca-key, or a server certificate: --tls-cert and --tls-key",
            )


def _incomplete(what: str, *flags: str) -> BadInput:
    return BadInput(
        f"{what} belong together",
        reason="only one of them is given; made anew, the other would not match",
        advice=f"give both {flags[0]} and {flags[1]}",
    )


def take_given(folder: SettingsFolder, given: GivenFiles, hosts: Sequence[str]) -> list[str]:
    """Checks given certificates and copies them; makes a server certificate if only a CA is given.

    Returns what was done, for people. Nothing is written unless all of it can be used.

    Raises:
        BadInput: one cannot be read or used, or they do not belong together.
    """
    given.check_pairs()
    with _refusals():
        authority = None if given.ca_certificate is None else _read(given.ca_certificate)
        if authority is not None:
            certificates.check_authority(authority)
        authority_key = None if given.ca_key is None else _read(given.ca_key)
        if authority is not None and authority_key is not None:
            certificates.check_pair(Pair(authority, authority_key), "CA")
        if given.certificate is not None and given.key is not None:
            server = Pair(_read(given.certificate), _read(given.key))
            certificates.check_pair(server, "server")
            certificates.read_certificate(server.certificate, str(given.certificate))
            if authority is not None:
                certificates.check_signed_by(server.certificate, authority)
            done = "certs/server.crt and .key: copied"
        else:
            assert authority is not None
            assert authority_key is not None
            server = certificates.new_server(Pair(authority, authority_key), [*hosts, *LOCAL])
            done = f"certs/server.crt and .key: made for {', '.join(hosts)}, signed by the given CA"
    said = _store(folder, server, authority, authority_key)
    return [*said, done]


def make_new(folder: SettingsFolder, hosts: Sequence[str], *, new_authority: bool) -> list[str]:
    """Makes a server certificate for the hosts, with the folder's CA, or with a new one.

    Returns what was done, for people.

    Raises:
        BadInput: the folder's CA has no key, or has expired.
    """
    with _refusals():
        authority = None if new_authority else present_authority(folder)
        made_authority = authority is None
        if authority is None:
            authority = certificates.new_authority()
        server = certificates.new_server(authority, [*hosts, *LOCAL])
        certificates.check_signed_by(server.certificate, authority.certificate)
    said = _store(folder, server, authority.certificate, authority.key)
    if made_authority:
        said.append("certs/ca.crt and .key: made, a certificate authority of knit's own")
    return [*said, f"certs/server.crt and .key: made for {', '.join([*hosts, *LOCAL])}"]


def present_authority(folder: SettingsFolder) -> Pair | None:
    """Gives the folder's CA with its key, valid now; None: there is none.

    Raises:
        BadInput: there is one, but it cannot sign.
    """
    certificate = folder.read_bytes(folder.ca_certificate)
    key = folder.read_bytes(folder.ca_key)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadInput(
            "no server certificate can be made",
            reason=f"{folder.ca_key if key is None else folder.ca_certificate} is missing",
            advice="give a new server certificate (--tls-cert, --tls-key), "
            "or make a new CA: knit admin renew-certs --renew-ca",
        )
    pair = Pair(certificate, key)
    with _refusals():
        certificates.check_authority(certificate)
        certificates.check_pair(pair, "CA")
    return pair


def check_present(folder: SettingsFolder) -> certificates.Certificate | None:
    """Checks the folder's server certificate, and gives it; None: without TLS.

    Raises:
        BadInput: it cannot be used: expired, the wrong key, or not signed by the folder's CA.
    """
    certificate = folder.read_bytes(folder.server_certificate)
    key = folder.read_bytes(folder.server_key)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = folder.server_key if key is None else folder.server_certificate
        raise BadInput(
            "the server certificate cannot be used",
            reason=f"{missing} is missing",
            advice="make another with `knit admin renew-certs`",
        )
    with _refusals():
        certificates.check_pair(Pair(certificate, key), "server")
        authority = folder.read_bytes(folder.ca_certificate)
        if authority is not None:
            certificates.check_signed_by(certificate, authority)
        return certificates.read_certificate(certificate, str(folder.server_certificate))


def remove_all(folder: SettingsFolder) -> list[str]:
    """Takes the certificates out of the folder, for an installation without TLS."""
    aside = folder.set_aside(
        folder.ca_certificate, folder.ca_key, folder.server_certificate, folder.server_key
    )
    return [] if aside is None else [f"certs: without TLS; the certificates are now in {aside}"]


def _store(
    folder: SettingsFolder, server: Pair, authority: bytes | None, authority_key: bytes | None
) -> list[str]:
    """Writes the certificates, and sets aside what they replace; says where that is."""
    wanted = {
        folder.ca_certificate: authority,
        folder.ca_key: authority_key,
        folder.server_certificate: server.certificate,
        folder.server_key: server.key,
    }
    kept_authority = authority is None and _signs(folder, server.certificate)
    if kept_authority:
        del wanted[folder.ca_certificate], wanted[folder.ca_key]
    changed = {path: one for path, one in wanted.items() if folder.read_bytes(path) != one}
    aside = folder.replace_certificates(changed) if changed else None
    return [] if aside is None else [f"certs: what is replaced is now in {aside}"]


def _signs(folder: SettingsFolder, server: bytes) -> bool:
    authority = folder.read_bytes(folder.ca_certificate)
    return authority is not None and certificates.is_signed_by(server, authority)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise BadInput(
            f"cannot read {path}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except CertificateRefused as cause:
        raise BadInput(
            "the certificates cannot be used",
            reason=str(cause),
            advice="give others, or let `knit admin renew-certs` make new ones",
        ) from cause
