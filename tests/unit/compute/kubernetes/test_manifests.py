"""Manifests are Knitfab's, hardened."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.base import RunPod, Transfer, TransferMode
from knit_workflows.compute.kubernetes import prerequisites
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import BackendRejected
from knit_workflows.domain.plans.model import NodeMode, NodeRule
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import KubernetesSettings

SETTINGS = KubernetesSettings(kube_namespace="ns", pod_image="pod:1", version="v9")
IN = Volume("data-knitid-aa", "aa")
OUT = Volume("data-knitid-bb", "bb")
LOG = Volume("data-knitid-cc", "cc")
POD = RunPod(
    name="worker-run-r1-2",
    run_id="r1",
    generation=2,
    plan_id="p1",
    image="localhost:30503/trainer:v1",
    inputs=(Mount("/in/1", IN), Mount("/in/2", IN)),
    outputs=(Mount("/out", OUT),),
    log=LOG,
    entrypoint=("python",),
    args=("train.py", "--deep"),
    resources={"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
    env={"A": "b"},
)


def spec_of(pod: RunPod, settings: KubernetesSettings = SETTINGS) -> dict:
    return manifests.run_job(pod, settings)["spec"]["template"]["spec"]


def container(spec: dict, name: str) -> dict:
    everyone = [*spec["containers"], *spec.get("initContainers", [])]
    return next(each for each in everyone if each["name"] == name)


def test_job_and_pods_are_labelled_alike():
    job = manifests.run_job(POD, SETTINGS)
    assert job["metadata"]["name"] == "worker-run-r1-2"
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/version": "v9",
        "app.kubernetes.io/name": "worker",
        "app.kubernetes.io/instance": "worker-run-r1-2",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "knit",
        "app.kubernetes.io/managed-by": "knit",
        "knit/worker.runid": "r1",
        "knit/worker.run": "r1",
        "knit/worker.plan": "p1",
        "knit/worker.generation": "2",
    }
    assert job["spec"]["template"]["metadata"]["labels"] == job["metadata"]["labels"]


def test_a_job_runs_its_pod_once():
    job = manifests.run_job(POD, SETTINGS)
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["parallelism"] == 1
    spec = spec_of(POD)
    assert spec["restartPolicy"] == "Never"
    assert spec["enableServiceLinks"] is False


def test_main_gets_what_the_plan_says_and_not_the_log():
    main = container(spec_of(POD), "main")
    assert main["image"] == "localhost:30503/trainer:v1"
    assert main["command"] == ["/.knit/knit-pod", "run", "/.knit", "1", "/out", "python"]
    assert main["args"] == ["train.py", "--deep"]
    assert main["env"] == [{"name": "A", "value": "b"}]
    assert main["volumeMounts"] == [
        {"name": "aa", "mountPath": "/in/1", "readOnly": True},
        {"name": "aa", "mountPath": "/in/2", "readOnly": True},
        {"name": "bb", "mountPath": "/out", "readOnly": False},
        {"name": "knit", "mountPath": "/.knit", "readOnly": True},
    ]
    assert main["resources"]["limits"] == POD.resources
    assert main["resources"]["requests"] == POD.resources
    assert "imagePullPolicy" not in main


def test_dollars_reach_the_container_as_they_are():
    main = container(
        spec_of(replace(POD, entrypoint=("$0",), args=("$$", "$(A)"), env={"B": "$(A)"})), "main"
    )
    assert main["command"][-1] == "$$0"
    assert main["args"] == ["$$$$", "$$(A)"]
    assert main["env"] == [{"name": "B", "value": "$$(A)"}]


def test_empty_command_and_arguments_are_the_images_own():
    main = container(spec_of(replace(POD, entrypoint=(), args=(), env={})), "main")
    assert not {"command", "args", "env"} & main.keys()


def test_a_volume_is_declared_once_under_its_knit_id():
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in spec_of(POD)["volumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {"aa": "data-knitid-aa", "bb": "data-knitid-bb", "cc": "data-knitid-cc"}


ENTRYPOINT_OF_THE_IMAGE = replace(POD, entrypoint=())
"""Such a Plan's command is not known: its log is read from the API."""


