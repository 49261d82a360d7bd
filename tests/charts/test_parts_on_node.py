"""Database, registry, storage and trial Temporal on the real node: what stays, and who may do what.

The node's kernel has no NFS client: NFS itself is only rendered and tried by a dry run of the API
server, and the same StorageClasses are shown with the node's own provisioner.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.charts.helm import CHARTS, HELMS, Helm, set_json
from tests.charts.node import Node, certificate, free_node_ports, served_certificate, start_node
from tests.charts.test_parts import CASES, case_name
from tests.waiting import wait_for_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
WAIT: Final = ("--wait", "--timeout", "5m")


@pytest.fixture(scope="module")
def node() -> Node:
    return start_node()


@pytest.fixture
def helm(request: pytest.FixtureRequest, node: Node, tmp_path: Path) -> Iterator[Helm]:
    """helm 3, or the one named by a parameter, in a namespace that enforces *restricted*."""
    namespace = f"knit-parts-{uuid.uuid4().hex[:8]}"
    node.make_namespace(namespace)
    name = getattr(request, "param", "helm-3")
    yield Helm(name, tmp_path / "helm", kubeconfig=node.kubeconfig, namespace=namespace)
    node.kubectl("delete", "namespace", namespace, "--wait=false")


# --- what the API server says ---


@pytest.mark.parametrize(("chart", "values"), CASES, ids=case_name)
def test_the_api_server_takes_every_object(
    chart: str, values: Path, node: Node, helm: Helm
) -> None:
    arguments = ["--values", values]
    if chart == "knit-image-registry":
        arguments += ["--set", f"port={free_node_ports(node)[0]}"]
    rendered = [
        one
        for one in helm.render(chart, *arguments)
        if one["kind"] != "StorageClass" or not node.has("storageclass", one["metadata"]["name"])
    ]
    if not rendered:
        return
    text = yaml.safe_dump_all(rendered)
    said = node.kubectl(
        "apply", "--dry-run=server", "-n", helm.namespace, "-f", "-", input=text
    ).stderr
    violates = "would violate PodSecurity" in said
    # It is the trials' own NFS server that must be privileged, and nothing else.
    assert violates == (f"{chart}-{case_name(values)}" == "knit-storage-nfs-default"), said


# --- the database ---


class Database:
    """A release of knit-db-postgres in the helm's namespace."""

    def __init__(self, node: Node, helm: Helm, **values: Any) -> None:
        self._node = node
        self._helm = helm
        self.values = {
            "image": image(node.image("postgres")),
            "storageClass": node.storage_class,
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
            **values,
        }

    def install(self, **more: Any) -> None:
        self._helm.run(
            *("upgrade", "--install", "knit-db-postgres", CHARTS / "knit-db-postgres"),
            *flags({**self.values, **more}),
            *WAIT,
        )

    def password(self, secret: str) -> str:
        return self._node.secret(self._helm.namespace, secret)["password"]

    def sql(self, statement: str, user: str, password: str) -> str:
        """What a statement gives over the network; `REFUSED: …` with PostgreSQL's words."""
        done = self._node.kubectl(
            *("exec", "-n", self._helm.namespace, "deploy/database-postgres", "-i", "--"),
            *("env", f"PGPASSWORD={password}", "psql", "--host=127.0.0.1", f"--username={user}"),
            *("--dbname=knit", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"),
            *("--set=ON_ERROR_STOP=1", f"--command={statement}"),
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else f"REFUSED: {done.stderr.strip()}"


@pytest.mark.parametrize("helm", HELMS, indirect=True)
def test_the_database_keeps_passwords_and_rows(node: Node, helm: Helm) -> None:
    database = Database(node, helm)
    database.install()
    owner = database.password("database-credential")
    assert (
        database.sql("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)", "knit", owner) == ""
    )

    database.install(config={"max_connections": "150"}, initialCapacity="7Gi")
    assert database.password("database-credential") == owner
    assert database.sql("SHOW max_connections", "knit", owner) == "150"
    claim = node.get("pvc", "database-pgdata", helm.namespace)
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"

    helm.run("uninstall", "knit-db-postgres", "--wait")
    assert not node.has("deployment", "database-postgres", helm.namespace)
    assert node.has("pvc", "database-pgdata", helm.namespace)
    assert node.has("secret", "database-app-credential", helm.namespace)

    database.install()
    assert database.password("database-credential") == owner
    assert database.sql("SELECT x FROM kept", "knit", owner) == "7"
    helm.run("test", "knit-db-postgres")


def test_the_application_cannot_rewrite_the_audit_log(node: Node, helm: Helm) -> None:
    database = Database(node, helm, ephemeral=True)
    database.install()
    owner, application = (
        database.password(name) for name in ("database-credential", "database-app-credential")
    )
    made = 'CREATE TABLE audit (what text); GRANT SELECT, INSERT ON audit TO "knit-app"'
    assert database.sql(made, "knit", owner) == ""
    assert database.sql("INSERT INTO audit VALUES ('x')", "knit-app", application) == ""
    for statement in (
        "DELETE FROM audit",
        "UPDATE audit SET what = 'y'",
        "TRUNCATE audit",
        "DROP TABLE audit",
        'GRANT DELETE ON audit TO "knit-app"; DELETE FROM audit',
        "SET ROLE knit",
        "CREATE TABLE mine (x int)",
    ):
        said = database.sql(statement, "knit-app", application)
        assert said.startswith("REFUSED:"), statement
        assert "permission denied" in said or "must be owner" in said, said
    assert database.sql("SELECT what FROM audit", "knit-app", application) == "x"
    # Over the network nobody is the superuser, whatever he knows.
    assert "reject" in database.sql("SELECT 1", "postgres", owner)


def test_a_changed_secret_counts_after_a_restart(node: Node, helm: Helm) -> None:
    secret = {"username": "people's-owner", "password": "first 'quoted' \"one\" \\ $x"}
    node.make_secret(helm.namespace, "mine", secret)
    database = Database(node, helm, credential={"secret": "mine", "generate": False})
    database.install()
    assert (
        database.sql("SELECT current_user", secret["username"], secret["password"])
        == (secret["username"])
    )
    node.make_secret(helm.namespace, "mine", secret | {"password": "second"})
    node.restart("database-postgres", helm.namespace)
    assert database.sql("SELECT 1", secret["username"], "second") == "1"
    assert "password authentication failed" in (
        database.sql("SELECT 1", secret["username"], secret["password"])
    )


def test_a_secret_that_is_missing_is_named_before_anything_is_made(node: Node, helm: Helm) -> None:
    arguments = ("--set", "external=true,service=db.example.com")
    said = helm.run(
        *("install", "knit-db-postgres", CHARTS / "knit-db-postgres", *arguments), check=False
    ).stderr
    assert "kubectl -n" in said
    assert "database-app-credential" in said or "database-credential" in said
    for name in ("database-credential", "database-app-credential"):
        node.make_secret(helm.namespace, name, {"username": "u", "password": "p"})
    said = helm.run(
        *("install", "knit-db-postgres", CHARTS / "knit-db-postgres"), check=False
    ).stderr
    assert "set generate to false" in said
    helm.run("upgrade", "--install", "knit-db-postgres", CHARTS / "knit-db-postgres", *arguments)
    assert not node.has("deployment", "database-postgres", helm.namespace)


# --- the registry ---


def test_an_image_goes_in_from_outside_and_runs_as_localhost(
    node: Node, helm: Helm, tmp_path: Path
) -> None:
    port = free_node_ports(node)[0]
    first = certificate(tmp_path / "first", node.address)
    node.make_tls_secret(helm.namespace, "certs", first)
    install_registry(node, helm, port, tlsSecret="certs")
    pushed = f"{node.address}:{port}/team/busybox:1"
    copy_image(node.image("busybox"), pushed, "--dest-cert-dir", first / "trust")

    assert node.run_pod(helm.namespace, f"localhost:{port}/team/busybox:1", "echo ran") == "ran\n"

    second = certificate(tmp_path / "second", node.address)
    before = node.pod("image-registry-registry", helm.namespace)
    until_served(node, helm, port, first)
    node.make_tls_secret(helm.namespace, "certs", second)
    until_served(node, helm, port, second)
    after = node.pod("image-registry-registry", helm.namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [c["restartCount"] for c in after["status"]["containerStatuses"]] == [0, 0]
    copy_image(
        f"{node.address}:{port}/team/busybox:1",
        tmp_path / "back",
        "--src-cert-dir",
        second / "trust",
    )

    helm.run("test", "knit-image-registry")
    helm.run("uninstall", "knit-image-registry", "--wait")
    install_registry(node, helm, port, tlsSecret="certs")
    copy_image(
        f"{node.address}:{port}/team/busybox:1",
        tmp_path / "again",
        "--src-cert-dir",
        second / "trust",
    )


def until_served(node: Node, helm: Helm, port: int, folder: Path) -> None:
    """Waits until the registry shows the certificate in a folder."""
    deadline = time.monotonic() + 400
    while served_certificate(node.address, port) != (folder / "tls.crt").read_text():
        assert time.monotonic() < deadline, node.logs("image-registry-registry", helm.namespace)
        time.sleep(2)


def test_accounts_deletion_and_garbage_collection(node: Node, helm: Helm, tmp_path: Path) -> None:
    port = free_node_ports(node)[0]
    node.make_secret(helm.namespace, "people", {"htpasswd": f"ann:{bcrypt('secret')}\n"})
    install_registry(node, helm, port, accounts={"htpasswdSecret": "people"}, ephemeral=True)
    name = f"{node.address}:{port}/team/busybox:1"
    plain = ("--dest-tls-verify=false",)
    source = node.image("busybox")
    assert "authentication required" in copy_image(source, name, *plain, check=False)
    assert "authentication required" in (
        copy_image(source, name, *plain, "--dest-creds=ann:guess", check=False)
    )
    copy_image(source, name, *plain, "--dest-creds=ann:secret")

    full = registry_bytes(node, helm)
    remove = ("delete", "--tls-verify=false", "--creds=ann:secret", f"docker://{name}")
    skopeo(*remove)
    said = node.kubectl(
        *("exec", "-n", helm.namespace, "deploy/image-registry-registry", "-c", "image-registry"),
        *("--", "sh", "/etc/knit-registry/collect.sh"),
    ).stdout
    assert "eligible for deletion" in said
    assert registry_bytes(node, helm) < full / 10
    # Pushes are taken again, and nothing of the deleted image is believed to be there.
    copy_image(source, name, *plain, "--dest-creds=ann:secret")
    assert registry_bytes(node, helm) >= full
    back = ("--src-tls-verify=false", "--src-creds=ann:secret")
    copy_image(name, tmp_path / "back", *back)


def test_charts_are_kept_in_the_registry_too(node: Node, helm: Helm, tmp_path: Path) -> None:
    port = free_node_ports(node)[0]
    tls = certificate(tmp_path / "tls", node.address)
    node.make_tls_secret(helm.namespace, "certs", tls)
    install_registry(node, helm, port, tlsSecret="certs", ephemeral=True)
    helm.run("package", CHARTS / "knit-storage-nfs", "--destination", tmp_path)
    place = f"oci://{node.address}:{port}/charts"
    trust = ("--ca-file", tls / "ca.crt")
    helm.run("push", tmp_path / "knit-storage-nfs-0.1.0.tgz", place, *trust)
    shown = helm.run("show", "chart", f"{place}/knit-storage-nfs", "--version", "0.1.0", *trust)
    assert yaml.safe_load(shown.stdout)["name"] == "knit-storage-nfs"


def install_registry(node: Node, helm: Helm, port: int, **values: Any) -> None:
    values = {
        "port": port,
        "image": image(node.image("registry")),
        "gateway": {"image": image(node.image("nginx"))},
        "storageClass": node.storage_class,
        **values,
    }
    chart = ("knit-image-registry", CHARTS / "knit-image-registry")
    helm.run("upgrade", "--install", *chart, *flags(values), *WAIT)
    wait_for_port(node.address, port)


def registry_bytes(node: Node, helm: Helm) -> int:
    said = node.kubectl(
        *("exec", "-n", helm.namespace, "deploy/image-registry-registry", "-c", "image-registry"),
        *("--", "du", "-sk", "/var/lib/registry"),
    ).stdout
    return int(said.split()[0]) * 1024


def copy_image(source: str, target: str | Path, *options: str | Path, check: bool = True) -> str:
    """Copies an image between registries, or into a folder; gives what skopeo says."""
    place = f"dir:{target}" if isinstance(target, Path) else f"docker://{target}"
    loopback = ["--src-tls-verify=false"] if source.startswith("127.0.0.1:") else []
    command = ("copy", *loopback, *options, f"docker://{source}", place)
    return skopeo(*command, check=check)


def skopeo(*arguments: str | Path, check: bool = True) -> str:
    command = ["skopeo", "--insecure-policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def bcrypt(password: str) -> str:
    """What `htpasswd -B` writes; perl has the C library's crypt."""
    script = "print crypt($ARGV[0], q($2b$05$abcdefghijklmnopqrstuu))"
    done = subprocess.run(
        ["perl", "-e", script, password], capture_output=True, text=True, check=True
    )
    return done.stdout


# --- storage ---


def test_the_classes_work_over_the_nodes_own_provisioner(
    node: Node, helm: Helm, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex[:6]
    classes = {"data": f"knit-data-{mark}", "system": f"knit-system-{mark}"}
    values = {
        "provisioner": "knit.test/folders",
        "class": classes,
        "allowVolumeExpansion": False,
        "test": {"image": image(node.image("busybox"))},
    }
    chart = ("knit-storage-nfs", CHARTS / "knit-storage-nfs")
    helm.run("install", *chart, *flags(values), *WAIT)
    try:
        with node.provisioning(classes.values(), tmp_path / "volumes"):
            helm.run("test", "knit-storage-nfs")
        changed = flags({**values, "parameters": {"tier": "fast"}})
        said = helm.run("upgrade", *chart, *changed, check=False).stderr
        assert "those of a class cannot change" in said
    finally:
        helm.run("uninstall", "knit-storage-nfs", "--wait")
    assert not node.has("storageclass", classes["data"])


# --- Temporal ---


def test_a_temporal_for_trials_stands_on_the_same_database(node: Node, helm: Helm) -> None:
    database = Database(node, helm, temporal={"enabled": True})
    database.install()
    handed = json.loads(
        helm.run("get", "values", "knit-db-postgres", "--output", "json", "--all").stdout
    )
    # The node has no DNS.
    handed["service"] = node.cluster_ip("database", helm.namespace)
    address = install_temporal(node, helm, handed)
    helm.run("test", "knit-temporal")
    temporal("operator", "namespace", "create", "--namespace", "knit", "--address", address)
    ui = node.cluster_ip("temporal-ui", helm.namespace)
    wait_for_port(ui, 8080)
    assert '"knit"' in fetched(f"http://{ui}:8080/api/v1/namespaces")

    install_temporal(node, helm, handed, podAnnotations={"turn": "second"})
    helm.run("uninstall", "knit-temporal", "--wait")
    address = install_temporal(node, helm, handed)
    found = temporal("operator", "namespace", "describe", "knit", "--address", address)
    assert "knit" in found


def install_temporal(node: Node, helm: Helm, database: dict[str, Any], **more: Any) -> str:
    """Installs or upgrades it, and gives the address of its frontend."""
    values = {
        "server": {"image": image(node.image("temporal"))},
        "adminTools": {"image": image(node.image("temporal-tools"))},
        "ui": {"image": image(node.image("temporal-ui"))},
        **more,
    }
    chart = ("knit-temporal", CHARTS / "knit-temporal")
    handed = set_json("database", database)
    helm.run("upgrade", "--install", *chart, *handed, *flags(values), *WAIT)
    frontend = node.cluster_ip("temporal-frontend", helm.namespace)
    wait_for_port(frontend, 7233)
    return f"{frontend}:7233"


def temporal(*arguments: str) -> str:
    program = Path(sys.executable).parent / "temporal"
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetched(url: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", url],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def image(reference: str) -> dict[str, str]:
    """A chart's value `image` for a reference with a tag."""
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


def flags(values: dict[str, Any]) -> list[str]:
    """Every value as a `--set-json` of its own."""
    return [part for key, value in values.items() for part in set_json(key, value)]
