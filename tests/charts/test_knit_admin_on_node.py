"""`knit admin` on the real node, with real helm: from nothing to a Run, and back to nothing.

The node's kernel has no NFS client, so its own StorageClass takes the place of knit-storage-nfs. It
has no cluster DNS either, so helm is told the addresses of two Services in place of their names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.charts.administrator import WITHIN, Administrator
from tests.charts.helm import HELMS, program
from tests.charts.node import Node, free_node_ports, served_certificate, start_node
from tests.charts.test_parts_on_node import image
from tests.cluster.registry import ImageSettings, has_image, push_tree
from tests.docs.command_words import commands_of
from tests.docs.test_runbooks import PAGES
from tests.waiting import wait_for_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
WITHOUT_DNS = """\
#!/bin/sh
address() {{
  kubectl --kubeconfig {kubeconfig} --namespace {namespace} get service "$1" \\
    --output jsonpath='{{.spec.clusterIP}}' </dev/null
}}
case " $* " in
  *" upgrade --install knit-temporal "*)
    set -- "$@" --set "database.service=$(address database)" ;;
  *" upgrade --install knit-app "*)
    set -- "$@" --set "database.service=$(address database)" \\
      --set "temporal.address=$(address temporal-frontend):7233" ;;
esac
exec {helm} "$@"
"""
PLAN = """\
image: {image}
entrypoint: ["/bin/sh", "-c", "cat /in/word > /out/word"]
inputs: [{{path: /in, tags: ["type:word"]}}]
outputs: [{{path: /out, tags: ["type:copy"]}}]
"""

CLAIM: Final = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "backups"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
}
IMAGE: Final = ("team/tool", "1")
WITH_DRY_RUN: Final = {
    *("cordon", "create", "delete", "drain", "label", "patch", "scale", "taint", "uncordon")
}
ELSEWHERE: Final = {"port-forward", "top"}
"""What does not end by itself, and what needs a metrics server."""
SCHEDULE: Final = ("admin", "backup", "--json", "--schedule")


@pytest.fixture(scope="module")
def node() -> Node:
    """The node, with the images of API and worker too."""
    found = start_node()
    up = Path(__file__).parents[1] / "cluster" / "up.py"
    done = subprocess.run([sys.executable, up, "--with-app"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return replace(found, images={**found.images, **json.loads(done.stdout)["images"]})


@pytest.fixture(params=HELMS)
def admin(request: pytest.FixtureRequest, node: Node, tmp_path: Path) -> Iterator[Administrator]:
    namespace = f"knit-admin-{uuid.uuid4().hex[:8]}"
    helm = tmp_path / "helm"
    helm.write_text(
        WITHOUT_DNS.format(
            kubeconfig=node.kubeconfig, namespace=namespace, helm=program(request.param)
        )
    )
    helm.chmod(0o700)
    yield Administrator(helm, tmp_path, namespace)
    node.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def prepare(node: Node, admin: Administrator) -> tuple[int, int]:
    """Makes the settings folder, and names the images of the tests; gives the two ports."""
    admin.knit(
        *("admin", "prepare", "--namespace", admin.namespace, "--kubeconfig", str(node.kubeconfig)),
        *("--storage-class", node.storage_class, "--with", "knit-temporal"),
    )
    api, registry, *_ = free_node_ports(node)
    few = {"requests": {"cpu": "10m", "memory": "32Mi"}}
    admin.edit("knit-db-postgres", {"image": image(node.image("postgres")), "resources": few})
    admin.edit(
        "knit-image-registry",
        {
            "port": registry,
            "image": image(node.image("registry")),
            "gateway": {"image": image(node.image("nginx"))},
        },
    )
    admin.edit(
        "knit-temporal",
        {
            "server": {"image": image(node.image("temporal")), "resources": few},
            "adminTools": {"image": image(node.image("temporal-tools"))},
            "ui": {"enabled": False},
        },
    )
    admin.edit(
        "knit-app",
        {
            "image": image(node.image("app")),
            "podImage": image(node.image("knit")),
            "api": {"service": {"nodePort": api}},
            "backup": {"enabled": True, "claim": "backups"},
        },
    )
    node.kubectl("create", "namespace", admin.namespace)
    (admin.home / "claim.json").write_text(json.dumps(CLAIM))
    node.kubectl("create", "-n", admin.namespace, "-f", str(admin.home / "claim.json"))
    return api, registry


def test_from_nothing_to_a_run_and_back(
    node: Node, admin: Administrator, request: pytest.FixtureRequest
) -> None:
    api, registry = prepare(node, admin)
    before = admin.knit("admin", "doctor", "--json", code=1).stdout
    states = {(one["check"], one["state"]) for one in json.loads(before)}
    assert {("cluster", "ok"), ("rights", "ok"), ("storage", "ok"), ("helm", "ok")} <= states
    assert ("knit-app", "problem") in states

    began = time.monotonic()
    installed = admin.json("admin", "install", "--json")
    print(f"{time.monotonic() - began:.1f} s, {installed['seconds']}")
    assert installed["apiRoot"] == f"https://{node.address}:{api}/api"
    assert installed["answers"] is True
    trusted = admin.folder / "handouts" / "docker" / "certs.d"
    assert [one.name for one in trusted.iterdir()] == [f"{node.address}:{registry}"]

    # A user with the handout.
    admin.knit("init", str(admin.folder / "handouts" / "knitprofile"))
    admin.variables["KNIT_TOKEN"] = (admin.folder / "bootstrap-token").read_text().strip()
    (admin.home / "plan.yaml").write_text(PLAN.format(image=node.image("busybox")))
    (admin.home / "data").mkdir()
    (admin.home / "data" / "word").write_text("hello")
    admin.knit("plan", "apply", "plan.yaml")
    admin.knit("data", "push", "--tag", "type:word", "data")
    # Without `--transient` it would be found while its Run still writes it.
    [copy] = admin.wait_for("data", "find", "--tag", "type:copy", "--transient", "no")
    admin.knit("data", "pull", "--extract", copy["knitId"], "results")
    assert (admin.home / "results" / copy["knitId"] / "word").read_text() == "hello"

    status = admin.json("admin", "status")
    assert (status["ready"], status["problems"]) == (True, [])
    served = {one["role"] for one in status["inside"]["workers"] if one["workers"]}
    assert served >= {"engine", "compute", "watch", "interactive"}
    assert admin.json("status")["versions"] == status["inside"]["versions"]
    verified = admin.verified()
    assert verified["counted"]["volumes"] == verified["counted"]["Data"] == 2
    found = admin.json("admin", "doctor", "--json")
    ill = [one for one in found if one["state"] not in ("ok", "warning")]
    assert not ill
    assert {"api", "registry", "database", "temporal"} <= {one["check"] for one in found}

    dynamic = [one for one in found if one["message"].startswith("its dynamic configuration")]
    assert [one["state"] for one in dynamic] == ["ok"]

    pruned = admin.knit("admin", "prune-audit", "--older-than", "30d", "--archive", "old.jsonl")
    assert "the audit log has nothing older than 30d" in pruned.stderr

    renew(node, admin, api, registry)
    if "helm-3" in request.node.name:  # neither command uses helm
        freeze_and_thaw(node, admin, copy["knitId"])

    scale_by_hand(node, admin)

    admin.knit("admin", "uninstall", "--yes")
    assert not node.has("deployment", "knit-api", admin.namespace)
    admin.knit("admin", "install")
    wait_for_port(node.address, api)
    assert admin.wait_for("data", "find", "--tag", "type:copy")[0]["knitId"] == copy["knitId"]
    admin.knit("data", "pull", "--extract", copy["knitId"], "again")
    assert (admin.home / "again" / copy["knitId"] / "word").read_text() == "hello"

    only_once = (
        request.node.callspec.params["admin"] == HELMS[0]
    )  # what it shows has nothing to do with helm
    if not only_once:
        back_up_for_knitfab(node, admin)
    else:
        back_up(node, admin)
        back_up_by_schedule(admin)
        look_into_volumes(admin)
        carry_out_the_runbooks(node, admin)
        lose_the_database(node, admin, api)
        rebuild(admin, copy["knitId"])
    admin.knit("admin", "uninstall", "--hard", "--yes")
    left = node.kubectl("get", "pvc,deployments,jobs,pods", "-n", admin.namespace, "-o", "name")
    running = [one for one in left.stdout.split() if not one.startswith("pod/")]
    # The claim that an administrator has made for backups is theirs.
    assert running == ["persistentvolumeclaim/backups"]
    (restore if only_once else move_from_knitfab)(node, admin, api, copy["knitId"])


def scale_by_hand(node: Node, admin: Administrator) -> None:
    """Another number of pods is undone by the next installation, with both helms."""
    target = ("deployment", "knit-worker-interactive")
    node.kubectl("scale", *target, "-n", admin.namespace, "--replicas=2")
    admin.knit("admin", "install")
    assert node.get(*target, admin.namespace)["spec"]["replicas"] == 1


@contextmanager
def own_registry(node: Node, admin: Administrator) -> Iterator[str]:
    """The address of the installation's registry on this machine, past its gateway."""
    command = ["kubectl", f"--kubeconfig={node.kubeconfig}", f"--namespace={admin.namespace}"]
    command += ["port-forward", "deployment/image-registry-registry", ":5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None
        yield forwarding.stdout.readline().split()[2]  # Forwarding from ADDRESS -> 5000
        forwarding.terminate()


def push_image(node: Node, admin: Administrator) -> None:
    """An image whose layer no other has."""
    (admin.home / "tree").mkdir()
    (admin.home / "tree" / "tool").write_bytes(os.urandom(3 << 20))
    with own_registry(node, admin) as registry:
        push_tree(registry, *IMAGE, admin.home / "tree", ImageSettings())


def back_up_for_knitfab(node: Node, admin: Administrator) -> None:
    """All of it in Knitfab's layout, which an administrator of Knitfab has, too."""
    push_image(node, admin)
    made = admin.json("admin", "backup", "knitfab", "--layout", "knitfab", "--images", "--json")
    assert (made["volumes"], made["images"], made["unreadable"]) == (2, True, {})
    there = {
        str(one.relative_to(admin.home / "knitfab")) for one in (admin.home / "knitfab").rglob("*")
    }
    assert there >= {"db/dump.tar.gz", "images/pvc.json", "images/data.tar.gz"}


def move_from_knitfab(node: Node, admin: Administrator, api: int, knit_id: str) -> None:
    """A new installation takes it over: the same Data, Runs and images."""
    admin.knit("admin", "install")
    wait_for_port(node.address, api)
    command = ("admin", "restore", "knitfab", "--layout", "knitfab", "--images")
    admin.json(*command, "--dry-run", "--json")
    with own_registry(node, admin) as registry:
        assert not has_image(registry, *IMAGE)
    moved = admin.json(*command, "--storage-class", node.storage_class, "--json")
    assert (moved["made"], moved["imageBlobs"], moved["already"]) == (2, 3, False)
    with own_registry(node, admin) as registry:
        assert has_image(registry, *IMAGE)
    assert [one["knitId"] for one in admin.json("data", "find", "--tag", "type:copy")] == [knit_id]
    admin.knit("data", "pull", "--extract", knit_id, "moved")
    assert (admin.home / "moved" / knit_id / "word").read_text() == "hello"
    admin.verified()


def back_up(node: Node, admin: Administrator) -> None:
    """Two backups, of which the second reads nothing again."""
    push_image(node, admin)
    made = admin.json("admin", "backup", "kept", "--images", "--json")
    assert made["unreadable"] == {}
    assert made["volumes"] == made["volumesRead"] == 2
    # Its layer, configuration and manifest.
    assert made["imageBlobs"] == made["imageBlobsRead"] == 3
    again = admin.json("admin", "backup", "kept", "--images", "--json", "--keep", "1")
    assert (again["volumes"], again["volumesRead"]) == (2, 0)
    assert (again["imageBlobs"], again["imageBlobsRead"]) == (3, 0)
    assert again["removedSets"] == [made["set"]]


def back_up_by_schedule(admin: Administrator) -> None:
    """The worker takes one at once, into the claim that `backup.claim` names."""
    every = ("admin", "backup", "/backups/knit", "--every", "6h", "--keep", "2", "--json")
    assert admin.json(*every)["schedule"]["destination"] == "/backups/knit"
    ends = time.monotonic() + WITHIN
    while (shown := admin.json(*SCHEDULE, "show")["schedule"])["lastSet"] is None:
        assert time.monotonic() < ends, shown
        time.sleep(1)
    assert not shown["unreadable"]
    assert admin.json("admin", "status")["inside"]["backups"]["last_set"] == shown["lastSet"]
    assert admin.json(*SCHEDULE, "none")["schedule"] is None


def look_into_volumes(admin: Administrator) -> None:
    """Read once, then compared with what was read, then with a backup."""
    looked = ("admin", "verify", "--hashes", "--json")
    first, second, third = (
        admin.json(*looked, *more)["counted"] for more in ((), (), ("--against", "kept"))
    )
    assert (first["contents recorded"], first["contents compared"]) == (2, 0)
    assert (second["contents recorded"], second["contents compared"]) == (0, 2)
    assert third["contents compared with the set"] == 2


def carry_out_the_runbooks(node: Node, admin: Administrator) -> None:
    """Their commands of kubectl that change something, as far as the API server tries them.

    What has no dry run, and does no harm, is done.
    """
    [name] = node.kubectl("get", "nodes", "-o", "name").stdout.split()
    jobs = node.kubectl("get", "jobs", "-n", admin.namespace, "-o", "name").stdout.split()
    values = {
        "NODE": name.partition("/")[2],
        "JOB": "".join(jobs[:1]).partition("/")[2],
        "NAME": "example",
        "knit": admin.namespace,
    }
    tried = Counter[str]()
    for command in changing():
        words = [values.get(word, word) for word in command[1:]]
        verb = words[0]
        if verb in WITH_DRY_RUN:
            words.append("--dry-run=server")
        if verb == "drain":  # what others have on this node is their own
            words.append("--pod-selector=app.kubernetes.io/name=knit-app")
        # This node has no such taint, and there may be no Job just now.
        if verb in ELSEWHERE or "" in words or any(word.startswith("node-role") for word in words):
            continue
        done = node.kubectl(*words, check=verb != "patch")
        # The storage class of this node does not expand claims, which is found out last.
        assert done.returncode == 0 or "must support resize" in done.stderr, done.stderr
        tried[verb] += 1
    assert tried.keys() >= WITH_DRY_RUN | {"exec", "rollout"}, tried


def changing() -> list[tuple[str, ...]]:
    """The commands of kubectl in the runbooks that do more than look, once each."""
    every = {tuple(words) for page in PAGES for words in commands_of(page, "kubectl")}
    return sorted(one for one in every if one[1:2] and one[1] not in ("get", "describe", "logs"))


def lose_the_database(node: Node, admin: Administrator, api: int) -> None:
    """And what Temporal had there; an empty one is made as the page of disasters says."""
    helm = [str(admin.helm), "uninstall", "knit-db-postgres", "-n", admin.namespace]
    reaching = {"PATH": os.environ["PATH"], "KUBECONFIG": str(node.kubeconfig)}
    subprocess.run([*helm, "--wait"], check=True, capture_output=True, env=reaching)
    claim = ("delete", "pvc", "database-pgdata", "-n", admin.namespace)
    node.kubectl(*claim, "--ignore-not-found")
    began = time.monotonic()
    admin.knit("admin", "install")
    wait_for_port(node.address, api)
    print(f"installed on an empty database in {time.monotonic() - began:.1f} s")


def rebuild(admin: Administrator, knit_id: str) -> None:
    """Nobody knows how the Run ended: Temporal's histories are lost, too."""
    command = ("admin", "rebuild", "--unknown-is-done", "--json")
    foreseen, written = admin.json(*command), admin.json(*command, "--write")
    assert (foreseen["written"], written["written"]) == (False, True)
    assert foreseen["found"] == written["found"]
    assert [one["knitId"] for one in admin.json("data", "find", "--tag", "type:copy")] == [knit_id]
    admin.knit("data", "pull", "--extract", knit_id, "rebuilt")
    assert (admin.home / "rebuilt" / knit_id / "word").read_text() == "hello"
    admin.verified()


def restore(node: Node, admin: Administrator, api: int, knit_id: str) -> None:
    """A new installation in place of one that is gone for good: the same Data and Runs."""
    admin.knit("admin", "install")
    wait_for_port(node.address, api)
    whole = admin.json("admin", "restore", "kept", "--dry-run", "--json")
    assert (whole["dryRun"], whole["already"]) == (True, False)
    with own_registry(node, admin) as registry:
        assert not has_image(registry, *IMAGE)
    made = admin.json(
        *("admin", "restore", "kept", "--images", "--json"),
        *("--storage-class", node.storage_class),
    )
    assert (made["made"], made["equal"], made["imageBlobs"]) == (2, 0, 3)
    with own_registry(node, admin) as registry:
        assert has_image(registry, *IMAGE)
    assert [one["knitId"] for one in admin.json("data", "find", "--tag", "type:copy")] == [knit_id]
    admin.knit("data", "pull", "--extract", knit_id, "restored")
    assert (admin.home / "restored" / knit_id / "word").read_text() == "hello"
    assert admin.json("admin", "restore", "kept", "--json")["already"] is True
    reading = ("get", "pods", "-n", admin.namespace, "-l", "knit/backup", "-o", "name")
    assert node.kubectl(*reading).stdout == ""


def freeze_and_thaw(node: Node, admin: Administrator, knit_id: str) -> None:
    """A Run under way is ended; the script of the freeze and a thaw bring everything back."""
    slow = PLAN.format(image=node.image("busybox")).replace("cat /in/word >", "sleep 600 >")
    (admin.home / "slow.yaml").write_text(slow.replace("type:copy", "type:slow"))
    plan = admin.json("plan", "apply", "slow.yaml")
    asked = ("run", "find", "--planid", plan["planId"])
    [run] = admin.wait_for(*asked, "--status", "running")
    foreseen = admin.knit("admin", "freeze", "--fail", "--dry-run").stdout
    assert f"Runs under way: 1 running ({run['runId']}): they are ended as failed" in foreseen

    began = time.monotonic()
    admin.knit("admin", "freeze", "--fail")
    print(f"frozen in {time.monotonic() - began:.1f} s")
    listed = node.kubectl("get", "deployments", "-n", admin.namespace, "-o", "json").stdout
    counts = {
        one["metadata"]["name"]: one["spec"]["replicas"] for one in json.loads(listed)["items"]
    }
    parts = [name for name in counts if name.startswith("knit-") or "registry" in name]
    assert len(parts) == 8
    assert not any(counts[name] for name in parts)
    assert counts["database-postgres"] == 1
    pods = json.loads(node.kubectl("get", "pods", "-n", admin.namespace, "-o", "json").stdout)
    about = [one["metadata"] for one in pods["items"]]
    names = [one["name"] for one in about if "deletionTimestamp" not in one]
    assert not [one for one in names if one.startswith(("knit-api", "knit-worker", "knit-freeze"))]
    assert admin.knit("admin", "status", code=1)

    script = admin.home / "system-unfreeze.sh"
    subprocess.run([script], check=True, capture_output=True)
    admin.knit("admin", "thaw")  # nothing is left of the freeze
    api = ("-n", admin.namespace, "deployment/knit-api", "--timeout=5m")
    node.kubectl("rollout", "status", *api)
    [failed] = admin.wait_for(*asked, "--status", "failed")
    assert failed["exit"] == {"code": 253, "message": "aborted by user"}
    admin.knit("run", "rm", run["runId"])
    admin.knit("data", "pull", "--extract", knit_id, "after")


def renew(node: Node, admin: Administrator, api: int, registry: int) -> None:
    """A renewed certificate is served by both without a restart."""
    selector = "custom-columns=U:.metadata.uid"
    # Without those of Jobs, such as the one that has just looked through the audit log: they go.
    command = ("get", "pods", "-n", admin.namespace, "-l", "app.kubernetes.io/name in "
               "(knit-app,knit-image-registry),app.kubernetes.io/component notin "
               "(migrate,bootstrap)", "-o", selector)  # fmt: skip
    before = set(node.kubectl(*command).stdout.split())
    admin.knit("admin", "renew-certs")
    wanted = (admin.folder / "certs" / "server.crt").read_text().strip()
    began = time.monotonic()
    for port in (api, registry):
        while served_certificate(node.address, port).strip() != wanted:
            assert time.monotonic() - began < WITHIN, port
        print(f"port {port} serves the new certificate after {time.monotonic() - began:.1f} s")
    assert before <= set(node.kubectl(*command).stdout.split())