def test_a_known_command_is_started_by_a_program_that_needs_nothing_of_its_image():
    """Two containers, of which the first must be ready; no rights, no init container."""
    spec = spec_of(POD)
    assert "initContainers" not in spec
    assert [each["name"] for each in spec["containers"]] == ["nurse", "main"]
    nurse = spec["containers"][0]
    assert nurse["command"] == ["knit-pod"]
    assert nurse["args"] == ["record", "/.knit", "/log", "/out", "/outputs/out"]
    hook = {"postStart": {"exec": {"command": ["knit-pod", "ready", "/.knit"]}}}
    assert nurse["lifecycle"] == hook
    assert nurse["volumeMounts"] == [
        {"name": "cc", "mountPath": "/log", "readOnly": False},
        {"name": "bb", "mountPath": "/outputs/out", "readOnly": False},
        {"name": "knit", "mountPath": "/.knit"},
    ]
    assert {"name": "knit", "emptyDir": {}} in spec["volumes"]
    assert not [each for each in spec["volumes"] if "secret" in each]


def test_people_who_ask_for_a_pods_log_get_the_users():
    about = manifests.run_job(POD, SETTINGS)["spec"]["template"]["metadata"]["annotations"]
    assert about == {"kubectl.kubernetes.io/default-container": "main"}


def test_the_program_lies_where_no_mountpoint_of_the_plan_does():
    for path in ("/.knit", "/.knit/a"):
        spec = spec_of(replace(POD, outputs=(Mount(path, OUT),)))
        mounts = container(spec, "main")["volumeMounts"]
        assert {"name": "knit", "mountPath": "/.knit-1", "readOnly": True} in mounts
        start = container(spec, "main")["command"]
        assert start[:5] == ["/.knit-1/knit-pod", "run", "/.knit-1", "1", path]


def test_dollars_in_mountpoints_reach_the_program():
    spec = spec_of(replace(POD, outputs=(Mount("/a$(B)", OUT),)))
    assert container(spec, "nurse")["args"][-2:] == ["/a$$(B)", "/outputs/a$$(B)"]
    assert container(spec, "main")["command"][4] == "/a$$(B)"


@pytest.mark.parametrize(
    ("pod", "settings"),
    [(ENTRYPOINT_OF_THE_IMAGE, SETTINGS), (POD, SETTINGS.model_copy(update={"supervise": False}))],
    ids=["unknown command", "not wanted"],
)
def test_other_logs_are_read_from_the_api(pod: RunPod, settings: KubernetesSettings):
    spec = spec_of(pod, settings)
    main = container(spec, "main")
    assert main.get("command", []) == list(pod.entrypoint)
    assert not [each for each in main["volumeMounts"] if each["name"] == "knit"]
    # Started in this order, so the reader is there when there is something to read.
    assert [each["name"] for each in spec["containers"]] == ["nurse", "main"]


def test_outputs_and_log_are_checked_to_be_empty_before_main():
    alone = SETTINGS.model_copy(update={"supervise": False})
    for pod, settings, paths in (
        (ENTRYPOINT_OF_THE_IMAGE, SETTINGS, {"/out": "bb", "/log": "cc"}),
        (replace(ENTRYPOINT_OF_THE_IMAGE, log=None), SETTINGS, {"/out": "bb"}),
        (replace(POD, log=None), alone, {"/out": "bb"}),
    ):
        (check,) = spec_of(pod, settings)["initContainers"]
        assert check["command"] == ["knit-pod"]
        named = [word for path in paths for word in (path, f"/outputs{path}")]
        assert check["args"] == ["check", "--as", *named]
        assert check["volumeMounts"] == [
            {"name": name, "mountPath": f"/outputs{path}", "readOnly": False}
            for path, name in paths.items()
        ]


@pytest.mark.parametrize("path", ["/usr/local", "/usr/local/bin", "/usr", "/knit-pod"])
def test_no_output_hides_knits_own_program(path: str):
    """Which lies there in knit's image: the container could not even be started."""
    outputs = (Mount(path, OUT),)
    for pod in (POD, ENTRYPOINT_OF_THE_IMAGE, replace(ENTRYPOINT_OF_THE_IMAGE, log=None)):
        spec = spec_of(replace(pod, outputs=outputs))
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            if each["name"] != "main":
                assert path not in [one["mountPath"] for one in each["volumeMounts"]]


