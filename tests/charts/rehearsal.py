"""The rehearsal of the page of disasters, as it is written there, beside an installation in use."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from knit_workflows import names
from tests.charts.administrator import Administrator, helm_without_dns
from tests.charts.node import Node
from tests.charts.test_parts_on_node import image
from tests.docs.blocks import blocks

_PAGE: Final = Path(__file__).parents[2] / "docs" / "operations" / "disasters.md"
_FEW: Final = {"requests": {"cpu": "10m", "memory": "32Mi"}}


def drill_namespace(live: Administrator) -> str:
    return f"{live.namespace}-drill"


def rehearse(node: Node, live: Administrator, helm: Path, kept: Path, slow_id: str) -> None:
    """A backup is restored beside the installation that is in use, which does not notice.

    `slow_id`: a Run of that, under way since before the backup `kept` was taken.
    """
    before = seen(node, live, slow_id)
    with drill(node, live, helm) as other, node.another_class(live.home / "volumes") as fast:
        frontend = f"{node.cluster_ip('temporal-frontend', live.namespace)}:7233"
        prepare, ports, install, try_it, restore, verify, uninstall, forget = written(
            {
                "--namespace drill": f"--namespace {other.namespace}",
                "--storage-class shared": f"--storage-class {node.storage_class}",
                "--storage-class fast": f"--storage-class {fast}",
                "temporal-frontend.temporal:7233": frontend,
                "s3://bucket/knit": str(kept),
            }
        )
        other.knit(*prepare[1:])
        subprocess.run(ports, cwd=other.home, check=True)
        name_images(node, other)
        with timed("rehearsal: installed"):
            other.knit(*install[1:])
        tried = other.json(*try_it[1:], "--json")
        assert (tried["dryRun"], tried["already"], tried["runsUnderWay"]) == (True, False, 1)
        with timed("rehearsal: restored"):
            restored = other.json(*restore[1:], "--json")
        assert (restored["made"], restored["equal"]) == (tried["volumes"], 0)
        with timed("rehearsal: verified"):
            other.knit(*verify[1:])
        use(other)
        is_as_it_was(node, live, other, fast)
        retry(other, slow_id)
        goes_on(live, other)
        with timed("rehearsal: uninstalled"):
            other.knit(*uninstall[1:], "--yes")  # nobody is there to be asked
        is_gone(node, other)
        temporal = Path(sys.executable).with_name("temporal")
        subprocess.run([temporal, *forget[1:]], check=True, capture_output=True)
    assert seen(node, live, slow_id) == before
    assert live.json("admin", "status")["ready"] is True


def written(values: Mapping[str, str]) -> list[list[str]]:
    """The commands of the page, in their order, with values of this node in place of the page's."""
    [block] = [one for one in blocks(_PAGE, "sh") if "--settings drill" in one]
    for word, value in values.items():
        assert word in block, word
        block = block.replace(word, value)
    return [shlex.split(line) for line in re.sub(r"\\\n\s*", " ", block).splitlines()]


@contextmanager
def drill(node: Node, live: Administrator, helm: Path) -> Iterator[Administrator]:
    """The same administrator in another folder, with a namespace that is gone afterwards."""
    namespace, home = drill_namespace(live), live.home / "rehearsal"
    home.mkdir()
    wrapped = helm_without_dns(helm, node.kubeconfig, namespace, home)
    usual = {"KUBECONFIG": str(node.kubeconfig)}
    try:
        yield Administrator(wrapped, home, namespace, usual, settings="drill")
    finally:
        node.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


def name_images(node: Node, other: Administrator) -> None:
    """Those of the node, where the charts' own cannot be pulled."""
    other.edit("knit-db-postgres", {"image": image(node.image("postgres")), "resources": _FEW})
    images = {"image": image(node.image("app")), "podImage": image(node.image("knit"))}
    other.edit("knit-app", images)


