"""Certificates as people have them, against real handshakes."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager

import pytest

from knit_cli.api.tls import context_trusting, raise_if_expired, read_certificates
from knit_cli.config.profile import read_profile
from knit_cli.errors import ProfileProblem
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from tests.waiting import PATIENCE


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A root, an intermediate below it, a server's certificate below that, and an expired root."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(folder, *new, "-x509", "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Root")
    (folder / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\n")
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name, issuer, kind in (("middle", "root", "ca"), ("server", "middle", "server")):
        openssl(
            folder, *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        signed = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", "2",
                "-extfile", f"{kind}.ext", "-out", f"{name}.pem")  # fmt: skip
    openssl(folder, *new, "-keyout", "old.key", "-out", "old.csr", "-subj", "/CN=Old Root")
    openssl(folder, "x509", "-req", "-in", "old.csr", "-signkey", "old.key", "-days", "-1",
            "-extfile", "ca.ext", "-out", "old.pem")  # fmt: skip
    return folder


@pytest.fixture
def api(made):
    """Gives the address of an API that shows its certificate and the intermediate."""
    with showing(made, made / "server.pem") as address:
        yield address


@contextmanager
def showing(made, certificate):
    """Gives the address of an API that shows this certificate and the intermediate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = certificate.with_suffix(".chain")
    chain.write_bytes(certificate.read_bytes() + (made / "middle.pem").read_bytes())
    context.load_cert_chain(chain, made / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                try:
                    with context.wrap_socket(connection, server_side=True) as encrypted:
                        encrypted.recv(65536)
                        encrypted.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"
                        )
                except ssl.SSLError:
                    pass  # the client does not trust it

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/api"
        thread.join()


@pytest.fixture
def find(tmp_path, capsys):
    """Runs `knit data find` with this CA in the profile; gives exit code, stdout and stderr."""

    def found(api_root, ca=b"", **variables):
        store = tmp_path / "profiles"
        cert = f", cert: {{ca: {base64.b64encode(ca).decode()}}}" if ca else ""
        store.write_text(f'p: {{apiRoot: "{api_root}"{cert}}}\n')
        surroundings = Surroundings(tmp_path, tmp_path, variables, sleep=lambda _: None)
        code = run(["--profile", "p", "--profile-store", str(store), "data", "find"], surroundings)
        return code, *capsys.readouterr()

    return found


def forms(folder):
    root, middle = (folder / "root.pem").read_bytes(), (folder / "middle.pem").read_bytes()
    der = ssl.PEM_cert_to_DER_cert(root.decode())
    return {
        "plain": root,
        "comment in UTF-8": "# Prüf-Stelle, 検査\n".encode() + root,
        "comment in Latin-1": "# Prüf-Stelle\n".encode("latin-1") + root,
        "byte order mark": b"\xef\xbb\xbf" + root,
        "line ends of Windows": root.replace(b"\n", b"\r\n"),
        "no line end at the end": root.rstrip(),
        "DER": der,
        "several": (folder / "old.pem").read_bytes() + b"\n# next\n" + middle + root,
        "only the intermediate": middle,
        "only the server's own": (folder / "server.pem").read_bytes(),
    }


COMMAND_FORMS = ["plain", "comment in UTF-8", "comment in Latin-1", "byte order mark",
         "line ends of Windows", "no line end at the end", "DER", "several",
         "only the intermediate", "only the server's own"]  # fmt: skip


@pytest.mark.parametrize("form", COMMAND_FORMS)
@pytest.mark.patient
def test_an_authority_in_every_form_is_trusted(made, api, find, form):
    assert find(api, forms(made)[form]) == (0, "[]\n", "")


CA = """
[ca]
default_ca = middle
[middle]
database = index
serial = serial
new_certs_dir = .
policy = any
default_md = sha256
[any]
commonName = supplied
[ip]
subjectAltName = IP:127.0.0.1
[dns]
subjectAltName = DNS:elsewhere.test
"""