def test_without_a_log_the_nurse_lets_main_start_and_no_more():
    spec = spec_of(replace(POD, log=None))
    assert [each["name"] for each in spec["containers"]] == ["nurse", "main"]
    assert "initContainers" not in spec
    nurse, main = spec["containers"]
    assert nurse["args"] == ["admit", "/.knit", "/out", "/outputs/out"]
    assert nurse["lifecycle"] == {
        "postStart": {"exec": {"command": ["knit-pod", "ready", "/.knit"]}}
    }
    assert main["command"] == ["/.knit/knit-pod", "exec", "/.knit", "1", "/out", *POD.entrypoint]
    assert {one["name"] for one in nurse["volumeMounts"]} == {"bb", "knit"}
    assert "serviceAccountName" not in spec


def test_the_nurse_has_rights_of_its_own():
    spec = spec_of(ENTRYPOINT_OF_THE_IMAGE)
    nurse = container(spec, "nurse")
    assert nurse["args"] == ["main", "/log/log"]
    fields = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in nurse["env"]
        if "valueFrom" in each
    }
    assert fields == {"POD_NAME": "metadata.name", "NAMESPACE": "metadata.namespace"}
    assert {each["mountPath"]: each["name"] for each in nurse["volumeMounts"]} == {
        "/log": "cc",
        "/outputs/out": "bb",
        "/var/run/secrets/kubernetes.io/serviceaccount": "serviceaccount",
    }
    [token] = [one for one in spec["volumes"] if one["name"] == "serviceaccount"]
    first, second = token["projected"]["sources"]
    # No audience: that of the API server, and of nobody else.
    assert first == {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    assert second["configMap"]["name"] == "kube-root-ca.crt"


@pytest.mark.parametrize("log", [None, LOG])
@pytest.mark.parametrize("entrypoint", [(), ("true",)])
@pytest.mark.parametrize("account", [None, "trainer"])
def test_no_token_that_outlives_its_pod_is_mounted(log, entrypoint, account):
    """Of a Plan with its own account and no entrypoint, knit asks for one: see test_log_tokens.

    The Plan's container never has the token with which logs are read.
    """
    plan = replace(POD, log=log, entrypoint=entrypoint, service_account=account)
    spec = spec_of(plan)
    reads_log = log is not None and not entrypoint
    assert not [one for one in spec["volumes"] if "secret" in one]
    sources = [one["projected"]["sources"][0] for one in spec["volumes"] if "projected" in one]
    kubelets = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    item = {"key": "token", "path": "token"}
    asked = {"secret": {"name": f"{POD.name}-log-token", "items": [item]}}
    assert sources == ([asked if account else kubelets] if reads_log else [])
    assert spec["automountServiceAccountToken"] is (account is not None)
    assert spec.get("serviceAccountName") == (account or ("knit-nurse" if reads_log else None))
    for one in [*spec["containers"], *spec.get("initContainers", [])]:
        mounted = [each["name"] for each in one["volumeMounts"]]
        assert ("serviceaccount" in mounted) is (reads_log and one["name"] == "nurse")


def test_the_nurse_looks_at_outputs_and_changes_nothing():
    """Below a folder of its own: an output may be called like something in its image."""
    outputs = (Mount("/usr/lib", OUT), Mount("/a$(B)", Volume("data-knitid-dd", "dd")))
    nurse = container(spec_of(replace(ENTRYPOINT_OF_THE_IMAGE, outputs=outputs)), "nurse")
    told = next(each["value"] for each in nurse["env"] if each["name"] == "OUTPUTS")
    assert json.loads(told.replace("$$", "$")) == {
        "/usr/lib": "/outputs/usr/lib", "/a$(B)": "/outputs/a$(B)",
    }  # fmt: skip
    assert "$$(B)" in told
    seen = {each["mountPath"]: each["readOnly"] for each in nurse["volumeMounts"]}
    assert seen["/outputs/usr/lib"] and seen["/outputs/a$(B)"] and not seen["/log"]


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "pod", "settings"),
    [
        ("supervised", POD, SETTINGS),
        ("supervised-restricted", POD, SETTINGS.model_copy(update={"restricted": True})),
        ("image-entrypoint", ENTRYPOINT_OF_THE_IMAGE, SETTINGS),
        ("without-log", replace(POD, log=None), SETTINGS),
    ],
)
def test_the_whole_job_is_as_it_was_agreed(name: str, pod: RunPod, settings: KubernetesSettings):
    """Somebody who changes one of the files means to change what clusters are asked for."""
    job = json.dumps(manifests.run_job(pod, settings), indent=2) + "\n"
    assert job == (GOLDEN / f"{name}.json").read_text()