def use(other: Administrator) -> None:
    """As a user with the handout, and the new installation's own token."""
    other.knit("init", str(other.folder / "handouts" / "knitprofile"))
    other.variables["KNIT_TOKEN"] = (other.folder / "bootstrap-token").read_text().strip()


def is_as_it_was(node: Node, live: Administrator, other: Administrator, fast: str) -> None:
    """The same Data and Runs; volumes are of the class that the restore was told."""
    assert data(other) == data(live)
    done = ("run", "find", "--status", "done")
    assert other.json(*done) == live.json(*done)
    of_data = {names.volume(one["knitId"]) for one in data(live)}
    made = claims(node, other)
    assert {made[name]["spec"]["storageClassName"] for name in of_data} == {fast}


def data(one: Administrator) -> Any:
    """Each Data with its tags, its time among them, and what made it; not what uses it now."""
    found = one.json("data", "find", "--transient", "no")
    assert found
    return [{key: each[key] for key in ("knitId", "tags", "upstream")} for each in found]


def claims(node: Node, one: Administrator) -> dict[str, Any]:
    listed = node.kubectl("get", "pvc", "-n", one.namespace, "-o", "json").stdout
    return {each["metadata"]["name"]: each for each in json.loads(listed)["items"]}


def retry(other: Administrator, slow_id: str) -> None:
    """The Run that was under way has failed, and says why; retried it begins anew."""
    [failed] = other.json("run", "find", "--status", "failed")
    assert failed["runId"] == slow_id
    assert failed["exit"]["message"].startswith("under way when the backup of ")
    assert failed["exit"]["message"].endswith("knit run retry")
    other.knit("run", "retry", slow_id)
    [again] = other.wait_for("run", "find", "--status", "running")
    assert again["runId"] == slow_id


def goes_on(live: Administrator, other: Administrator) -> None:
    """What is new has its Run; by then those that are known would have been executed again."""
    [copy] = live.json("data", "find", "--tag", "type:copy", "--transient", "no")
    of_plan = ("run", "find", "--planid", copy["upstream"]["run"]["plan"]["planId"])
    [known] = other.json(*of_plan)
    source = live.home / "data"
    with timed("rehearsal: a push, until its Run was done"):
        pushed = other.json("data", "push", "--tag", "type:word", str(source))["knitId"]
        [new] = other.wait_for(*of_plan, "--in-knitid", pushed, "--status", "done")
    assert sorted(one["runId"] for one in other.json(*of_plan)) == sorted(
        one["runId"] for one in (known, new)
    )
    made = new["outputs"][0]["knitId"]
    for knit_id in (copy["knitId"], made):
        other.knit("data", "pull", "--extract", knit_id, "results")
        word = (other.home / "results" / knit_id / "word").read_text()
        assert word == (source / "word").read_text()


def is_gone(node: Node, other: Administrator) -> None:
    kinds = "pvc,deployments,jobs,services,secrets"
    left = node.kubectl("get", kinds, "-n", other.namespace, "-o", "name").stdout.split()
    assert left == []


def seen(node: Node, live: Administrator, slow_id: str) -> dict[str, Any]:
    """What must not change: Data with their volumes, and the Run under way with its pod."""
    run = live.json("run", "show", slow_id)
    assert run["status"] == "running"
    found = data(live)
    of_data = {names.volume(one["knitId"]) for one in (*found, *run["outputs"])}
    selected = ("-n", live.namespace, "-l", f"{names.LABEL_RUN}={slow_id}")
    [pod] = json.loads(node.kubectl("get", "pods", *selected, "-o", "json").stdout)["items"]
    return {
        "data": found,
        "run": run,
        "pod": (pod["metadata"]["uid"], pod["status"]["phase"]),
        "volumes": {
            name: (claim["metadata"]["uid"], claim["spec"])
            for name, claim in claims(node, live).items()
            if name in of_data
        },
    }


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what} in {time.monotonic() - began:.1f} s")
