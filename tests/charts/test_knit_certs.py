"""What the chart knit-certs makes: a chain that holds, or exactly what it was given."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from tests.charts.helm import Helm, by_name


def made(helm: Helm, folder: Path, *arguments: str) -> dict[str, Path]:
    """The Secrets' contents as files: `certs/tls.crt` and so on."""
    found = by_name(helm.render("knit-certs", *arguments))
    files = {}
    for name, one in found.items():
        assert one["type"] == "kubernetes.io/tls"
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        for key, value in one["data"].items():
            label = f"{name.removeprefix('Secret/')}/{key}"
            files[label] = folder / label.replace("/", "-")
            files[label].write_bytes(base64.b64decode(value))
    return files


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_chain_is_made_for_all_names_and_addresses(helm: Helm, tmp_path: Path) -> None:
    arguments = ("--set", "san.names={knit.example.com},san.ips={192.0.2.10,2001:db8::10}")
    files = made(helm, tmp_path, *arguments)
    assert files.keys() == {
        *("certs/tls.crt", "certs/tls.key", "certs/ca.crt", "ca-certs/tls.crt", "ca-certs/tls.key")
    }
    assert files["certs/ca.crt"].read_bytes() == files["ca-certs/tls.crt"].read_bytes()
    chain = ("verify", "-CAfile", files["certs/ca.crt"], "-purpose", "sslserver")
    for check, value in (
        ("-verify_hostname", "knit.example.com"),
        ("-verify_hostname", "knit-api.default.svc"),
        ("-verify_hostname", "image-registry"),
        ("-verify_hostname", "localhost"),
        ("-verify_ip", "192.0.2.10"),
        ("-verify_ip", "2001:db8::10"),
        ("-verify_ip", "127.0.0.1"),
    ):
        assert ": OK" in openssl(*chain, check, value, files["certs/tls.crt"])
    public = openssl("x509", "-in", files["certs/tls.crt"], "-noout", "-pubkey")
    assert openssl("pkey", "-in", files["certs/tls.key"], "-pubout") == public


def test_a_given_authority_signs(helm: Helm, tmp_path: Path) -> None:
    first = made(helm, tmp_path)
    given = {
        "cacert": first["ca-certs/tls.crt"],
        "cakey": first["ca-certs/tls.key"],
    }
    encoded = ",".join(
        f"{key}={base64.b64encode(file.read_bytes()).decode()}" for key, file in given.items()
    )
    second = made(helm, tmp_path, "--set", encoded)
    authority = second["ca-certs/tls.crt"]
    assert ": OK" in openssl("verify", "-CAfile", authority, second["certs/tls.crt"])


def test_a_given_certificate_is_kept_to_the_byte(helm: Helm, tmp_path: Path) -> None:
    first = {name: file.read_bytes() for name, file in made(helm, tmp_path).items()}
    encoded = ",".join(
        f"{key}={base64.b64encode(first[name]).decode()}"
        for key, name in (
            ("cert", "certs/tls.crt"), ("key", "certs/tls.key"), ("cacert", "ca-certs/tls.crt"),
        )
    )  # fmt: skip
    second = made(helm, tmp_path, "--set", encoded)
    assert second.keys() == {"certs/tls.crt", "certs/tls.key", "certs/ca.crt"}
    for name, file in second.items():
        assert file.read_bytes() == first[name]


@pytest.mark.parametrize("off", ["external=true", "enabled=false"])
def test_nothing_is_installed_where_others_see_to_it(helm: Helm, off: str) -> None:
    assert helm.render("knit-certs", "--set", off) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("cert=YQ==", "cert is given without key"),
        ("key=YQ==", "key is given without cert"),
        ("cacert=YQ==", "cacert is given without cakey"),
        ("cakey=YQ==", "cakey is given without cacert"),
        ("external=true,cert=YQ==,key=YQ==", "choose one"),
        ("san.ips={knit.example.com}", "san/ips/0"),
        ("days=0", "days"),
    ],
)
def test_halves_and_contradictions_are_refused(helm: Helm, values: str, words: str) -> None:
    said = helm.refusal("knit-certs", "--set", values)
    assert words in said or words.replace("/", ".") in said
