"""The SDK's own download: whole or not at all, and given up when nothing comes.

The SDK is the real one. Its way out is a proxy on the loopback address, which plays the other side:
nothing leaves this machine.
"""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest

from knit_workflows.provision.cache import SetUpError
from knit_workflows.provision.sdk_download import download_folder, download_if_needed
from tests.waiting import PATIENCE

pytestmark = pytest.mark.patient

HOST = "temporal.download"
PROGRAM = b'#!/bin/sh\necho "temporal version 9.9.9 (Server 9.9.9, UI 9.9.9)"\n'
Answer = Callable[[str], bytes]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA (`ca.pem`), and the host's `cert.pem` and `key.pem` signed by it."""
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "extensions").write_text(f"subjectAltName=DNS:{HOST}\nbasicConstraints=CA:FALSE\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for arguments in (
        (*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca"),
        (*new, "-keyout", "key.pem", "-out", "request", "-subj", f"/CN={HOST}"),
        (
            *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", "cert.pem"),
        ),
    ):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return folder


class Proxy:
    """An HTTP proxy that answers in place of the host; `answer`: path to response, None: never."""

    def __init__(self, certificate: Path) -> None:
        self.answer: Answer | None = None
        self.asked: list[str] = []
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._silent: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._silent:
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError):
                    self._speak(connection)

    def _speak(self, connection: socket.socket) -> None:
        assert f"CONNECT {HOST}:443 " in _head(connection)
        if self.answer is None:
            self._silent.append(connection)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with self._tls.wrap_socket(connection, server_side=True) as secured:
            path = _head(secured).split()[1]
            self.asked.append(path)
            secured.sendall(self.answer(path))


def _head(connection: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            raise OSError("closed")
        head += part
    return head.decode()


@pytest.fixture
def proxy(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(certificate)
    for name in [*os.environ]:
        if name.upper() in ("NO_PROXY", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.pem"))
    yield proxy
    proxy.close()


def response(body: bytes, *, cut: int | None = None) -> bytes:
    """Gives a response; `cut`: only so many bytes of the body, as when a connection breaks."""
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body[:cut]


def serve(path: str, *, cut: int | None = None) -> bytes:
    """Answers as the host does: where the archive is, then the archive."""
    if path.startswith("/cli/default?"):
        where = {"archiveUrl": f"https://{HOST}/it.tar.gz", "fileToExtract": "temporal"}
        return response(json.dumps(where).encode())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("temporal")
        # Not compressible, so that a part of the archive is a part of the program.
        program = PROGRAM + os.urandom(1_000_000)
        info.size, info.mode = len(program), 0o755
        archive.addfile(info, io.BytesIO(program))
    return response(out.getvalue(), cut=cut)


def test_it_is_downloaded_once_into_the_cache(proxy: Proxy) -> None:
    proxy.answer = serve
    program = download_if_needed(stall_timeout=PATIENCE)
    assert program == download_folder() / "temporal"
    assert program.read_bytes().startswith(PROGRAM)
    assert os.access(program, os.X_OK)
    assert [path.partition("?")[0] for path in proxy.asked] == ["/cli/default", "/it.tar.gz"]
    assert download_if_needed(stall_timeout=PATIENCE) == program
    assert len(proxy.asked) == 2


def test_a_broken_download_leaves_nothing_and_the_next_one_works(proxy: Proxy) -> None:
    proxy.answer = lambda path: serve(path, cut=400_000)
    with pytest.raises(SetUpError, match="the download by Temporal's SDK failed"):
        download_if_needed(stall_timeout=PATIENCE)
    assert [path.suffix for path in download_folder().parent.iterdir()] == [".lock"]
    proxy.answer = serve
    assert download_if_needed(stall_timeout=PATIENCE).exists()


def test_where_nothing_comes_it_is_given_up_and_its_process_is_ended(proxy: Proxy) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(SetUpError, match=r"nothing arrived for 0\.5 s"):
        download_if_needed(stall_timeout=0.5)
    assert set(psutil.Process().children()) <= before
    assert [path.suffix for path in download_folder().parent.iterdir()] == [".lock"]


def test_a_download_whose_process_is_killed_fails(proxy: Proxy) -> None:
    """As when memory runs out: it had no time for a last word."""
    ours = psutil.Process()
    before = set(ours.children())

    def kill() -> None:
        while not (made := set(ours.children()) - before):
            time.sleep(0.01)
        for process in made:
            process.kill()

    killer = Thread(target=kill)
    killer.start()
    with pytest.raises(SetUpError, match="SDK failed: it says nothing"):
        download_if_needed(stall_timeout=PATIENCE)
    killer.join()


def test_without_a_network_it_fails_with_the_sdks_reason(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(SetUpError, match=f"failed: .*https://{HOST}/cli/default"):
        download_if_needed(stall_timeout=PATIENCE)


def test_the_program_of_an_interrupted_download_is_not_left_running(
    proxy: Proxy, tmp_path: Path
) -> None:
    """Ctrl-C while it waits: the child is in a session of its own, so we have to end it."""
    program = "from knit_workflows.provision.sdk_download import download_if_needed as d; d()"
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    process = psutil.Process(parent.pid)
    while not (children := process.children()):
        assert parent.poll() is None
    process.send_signal(2)
    parent.wait()
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