def test_without_outputs_and_log_main_is_alone():
    spec = spec_of(replace(POD, outputs=(), log=None))
    assert [each["name"] for each in spec["containers"]] == ["main"]
    assert "initContainers" not in spec
    assert [each["name"] for each in spec["volumes"]] == ["aa"]


def test_the_service_account_is_the_plans_or_none_is_told():
    spec = spec_of(POD)
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    spec = spec_of(replace(POD, service_account="trainer"))
    assert spec["automountServiceAccountToken"] is True
    assert spec["serviceAccountName"] == "trainer"


def test_priority_class_and_placement():
    spec = spec_of(
        replace(POD, on_node=(NodeRule(NodeMode.MAY, "gpu", "yes"),)),
        SETTINGS.model_copy(update={"priority_class": "knit-worker-priority"}),
    )
    assert spec["priorityClassName"] == "knit-worker-priority"
    assert spec["tolerations"][0]["key"] == "gpu"
    assert not {"priorityClassName", "tolerations", "affinity"} & spec_of(POD).keys()


def test_secrets_of_image_registries_are_those_of_every_pod():
    settings = SETTINGS.model_copy(update={"image_pull_secrets": ("one", "two")})
    opened = Transfer("t", IN, TransferMode.READ, "secret")
    transfer = manifests.transfer_pod(opened, settings, claim_uid="uid-c")["spec"]
    for spec in (spec_of(POD, settings), transfer):
        assert spec["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert "imagePullSecrets" not in spec_of(POD)


def test_two_outputs_never_share_a_volume():
    with pytest.raises(BackendRejected, match="bb"):
        manifests.run_job(replace(POD, outputs=(Mount("/a", OUT), Mount("/b", OUT))), SETTINGS)
    with pytest.raises(BackendRejected, match="bb"):
        manifests.run_job(replace(POD, log=OUT), SETTINGS)


@pytest.mark.parametrize("restricted", [False, True])
def test_no_container_may_gain_privileges(restricted):
    settings = SETTINGS.model_copy(update={"restricted": restricted})
    transfer = Transfer("t", IN, TransferMode.READ, "secret")
    for spec in (
        spec_of(POD, settings),
        manifests.transfer_pod(transfer, settings, claim_uid="uid-c")["spec"],
    ):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in [*spec["containers"], *spec.get("initContainers", [])]:
            context = each["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]


def test_restricted_pods_have_one_user_and_no_capability():
    spec = spec_of(POD, SETTINGS.model_copy(update={"restricted": True}))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
    for each in spec["containers"]:
        assert "add" not in each["securityContext"]["capabilities"]
        assert "runAsUser" not in each["securityContext"]


def test_knits_containers_write_nowhere_but_to_volumes():
    for pod, name in (
        (ENTRYPOINT_OF_THE_IMAGE, "init-main"),
        (ENTRYPOINT_OF_THE_IMAGE, "nurse"),
        (POD, "nurse"),
    ):
        spec = spec_of(pod)
        assert container(spec, name)["securityContext"]["readOnlyRootFilesystem"] is True
        assert container(spec, name)["resources"]["limits"]["memory"]
        assert container(spec, name)["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert "readOnlyRootFilesystem" not in container(spec, "main")["securityContext"]


def test_a_claim_may_be_mounted_by_many():
    claim = manifests.volume_claim(OUT, SETTINGS.model_copy(update={"storage_class": "fast"}))
    assert claim["metadata"]["name"] == "data-knitid-bb"
    assert claim["metadata"]["labels"]["knit/data.knitid"] == "bb"
    assert claim["metadata"]["labels"]["app.kubernetes.io/name"] == "data"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "fast",
    }
    assert "storageClassName" not in manifests.volume_claim(OUT, SETTINGS)["spec"]


def test_a_claim_says_where_its_volume_comes_from():
    plain = manifests.volume_claim(OUT, SETTINGS)["metadata"]
    assert "annotations" not in plain
    told = manifests.volume_claim(replace(OUT, origin="{}"), SETTINGS)["metadata"]
    assert told == plain | {"annotations": {"knit/data.origin": "{}"}}


def test_a_transfer_pod_opens_one_volume():
    transfer = Transfer(
        "knitid-aa-write-0", IN, TransferMode.WRITE, "s3cret", timedelta(seconds=90)
    )
    pod = manifests.transfer_pod(transfer, SETTINGS, claim_uid="uid-c")
    assert pod["metadata"]["labels"]["knit/dataagt.knitid"] == "aa"
    assert pod["metadata"]["labels"]["knit/dataagt.mode"] == "write"
    (agent,) = pod["spec"]["containers"]
    assert agent["name"] == "dataagt"
    assert agent["args"] == [
        *("--path", "/data", "--mode", "write", "--port", "18082", "--idle", "90")
    ]
    assert agent["volumeMounts"] == [
        {"name": "the-volume", "mountPath": "/data", "readOnly": False}
    ]
    assert pod["spec"]["automountServiceAccountToken"] is False
    reading = manifests.transfer_pod(
        replace(transfer, mode=TransferMode.READ), SETTINGS, claim_uid="uid-c"
    )
    assert reading["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] is True


def test_a_transfer_pod_may_be_evicted_by_whoever_drains_its_node():
    transfer = Transfer("t", IN, TransferMode.READ, "s3cret")
    pod = manifests.transfer_pod(transfer, SETTINGS, claim_uid="uid-c")
    [owner] = pod["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": IN.name, "uid": "uid-c",
        "controller": True,
    }  # fmt: skip
    safe = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    assert pod["metadata"]["annotations"] == {safe: "true"}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 40


def test_the_token_is_only_in_the_secret_that_goes_with_the_pod():
    transfer = Transfer("t", IN, TransferMode.READ, "s3cret")
    assert "s3cret" not in str(manifests.transfer_pod(transfer, SETTINGS, claim_uid="uid-c"))
    secret = manifests.transfer_secret(transfer, "uid-1", SETTINGS)
    assert secret["stringData"] == {"token": "s3cret"}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_prerequisites_give_the_nurse_the_right_to_read_logs():
    account, role, binding = prerequisites(SETTINGS)
    assert account["metadata"]["name"] == "knit-nurse"
    granted = {tuple(rule["resources"]): rule["verbs"] for rule in role["rules"]}
    assert granted == {("pods",): ["get", "list", "watch"], ("pods/log",): ["get"]}
    assert binding["subjects"][0] == {
        "kind": "ServiceAccount",
        "name": "knit-nurse",
        "namespace": "ns",
    }


class TestAdoptedClaims:
    """A claim of others is only ever read, and the kubelet does not change its files either."""

    THEIRS = Volume("their-claim", "dd")

    def test_an_input_is_mounted_read_only_as_a_whole(self):
        spec = spec_of(replace(POD, inputs=(Mount("/in/1", self.THEIRS), Mount("/in/2", IN))))
        claims = {
            one["name"]: one["persistentVolumeClaim"]
            for one in spec["volumes"]
            if "persistentVolumeClaim" in one
        }
        assert claims["dd"] == {"claimName": "their-claim", "readOnly": True}
        assert claims["aa"] == {"claimName": IN.name}

    def test_a_download_mounts_it_the_same_way(self):
        reading = Transfer("t", self.THEIRS, TransferMode.READ, "s")
        [volume] = manifests.transfer_pod(reading, SETTINGS, claim_uid="uid-c")["spec"]["volumes"]
        assert volume["persistentVolumeClaim"] == {"claimName": "their-claim", "readOnly": True}

    @pytest.mark.parametrize("changed", ["outputs", "log"])
    def test_it_is_never_written(self, changed):
        written = {"outputs": (Mount("/out", self.THEIRS),), "log": self.THEIRS}[changed]
        with pytest.raises(BackendRejected, match="only adopted"):
            spec_of(replace(POD, **{changed: written}))