@pytest.mark.parametrize(
    ("first", "last", "names", "said", "advice"),
    [
        ("20200101", "20210101", "ip", "certificate has expired; this machine's clock says ",
         "have the API's certificate renewed, or correct the clock"),
        ("20480101", "20490101", "ip", "certificate is not yet valid; this machine's clock says ",
         "correct this machine's clock, or wait until it is valid"),
        ("20200101", "20490101", "dns", "IP address mismatch",
         "use a host name in apiRoot that is in the certificate, see "),
    ],
)  # fmt: skip
def test_why_the_certificate_of_the_api_is_refused(
    made, find, tmp_path, first, last, names, said, advice
):
    (tmp_path / "index").touch()
    (tmp_path / "serial").write_text("01")
    (tmp_path / "ca").write_text(CA)
    openssl(tmp_path, "ca", "-batch", "-config", "ca", "-extensions", names,
            "-cert", str(made / "middle.pem"), "-keyfile", str(made / "middle.key"),
            "-startdate", f"{first}000000Z", "-enddate", f"{last}000000Z",
            "-in", str(made / "server.csr"), "-out", "refused.pem")  # fmt: skip
    with showing(made, tmp_path / "refused.pem") as address:
        code, out, err = find(address, (made / "root.pem").read_bytes())
    assert (code, out) == (1, "")
    assert said in err
    assert f"hint: {advice}" in err


@pytest.mark.patient
def test_another_authority_is_not(made, api, find, tmp_path):
    openssl(tmp_path, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c",
            "-subj", "/CN=Other")  # fmt: skip
    code, out, err = find(api, (tmp_path / "c").read_bytes())
    assert (code, out) == (1, "")
    assert "cannot be trusted" in err and "cert.ca" in err


@pytest.mark.parametrize("form", COMMAND_FORMS)
def test_ssl_cert_file_is_read_in_every_form_too(made, api, find, tmp_path, form):
    (tmp_path / "bundle").write_bytes(forms(made)[form])
    assert find(api, SSL_CERT_FILE=str(tmp_path / "bundle")) == (0, "[]\n", "")


def test_ssl_cert_dir_is_read(made, api, find, tmp_path):
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "root.pem").write_bytes((made / "root.pem").read_bytes())
    openssl(tmp_path, "rehash", str(folder))
    assert find(api, SSL_CERT_DIR=str(folder)) == (0, "[]\n", "")


def test_ssl_cert_file_is_of_no_account_where_the_profile_has_an_authority(made, api, find):
    root = (made / "root.pem").read_bytes()
    assert find(api, root, SSL_CERT_FILE="/nowhere") == (0, "[]\n", "")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_what_these_variables_name_must_be_there(find, variable):
    code, out, err = find("https://127.0.0.1:1/api", **{variable: "/nowhere"})
    assert (code, out) == (1, "")
    assert f"the certificates of {variable} cannot be used\nreason: /nowhere: " in err


def test_an_expired_authority_is_named(made, find):
    code, out, err = find("https://127.0.0.1:1/api", (made / "old.pem").read_bytes())
    assert (code, out) == (1, "")
    assert "has expired\nreason: commonName=Old Root was valid until " in err
    assert "this machine's clock says" in err


def test_one_expired_authority_beside_others_is_no_trouble(made):
    pem = (made / "old.pem").read_text() + (made / "root.pem").read_text()
    raise_if_expired(context_trusting(pem), "here")
    with pytest.raises(ProfileProblem):
        raise_if_expired(context_trusting((made / "old.pem").read_text()), "here")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no certificate"),
        (b"Certificate:\n  Data:\n", "no certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "a certificate"),
    ],
)
def test_what_is_there_instead_is_said(content, said):
    with pytest.raises(ValueError, match=said):
        read_certificates(content)


def test_a_profile_keeps_nothing_but_the_certificates(made, tmp_path):
    bundle = base64.b64encode(forms(made)["comment in UTF-8"]).decode()
    (tmp_path / "profile").write_text(f"apiRoot: https://x/api\ncert: {{ca: {bundle}}}")
    ca = read_profile(tmp_path / "profile").ca
    assert ca.startswith("-----BEGIN CERTIFICATE-----\n") and ca.isascii()
