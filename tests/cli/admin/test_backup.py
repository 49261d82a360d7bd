"""`knit admin backup` and `restore` on a cluster: what kubectl is asked, and through its pipe."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from knit_cli.admin.backup.contents import opened_set
from knit_cli.admin.backup.on_cluster import ClusterInstallation
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.job_pod import migration_of
from knit_cli.errors import CliError
from knit_workflows import archive
from knit_workflows.backup.content.checking import Choice, ContentCheck
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import choose_set, restore
from knit_workflows.backup.taking import take_backup
from knit_workflows.names import volume
from tests.postgres import Databases
from tests.store.build import upload
from tests.unit.backup.memory import Silent

pytestmark = pytest.mark.patient  # each starts kubectl's stand-in many times

ROOT = Path(__file__).parents[3]


def template(account: str, **container: Any) -> dict[str, Any]:
    one = {"name": "main", "image": "knit:1", "command": ["x"], **container}
    labels = {"app.kubernetes.io/component": account, "app.kubernetes.io/instance": "knit-app"}
    spec = {"serviceAccountName": account, "containers": [one]}
    return {"spec": {"template": {"metadata": {"labels": labels}, "spec": spec}}}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    job = {**template("knit-jobs"), "metadata": {"name": "migrate-1"}}
    (tmp_path / "jobs").write_text(json.dumps({"items": [job]}))
    probed = {"readinessProbe": {"httpGet": {}}, "ports": [{"containerPort": 1}]}
    worker = template("knit-worker-interactive", **probed)
    (tmp_path / "deployment").write_text(json.dumps(worker))
    (tmp_path / "pods").write_text("pod/other\npod/knitid-1-read-backup12ab\n")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.cli.admin.far_side "$@"\n')
    kubectl.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "KUBECTL": str(kubectl)}
    return Cluster(None, "here", {**variables, "FAR_HOME": str(tmp_path)}, cwd=ROOT)


def of(cluster: Cluster, url: str, home: Path) -> ClusterInstallation:
    """The installation with this database, and volumes in this folder."""
    (home / "volumes").mkdir(parents=True, exist_ok=True)
    for name in ("jobs", "deployment", "pods"):
        (home / name).write_bytes((Path(cluster.variables["FAR_HOME"]) / name).read_bytes())
    variables = {
        **cluster.variables,
        "KNIT_STORE__URL": url,
        "KNIT_COMPUTE__KUBERNETES__VOLUME_FOLDERS": "/mnt/share/{pv}",  # of no use to it
        "FAR_HOME": str(home),
    }
    return ClusterInstallation(replace(cluster, variables=variables), "fast")


async def test_it_goes_through_the_pipe_and_back(
    cluster: Cluster, databases: Databases, tmp_path: Path
):
    kept = open_destination("kept", tmp_path, new=True)
    async with databases.store() as (store, url), databases.store() as (_, other):
        source, target = (
            of(cluster, *one) for one in ((url, tmp_path / "a"), (other, tmp_path / "b"))
        )
        ids = [await upload(store, "a:1") for _ in range(3)]
        for number, one in enumerate(ids):
            folder = tmp_path / "a" / "volumes" / volume(one)
            folder.mkdir()
            (folder / "file").write_bytes(bytes([number]) * 3_000_000)
        with source.at_work():
            made = take_backup(source, kept, Silent())
        assert (made.read, made.set.unreadable) == (3, {})
        with target.at_work():
            done = restore(kept, choose_set(kept, None), target, Silent(), by="me")
            assert done.made == 3
    for one in ids:
        found, copy = (tmp_path / which / "volumes" / volume(one) for which in "ab")
        assert [*archive.iter_pack(found)] == [*archive.iter_pack(copy)]


async def test_contents_are_hashed_at_the_far_side_and_compared(
    cluster: Cluster, databases: Databases, tmp_path: Path
):
    """Also with a set of a backup; only hashes come through the pipe."""
    async with databases.store() as (store, url):
        source = of(cluster, url, tmp_path / "a")
        one = await upload(store, "a:1")
        folder = tmp_path / "a" / "volumes" / volume(one)
        folder.mkdir()
        (folder / "file").write_bytes(b"content")
        with source.at_work(), opened_set(None, None, tmp_path) as nothing:
            assert list(ContentCheck(source, Choice(), Silent(), nothing).changes()) == []
            take_backup(source, open_destination("kept", tmp_path, new=True), Silent())
            (folder / "file").write_bytes(b"changed")
            with opened_set("kept", None, tmp_path) as in_set:
                [found] = ContentCheck(source, Choice(), Silent(), in_set).changes()
            assert "is not that of the set" in found.message
            [found] = ContentCheck(source, Choice((one,)), Silent()).changes()
            assert "has changed since" in found.message
            accepted = Choice((one,), accepted_by="ann")
            assert list(ContentCheck(source, accepted, Silent()).changes()) == []
            assert list(ContentCheck(source, Choice(), Silent()).changes()) == []


def test_its_pods_have_the_rights_of_others_and_go(cluster: Cluster, tmp_path: Path):
    with ClusterInstallation(cluster).at_work():
        calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    made = [json.loads(given) for words, given in calls if "create" in words]
    suffix = made[0]["metadata"]["labels"]["knit/backup"]
    assert [one["metadata"]["name"] for one in made] == [
        f"knit-backup-database-{suffix}",
        f"knit-backup-volumes-{suffix}",
    ]
    accounts = [one["spec"]["serviceAccountName"] for one in made]
    assert accounts == ["knit-jobs", "knit-worker-interactive"]
    [container] = made[1]["spec"]["containers"]
    assert container["command"][0] == "sleep"
    assert container.keys() == {"name", "image", "command"}
    assert "app.kubernetes.io/instance" not in made[1]["metadata"]["labels"]


def test_the_newest_migration_is_copied_whatever_its_name(cluster: Cluster, tmp_path: Path):
    jobs = [
        {**template("old"), "metadata": {"name": name, "creationTimestamp": created}}
        for name, created in (
            ("migrate-10", "2026-02-01T00:00:00Z"),
            ("migrate-9", "2026-01-01T00:00:00Z"),
        )
    ]
    (tmp_path / "jobs").write_text(json.dumps({"items": jobs}))
    assert migration_of(cluster)["metadata"]["name"] == "migrate-10"


def test_a_command_leaves_the_pods_of_another_alone(cluster: Cluster, tmp_path: Path):
    def calls() -> list[list[str]]:
        return [json.loads(line)[0][2:] for line in (tmp_path / "calls").read_text().splitlines()]

    with ClusterInstallation(cluster).at_work():
        before = calls()
        with ClusterInstallation(cluster).at_work():
            pass
        others = calls()[len(before) :]
    made = [words for words in calls() if words[0] == "wait"]
    assert len({pod for words in made for pod in words if pod.startswith("pod/")}) == 4
    gone = [word for words in others if words[0] == "delete" for word in words]
    assert not [pod for pod in made[0] if pod.startswith("pod/") and pod[4:] in gone]
    assert "pod/knitid-1-read-backup12ab" in gone  # has ended, as the next call has asked
    [deleted] = [words for words in others if "pod/knitid-1-read-backup12ab" in words]
    assert not [word for word in deleted if word.startswith("--grace-period")]  # it may undo
    assert "pod/other" not in gone
    asked = [words for words in others if "--field-selector" in words]
    assert all(words[-1] == "status.phase!=Running,status.phase!=Pending" for words in asked)
    assert [words[0] for words in asked] == ["delete", "get"]


def test_a_pipe_that_is_cut_is_told(cluster: Cluster, tmp_path: Path):
    (tmp_path / "cut").touch()
    with pytest.raises(BackupProblem, match="the connection to the installation was cut"):
        ClusterInstallation(cluster).look()
    with pytest.raises(BackupProblem, match="does not answer"):
        of(cluster, "postgresql://nobody@127.0.0.1:9/x", tmp_path / "a").look()


def test_without_knit_it_says_so(cluster: Cluster, tmp_path: Path):
    (tmp_path / "jobs").write_text('{"items": []}')
    with (
        pytest.raises(CliError, match="not installed in namespace here"),
        ClusterInstallation(cluster).at_work(),
    ):
        pass
