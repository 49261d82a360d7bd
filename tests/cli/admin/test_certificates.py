"""Certificates that are made are accepted in real TLS handshakes; others are refused in words."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.x509.oid import NameOID

from knit_cli.admin.tls import certificates
from knit_cli.admin.tls.certificates import CertificateRefused, Pair

STRICT = ssl.VERIFY_X509_STRICT
"""What Python checks by default from 3.13 on: key identifiers, usages, and the like."""


def handshake(server: Pair, authority: bytes, host: str, folder: Path) -> None:
    """Speaks TLS over a socket, as a client that trusts the authority and asks for the host."""
    (folder / "crt").write_bytes(server.certificate)
    (folder / "key").write_bytes(server.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "crt", folder / "key")
    near, far = socket.socketpair()

    def serve() -> None:
        with suppress(OSError), serving.wrap_socket(far, server_side=True) as secure:
            secure.sendall(secure.recv(4))

    thread = threading.Thread(target=serve)
    thread.start()
    trusting = ssl.create_default_context(cadata=authority.decode())
    trusting.verify_flags |= STRICT
    try:
        with trusting.wrap_socket(near, server_hostname=host) as secure:
            secure.sendall(b"ping")
            assert secure.recv(4) == b"ping"
    finally:
        near.close()
        thread.join()


@pytest.fixture(scope="module")
def authority() -> Pair:
    return certificates.new_authority()


HOSTS = ("10.0.0.7", "knit.example.com", "*.ml.example.com", "fd00::7", "localhost", "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["10.0.0.7", "knit.example.com", "a.ml.example.com", "fd00::7", "localhost"]
)
def test_a_client_accepts_a_made_certificate_for_each_of_its_names(authority, tmp_path, host):
    handshake(certificates.new_server(authority, HOSTS), authority.certificate, host, tmp_path)


@pytest.mark.parametrize("host", ["10.0.0.8", "example.com", "a.b.ml.example.com"])
def test_a_client_refuses_it_for_other_names(authority, tmp_path, host):
    server = certificates.new_server(authority, HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(server, authority.certificate, host, tmp_path)


def test_a_client_refuses_the_certificate_of_another_authority(authority, tmp_path):
    server = certificates.new_server(certificates.new_authority(), HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, authority.certificate, "localhost", tmp_path)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_an_authority_with_a_key_of_another_kind_signs_too(tmp_path, kind):
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ed25519.Ed25519PrivateKey.generate()
    )
    mine = made(key=key)
    handshake(certificates.new_server(mine, HOSTS), mine.certificate, "10.0.0.7", tmp_path)


def test_a_server_certificate_does_not_outlive_its_authority():
    mine = made(ends=datetime.now(UTC) + timedelta(days=3))
    found = certificates.read_certificate(
        certificates.new_server(mine, ["a.example"]).certificate, "it"
    )
    assert found.not_after <= datetime.now(UTC) + timedelta(days=3)
    assert found.names == ("a.example",)


def test_a_made_certificate_is_one_that_every_client_takes(authority):
    """Some refuse what is valid for longer than 825 days, and whatever may sign others."""
    server = x509.load_pem_x509_certificate(
        certificates.new_server(authority, ["a.example"]).certificate
    )
    assert server.not_valid_after_utc - server.not_valid_before_utc <= timedelta(days=826)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_two_authorities_have_names_of_their_own():
    first = certificates.read_certificate(certificates.new_authority().certificate, "it")
    assert first.subject.startswith("CN=knit CA 20")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("[FD00::7]", "fd00::7"),
        ("Knit.Example.com", "knit.example.com"),
        ("*.example.com", "*.example.com"),
        ("node-1", "node-1"),
    ],
)
def test_a_host_is_a_name_or_an_address(text, host):
    assert certificates.parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", "https://a.example", "a.example:443", "a b", "1.2.3", "300.1.1.1", "ärger.example"),
        *("a..b", "-a.example", "a\nb: c", "$(id)", "x" * 64 + ".example", "*"),
    ],
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(CertificateRefused, match="neither a host name nor an IP address"):
        certificates.parse_host(text)


def test_a_key_of_another_certificate_is_refused(authority):
    one, other = (certificates.new_server(authority, ["a.example"]) for _ in "12")
    with pytest.raises(CertificateRefused, match="server key is not the key of the server cert"):
        certificates.check_pair(Pair(one.certificate, other.key), "server")


def test_an_expired_certificate_is_refused_with_its_time():
    old = made(begins=datetime(2020, 1, 1, tzinfo=UTC), ends=datetime(2021, 2, 3, 4, 5, tzinfo=UTC))
    with pytest.raises(
        CertificateRefused, match="has expired: it was valid until 2021-02-03 04:05"
    ):
        certificates.check_pair(old, "server")
    with pytest.raises(CertificateRefused, match="the CA certificate has expired"):
        certificates.check_authority(old.certificate)


def test_a_certificate_of_the_future_is_refused():
    early = made(begins=datetime(2099, 1, 1, tzinfo=UTC), ends=datetime(2100, 1, 1, tzinfo=UTC))
    with pytest.raises(
        CertificateRefused, match="is not valid yet, only from 2099-01-01 00:00 UTC"
    ):
        certificates.check_pair(early, "server")


def test_a_certificate_that_is_no_authority_cannot_be_one(authority):
    server = certificates.new_server(authority, ["a.example"])
    with pytest.raises(CertificateRefused, match="not one of an authority"):
        certificates.check_authority(server.certificate)
    with pytest.raises(CertificateRefused, match="not one of an authority"):
        certificates.check_authority(made(constraints=False).certificate)


def test_an_authority_that_did_not_sign_is_named(authority):
    server = certificates.new_server(authority, ["a.example"])
    other = made(name="other CA")
    with pytest.raises(CertificateRefused, match="the CA CN=other CA did not sign the server"):
        certificates.check_signed_by(server.certificate, other.certificate)
    assert not certificates.is_signed_by(server.certificate, other.certificate)
    assert certificates.is_signed_by(server.certificate, authority.certificate)


def test_a_chain_with_an_intermediate_is_followed_and_its_order_checked(tmp_path):
    root = made(name="root")
    middle = made(name="middle", issuer=root)
    server = certificates.new_server(middle, ["a.example"])
    chain = Pair(server.certificate + middle.certificate, server.key)
    certificates.check_signed_by(chain.certificate, root.certificate)
    handshake(chain, root.certificate, "a.example", tmp_path)
    with pytest.raises(CertificateRefused, match="file is not in order"):
        certificates.check_signed_by(
            server.certificate + root.certificate + middle.certificate, root.certificate
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "server certificate: no certificate can be read; it is no PEM file"),
        (b"\x30\x82\x00", "it is no PEM file"),
        (
            b"-----BEGIN RSA PRIVATE KEY-----\nAA==\n-----END RSA PRIVATE KEY-----\n",
            "it has rsa private key",
        ),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "it has certificate"),
    ],
)
def test_what_is_no_certificate_is_refused(authority, content, words):
    with pytest.raises(CertificateRefused) as caught:
        certificates.check_pair(Pair(content, authority.key), "server")
    assert words in str(caught.value)


def test_what_is_no_key_is_refused(authority):
    with pytest.raises(CertificateRefused, match="server key: there is no private key in PEM"):
        certificates.check_pair(Pair(authority.certificate, authority.certificate), "server")
    broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    with pytest.raises(CertificateRefused, match="server key: it cannot be read: "):
        certificates.check_pair(Pair(authority.certificate, broken), "server")


def test_a_key_with_a_passphrase_is_refused_with_the_way_out(authority):
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(CertificateRefused, match="it has a passphrase, which servers could not"):
        certificates.check_pair(Pair(authority.certificate, key), "server")


def test_a_key_that_cannot_sign_makes_no_server_certificate(authority):
    key = pem(x25519.X25519PrivateKey.generate())
    with pytest.raises(CertificateRefused, match="the CA's key: a key of this kind cannot sign"):
        certificates.new_server(Pair(authority.certificate, key), ["a.example"])


def test_the_parameters_before_a_key_are_passed_over(authority):
    """`openssl ecparam -genkey` writes them."""
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    certificates.check_pair(Pair(authority.certificate, parameters + authority.key), "CA")


def test_a_certificate_without_names_has_none():
    assert certificates.read_certificate(made().certificate, "it").names == ()


def made(
    *,
    name: str = "a CA",
    key=None,
    issuer: Pair | None = None,
    begins: datetime | None = None,
    ends: datetime | None = None,
    constraints: bool = True,
) -> Pair:
    """An authority as others make them."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by = None if issuer is None else x509.load_pem_x509_certificate(issuer.certificate)
    signer = key if issuer is None else serialization.load_pem_private_key(issuer.key, None)
    now = datetime.now(UTC)
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by is None else by.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or now - timedelta(days=1))
        .not_valid_after(ends or now + timedelta(days=1000))
    )
    if constraints:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        issuing = public if by is None else by.public_key()
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing), critical=False
            )
        )
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    signed = builder.sign(signer, digest)
    return Pair(signed.public_bytes(serialization.Encoding.PEM), pem(key))


def pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
