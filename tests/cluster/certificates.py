"""Makes the certificates and kubeconfig files of one short-lived cluster, with `openssl`."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from knit_workflows.provision.cache import SetUpError

_DAYS = "30"


def make_authority(folder: Path) -> None:
    """Writes `ca.crt`, `ca.key` and the service account keys `sa.key`, `sa.pub` into `folder`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _new_key(folder / "ca.key")
    _openssl(
        *("req", "-x509", "-new", "-sha256", "-days", _DAYS, "-subj", "/CN=knit-test-cluster"),
        *("-key", folder / "ca.key", "-out", folder / "ca.crt"),
    )
    _new_key(folder / "sa.key")
    _openssl("pkey", "-in", folder / "sa.key", "-pubout", "-out", folder / "sa.pub")


def make_server(folder: Path, name: str, addresses: Sequence[str], names: Sequence[str]) -> None:
    """Writes `<name>.crt` and `<name>.key` for a server found at these addresses and DNS names."""
    alternatives = [f"IP:{a}" for a in addresses] + [f"DNS:{n}" for n in names]
    extension = f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(alternatives)}\n"
    _make_signed(folder, name, f"/CN={name}", extension)


def make_client(folder: Path, name: str, user: str, group: str) -> None:
    """Writes `<name>.crt` and `.key` of a client that the API server knows as `user` in `group`."""
    _make_signed(folder, name, f"/O={group}/CN={user}", "extendedKeyUsage=clientAuth\n")


def write_kubeconfig(path: Path, server: str, folder: Path, name: str) -> None:
    """Writes a self-contained kubeconfig (as JSON, which is YAML) for the client `name`."""

    def embedded(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": embedded("ca.crt")}
    user = {
        "client-certificate-data": embedded(f"{name}.crt"),
        "client-key-data": embedded(f"{name}.key"),
    }
    context = {"cluster": "knit-test", "user": name}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "knit-test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "knit-test", "context": context}],
        "current-context": "knit-test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))


def _make_signed(folder: Path, name: str, subject: str, extension: str) -> None:
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    extensions = folder / f"{name}.ext"
    _new_key(key)
    extensions.write_text(extension)
    _openssl("req", "-new", "-sha256", "-key", key, "-subj", subject, "-out", request)
    _openssl(
        *("x509", "-req", "-sha256", "-days", _DAYS, "-in", request, "-extfile", extensions),
        *("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial"),
        *("-out", folder / f"{name}.crt"),
    )
    request.unlink()
    extensions.unlink()


def _new_key(path: Path) -> None:
    # Elliptic curve keys, because RSA ones would cost seconds on a busy core.
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SetUpError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
