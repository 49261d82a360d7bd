"""`knit admin` on the real node, with real helm: from nothing to a Run, and back to nothing.

The node's kernel has no NFS client, so its own StorageClass takes the place of knit-storage-nfs. It
has no cluster DNS either, so helm is told the addresses of two Services in place of their names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from knit_workflows import names
from knit_workflows.backup.pods import TRANSFER_ID
from tests.charts.administrator import WITHIN, Administrator, helm_without_dns
from tests.charts.helm import HELMS, program
from tests.charts.node import Node, free_node_ports, served_certificate, start_node
from tests.charts.parts_killed import kill_the_parts
from tests.charts.rehearsal import drill_namespace, rehearse
from tests.charts.runbooks import carry_out_the_runbooks
from tests.charts.test_parts_on_node import image
from tests.cluster.registry import ImageSettings, has_image, push_tree
from tests.waiting import wait_for_port, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
PLAN = """\
image: {image}
entrypoint: ["/bin/sh", "-c", "cat /in/word > /out/word"]
inputs: [{{path: /in, tags: ["type:word"]}}]
outputs: [{{path: /out, tags: ["type:copy"]}}]
resources: {{cpu: 10m, memory: 32Mi}}
"""

CLAIM: Final = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "backups"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
}
IMAGE: Final = ("team/tool", "1")
INTERACTIVE: Final = ("deployment", "knit-worker-interactive")
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
    helm = helm_without_dns(program(request.param), node.kubeconfig, namespace, tmp_path)
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
            "networkPolicy": {"extraFrom": [in_namespace(drill_namespace(admin))]},
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


def in_namespace(name: str) -> dict[str, Any]:
    """All pods of a namespace, as a NetworkPolicy says it."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


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
        freeze_when_all_is_done(node, admin, api)

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
    )  # neither has what they show to do with helm
    if not only_once:
        kill_the_parts(node, admin)
        back_up_for_knitfab(node, admin)
    else:
        slow = begin(node, admin, "slower", "sleep 3000")
        back_up(node, admin)
        rehearse(node, admin, program(HELMS[0]), admin.home / "kept", slow["runId"])
        back_up_by_schedule(admin)
        look_into_volumes(admin)
        carry_out_the_runbooks(node, admin)
        forget(admin, slow)
        lose_the_database(node, admin, api)
        rebuild(admin, copy["knitId"])
    admin.knit("admin", "uninstall", "--hard", "--yes")
    left = node.kubectl("get", "pvc,deployments,jobs,pods", "-n", admin.namespace, "-o", "name")
    running = [one for one in left.stdout.split() if not one.startswith("pod/")]
    # The claim that an administrator has made for backups is theirs.
    assert running == ["persistentvolumeclaim/backups"]
    (restore if only_once else move_from_knitfab)(node, admin, api, copy["knitId"])


def scale_by_hand(node: Node, admin: Administrator) -> None:
    """Another number of pods is undone by the next upgrade, with both helms."""
    node.kubectl("scale", *INTERACTIVE, "-n", admin.namespace, "--replicas=2")
    admin.knit("admin", "upgrade")
    assert node.get(*INTERACTIVE, admin.namespace)["spec"]["replicas"] == 1


def own_registry(node: Node, admin: Administrator) -> AbstractContextManager[str]:
    """The address of the installation's registry on this machine, past its gateway."""
    return node.forwarded("-n", admin.namespace, "deployment/image-registry-registry", ":5000")


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
    """Killed twice, then whole while a Run is under way; the next one reads nothing again."""
    push_image(node, admin)
    command = ("admin", "backup", "kept", "--images", "--json")
    for reads in (reads_images, reads_volumes):
        kill_when(reads, node, admin, *command)
        assert admin.json("admin", "restore", "kept", "--list", "--json") == []
    made = admin.json(*command)
    assert (made["unreadable"], made["runsUnderWay"]) == ({}, 1)
    # What was read by those that were killed need not be read again.
    assert made["volumesRead"] <= made["volumes"] == 2
    # Its layer, configuration and manifest.
    assert made["imageBlobsRead"] <= made["imageBlobs"] == 3
    again = admin.json(*command, "--keep", "1")
    assert (again["volumes"], again["volumesRead"]) == (2, 0)
    assert (again["imageBlobs"], again["imageBlobsRead"]) == (3, 0)
    assert again["removedSets"] == [made["set"]]
    leave_nothing_of_killed_ones(node, admin)


def kill_when(
    far_enough: Callable[[Node, Administrator], bool],
    node: Node,
    admin: Administrator,
    *command: str,
) -> None:
    """Kills a command of knit as soon as it is far enough."""
    process = admin.start(*command)
    try:
        wait_until(lambda: process.poll() is not None or far_enough(node, admin))
    finally:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"{command}\n{out}\n{err}"


def reads_images(_: Node, admin: Administrator) -> bool:
    """The image's layer, which is larger than all else, is being stored or is stored."""
    size = 0
    for file in (admin.home / "kept").rglob("*"):
        with suppress(FileNotFoundError):  # it has just got its name
            size = max(size, file.stat().st_size)
    return size > 1 << 20


