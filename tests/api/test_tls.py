"""HTTPS on the API's own socket: certificates are replaced while it serves, or refused in words."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from knit_api.server.tls import Certificate, CertificateRefused
from tests.api.test_processes import NOBODY, api
from tests.waiting import PATIENCE, wait_until


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, made by `openssl`."""
    chain, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def put(chain: Path, key: Path, folder: Path) -> None:
    """Replaces `tls.crt`, then `tls.key`, as somebody who copies files does."""
    shutil.copy(chain, folder / "tls.crt")
    shutil.copy(key, folder / "tls.key")


def handshake(port: int) -> str:
    """The certificate that a new connection gets, in PEM; its client names no server."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENCE)


def status(connection: socket.socket) -> int:
    """Asks on an open connection, which goes on afterwards."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.patient
def test_a_replaced_certificate_is_served_and_open_connections_go_on(tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    served = tmp_path / "served"
    served.mkdir()
    put(*first, served)
    files = ("--tls-cert", str(served / "tls.crt"), "--tls-key", str(served / "tls.key"))
    with api(tmp_path, *files, **NOBODY) as running:
        port = urlsplit(running.url).port
        assert port is not None
        assert handshake(port) == first[0].read_text()
        trusting = ssl.create_default_context(cafile=str(first[0]))
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as kept,
        ):
            assert status(kept) == 200

            # A certificate without its key: refused, the first goes on being served.
            shutil.copy(second[0], served / "tls.crt")
            # Idle connections are closed after some seconds: this one is used meanwhile.
            wait_until(lambda: status(kept) == 200 and "_refused" in running.log.read_text())
            assert handshake(port) == first[0].read_text()

            put(*second, served)
            new = second[0].read_text()
            wait_until(lambda: status(kept) == 200 and handshake(port) == new)
        assert "certificate_replaced" in running.end()


@pytest.mark.patient
def test_a_client_without_tls_gets_nothing_and_disturbs_nobody(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "one")
    with api(tmp_path, "--tls-cert", str(chain), "--tls-key", str(key), **NOBODY) as running:
        port = urlsplit(running.url).port
        assert port is not None
        with (
            pytest.raises((http.client.HTTPException, OSError)),
            socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        ):
            status(plain)
        assert handshake(port) == chain.read_text()


def test_wrong_files_are_refused_in_words_and_say_what_to_do(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, "one")
    _, other = make_certificate(tmp_path, "two")
    text = tmp_path / "text"
    text.write_text("no certificate\n")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", str(locked)], check=True)
    for files, words in (
        ((chain, other), "the key is not that of the certificate"),
        ((text, key), "the first is no certificate"),
        ((chain, text), "the second is no key"),
        ((chain, locked), "password"),
        ((tmp_path / "gone", key), "gone cannot be read: No such file or directory"),
    ):
        with pytest.raises(CertificateRefused, match=words):
            Certificate(*files).load()


@pytest.mark.patient
@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key"])
def test_one_without_the_other_is_refused(tmp_path: Path, flag: str) -> None:
    path = make_certificate(tmp_path, "one")[0]
    command = [sys.executable, "-m", "knit_api", "--port", "0", flag, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "--tls-cert and --tls-key belong together" in done.stderr