def reads_volumes(node: Node, admin: Administrator) -> bool:
    """Pods that read volumes are there."""
    reading = ("-n", admin.namespace, "-l", names.LABEL_AGENT_KNIT_ID, "-o", "name")
    return f"-{TRANSFER_ID}" in node.kubectl("get", "pods", *reading).stdout


def leave_nothing_of_killed_ones(node: Node, admin: Administrator) -> None:
    """As the page about backups says; those of the commands that have ended are gone."""
    left = ("pods", "-n", admin.namespace, "-l", "knit/backup")
    assert len(node.kubectl("get", *left, "-o", "name").stdout.split()) == 4
    node.kubectl("delete", *left)


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


def lose_the_database(node: Node, admin: Administrator, api: int) -> None:
    """And what Temporal had there; an empty one is made as the page of disasters says."""
    helm = [str(admin.helm), "uninstall", "knit-db-postgres", "-n", admin.namespace]
    own = {"HOME": str(admin.home), "KUBECONFIG": str(node.kubeconfig)}
    subprocess.run(
        [*helm, "--wait"], check=True, capture_output=True, env={"PATH": os.environ["PATH"], **own}
    )
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


def begin(node: Node, admin: Administrator, kind: str, script: str) -> Any:
    """A Run that is under way, of a Plan of its own."""
    plan = PLAN.format(image=node.image("busybox")).replace("cat /in/word > /out/word", script)
    (admin.home / f"{kind}.yaml").write_text(plan.replace("type:copy", f"type:{kind}"))
    plan_id = admin.json("plan", "apply", f"{kind}.yaml")["planId"]
    [run] = admin.wait_for("run", "find", "--planid", plan_id, "--status", "running")
    return run


def forget(admin: Administrator, run: Any) -> None:
    """Has a Run that is under way leave nothing to what comes next."""
    admin.knit("plan", "active", "no", run["plan"]["planId"])
    admin.knit("run", "stop", "--fail", run["runId"])
    admin.wait_for("run", "find", "--planid", run["plan"]["planId"], "--status", "failed")
    admin.knit("run", "rm", run["runId"])


def freeze_and_thaw(node: Node, admin: Administrator, knit_id: str) -> None:
    """A Run under way is ended; the script of the freeze and a thaw bring everything back."""
    run = begin(node, admin, "slow", "sleep 600")
    foreseen = admin.knit("admin", "freeze", "--fail", "--dry-run").stdout
    assert f"Runs under way: 1 running ({run['runId']}): they are ended as failed" in foreseen

    began = time.monotonic()
    admin.knit("admin", "freeze", "--fail")
    print(f"frozen in {time.monotonic() - began:.1f} s")
    is_frozen(node, admin)
    assert admin.knit("admin", "status", code=1)

    script = admin.home / "system-unfreeze.sh"
    subprocess.run([script], check=True, capture_output=True)
    admin.knit("admin", "thaw")  # nothing is left of the freeze
    api = ("-n", admin.namespace, "deployment/knit-api", "--timeout=5m")
    node.kubectl("rollout", "status", *api)
    asked = ("run", "find", "--planid", run["plan"]["planId"])
    [failed] = admin.wait_for(*asked, "--status", "failed")
    assert failed["exit"] == {"code": 253, "message": "aborted by user"}
    admin.knit("run", "rm", run["runId"])
    admin.knit("data", "pull", "--extract", knit_id, "after")


def freeze_when_all_is_done(node: Node, admin: Administrator, api: int) -> None:
    """A Run under way ends by itself before; as many workers come back as somebody had wanted."""
    node.kubectl("scale", *INTERACTIVE, "-n", admin.namespace, "--replicas=2")
    run = begin(node, admin, "patient", "until [ -e /out/go ]; do sleep 0.1; done")
    pod = ("-n", admin.namespace, "-l", f"{names.LABEL_RUN}={run['runId']}", "-o", "name")
    [name] = node.kubectl("get", "pods", *pod).stdout.split()
    freezing = admin.start("admin", "freeze")
    assert freezing.stderr is not None
    waits = f"waits for what is under way. Runs under way: 1 running ({run['runId']})"
    assert any(waits in line for line in freezing.stderr)
    place = ("-n", admin.namespace, name, "--container", "main")
    node.kubectl("exec", *place, "--", "touch", "/out/go")
    out, err = freezing.communicate()
    assert freezing.returncode == 0, f"{out}\n{err}"
    is_frozen(node, admin)

    admin.knit("admin", "thaw")
    assert node.get(*INTERACTIVE, admin.namespace)["spec"]["replicas"] == 2
    wait_for_port(node.address, api)
    assert admin.json("run", "show", run["runId"])["status"] == "done"
    admin.knit("plan", "active", "no", run["plan"]["planId"])
    admin.knit("run", "rm", run["runId"])


def is_frozen(node: Node, admin: Administrator) -> None:
    """All of knit is at 0, and its database is up."""
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
    left = [one["name"] for one in about if "deletionTimestamp" not in one]
    assert not [one for one in left if one.startswith(("knit-api", "knit-worker", "knit-freeze"))]


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
