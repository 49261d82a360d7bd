"""What the chart knit-app makes of its values: objects, rights, hand-over, refusals in words."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from knit_workflows.compute.kubernetes import prerequisites
from knit_workflows.domain.plans.options import PodOptions, Spread, Toleration
from knit_workflows.settings import KubernetesSettings, Settings, read_settings
from tests.charts.helm import CHARTS, Helm, by_name, ci_values, pods, set_json

CHART = CHARTS / "knit-app"
MINIMAL = ("--set", "temporal.address=temporal:7233")
ROLES = ("engine", "compute", "watch", "interactive", "hooks")
BASE_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CLUSTER_SCOPED = {"PriorityClass", "ClusterRole", "ClusterRoleBinding", "Namespace"}


def rendered(helm: Helm, *arguments: str | Path) -> dict[str, Any]:
    return by_name(helm.render("knit-app", *MINIMAL, *arguments))


def settings_of(found: dict[str, Any]) -> dict[str, str]:
    content: dict[str, str] = found["ConfigMap/knit-settings"]["data"]
    return content


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}


def test_there_is_a_deployment_per_process_and_one_service(helm: Helm) -> None:
    found = rendered(helm)
    wanted = {"Deployment/knit-api", *(f"Deployment/knit-worker-{role}" for role in ROLES)}
    assert {name for name in found if name.startswith("Deployment/")} == wanted
    [port] = found["Service/knit-api"]["spec"]["ports"]
    assert port == {"name": "api", "port": 443, "targetPort": "api", "nodePort": 30803}
    for role in ROLES:
        spec = found[f"Deployment/knit-worker-{role}"]["spec"]["template"]["spec"]
        assert f"--roles={role}" in spec["containers"][0]["command"]
        assert spec["serviceAccountName"] == f"knit-worker-{role}"


@pytest.mark.parametrize("values", ci_values("knit-app"), ids=lambda path: path.stem)
def test_pods_satisfy_the_restricted_standard_and_write_nowhere(helm: Helm, values: Path) -> None:
    for name, spec in pods(helm.render("knit-app", "--values", values)).items():
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is (name == "Pod/knit-test-api")
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in spec.get("volumes", []))
        for container in spec["containers"]:
            inside = container["securityContext"]
            assert inside["allowPrivilegeEscalation"] is False, name
            assert inside["capabilities"] == {"drop": ["ALL"]}, name
            assert inside["readOnlyRootFilesystem"] is True, name


def test_every_process_is_probed_and_has_time_to_end(helm: Helm) -> None:
    """The longest step of a worker takes `step_timeout`, an open request of the API ten seconds."""
    longest = Settings().engine.step_timeout.total_seconds()
    for name, spec in pods(list(rendered(helm).values())).items():
        if name.startswith("Deployment/"):
            [container] = spec["containers"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert "httpGet" in container[kind], name
            assert spec["terminationGracePeriodSeconds"] > longest + 10
            assert spec["topologySpreadConstraints"], name


def test_only_three_workers_and_the_log_sidecar_have_rights_and_none_outside(helm: Helm) -> None:
    found = rendered(helm)
    assert not {one["kind"] for one in found.values()} & CLUSTER_SCOPED
    names = ("worker-compute", "worker-watch", "worker-interactive", "nurse")
    roles = {name for name in found if name.startswith("Role/")}
    assert roles == {f"Role/knit-{name}" for name in names}
    for name in names:
        [subject] = found[f"RoleBinding/knit-{name}"]["subjects"]
        assert subject["name"] == f"knit-{name}"
    for name, spec in pods(list(found.values())).items():
        allowed = name.removeprefix("Deployment/knit-") in names
        assert spec["automountServiceAccountToken"] is allowed, name


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def documented_rights() -> set[tuple[str, str, str]]:
    """What the guide says that workers need, all roles together."""
    page = (CHARTS.parent / "docs" / "how-to" / "kubernetes.md").read_text()
    found = set()
    for group, resource, verbs in re.findall(
        r"^\| (?:`(batch)`)? *\| `([a-z/]+)` \| ([a-z, ]+) \|$", page, re.MULTILINE
    ):
        found |= {(group, resource, verb) for verb in verbs.split(", ")}
    return found


def test_rights_are_those_of_the_guide_and_a_role_has_less(helm: Helm) -> None:
    found = rendered(helm)
    every = {
        name: rights(found[f"Role/knit-worker-{name}"]["rules"])
        for name in ("compute", "watch", "interactive")
    }
    assert documented_rights()
    assert set().union(*every.values()) == documented_rights()
    assert every["watch"] < every["compute"]
    # It launches nothing, and removes what was disrupted, as the back-end's `stop` does.
    removing = {("", "pods", "deletecollection"), ("batch", "jobs", "delete")}
    assert {one for one in every["watch"] if one[2].startswith(("create", "delete"))} == removing
    assert every["interactive"] < every["compute"]


def test_the_log_sidecar_gets_what_the_back_end_would_make(helm: Helm) -> None:
    found = rendered(helm)
    account, role, _ = prerequisites(KubernetesSettings(kube_namespace="default"))
    assert found[f"ServiceAccount/{account['metadata']['name']}"]
    assert rights(found["Role/knit-nurse"]["rules"]) == rights(role["rules"])
    kinds = {one["type"] for name, one in found.items() if name.startswith("Secret/")}
    assert "kubernetes.io/service-account-token" not in kinds
    (token,) = [
        rule
        for rule in found["Role/knit-worker-compute"]["rules"]
        if rule["resources"] == ["serviceaccounts/token"]
    ]
    assert token["resourceNames"] == [account["metadata"]["name"]]


@pytest.mark.parametrize("values", ci_values("knit-app"), ids=lambda path: path.stem)
def test_every_setting_is_one_that_the_processes_know(
    helm: Helm, values: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_name(helm.render("knit-app", "--values", values))
    for name, value in settings_of(found).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert read.compute.kind == "kubernetes"
    assert read.accounts.required
    assert read.log_format == "json"
    assert read.compute.kubernetes.kube_namespace == "default"


def test_the_database_is_used_as_another_role_than_the_one_that_migrates(helm: Helm) -> None:
    found = rendered(helm)
    by_pod = {
        name: environment(spec["containers"][0])
        for name, spec in pods(
            [one for one in found.values() if one["kind"] in ("Deployment", "Job")]
        ).items()
    }
    for name, variables in by_pod.items():
        if "bootstrap" in name:
            assert "PGUSER" not in variables
            continue
        migrates = name.startswith("Job/knit-migrate-")
        secret = "database-credential" if migrates else "database-app-credential"
        for variable, key in (("PGUSER", "username"), ("PGPASSWORD", "password")):
            assert variables[variable]["secretKeyRef"] == {"name": secret, "key": key}, name
        assert ("KNIT_STORE__APPLICATION_ROLE" in variables) is migrates
    assert settings_of(found)["KNIT_STORE__URL"] == "postgresql://database:5432/knit"


def test_values_of_the_other_charts_are_taken_as_helm_hands_them_over(helm: Helm) -> None:
    """`helm get values -o json --all` gives everything: more keys than are used here, and nulls."""
    storage = {"component": "x", "class": {"data": "d", "system": "s"}, "nfs": {"server": "n"}}
    database = {
        "component": "database", "external": True, "service": "db.example", "port": 6432,
        "databaseName": "other", "credential": {"secret": "a", "generate": False},
        "appCredential": {"secret": "b", "username": "c"}, "storage": {}, "image": None,
    }  # fmt: skip
    certs = yaml.safe_load((CHARTS / "knit-certs" / "values.yaml").read_text())
    certs["secret"]["server"] = "theirs"
    found = rendered(
        helm,
        *set_json("storage", storage),
        *set_json("database", database),
        *set_json("certs", certs),
    )
    settings = settings_of(found)
    assert settings["KNIT_COMPUTE__KUBERNETES__STORAGE_CLASS"] == "d"
    assert settings["KNIT_STORE__URL"] == "postgresql://db.example:6432/other"
    api = found["Deployment/knit-api"]["spec"]["template"]["spec"]
    assert environment(api["containers"][0])["PGUSER"]["secretKeyRef"]["name"] == "b"
    [volume] = [one for one in api["volumes"] if one["name"] == "certs"]
    assert volume["secret"]["secretName"] == "theirs"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (set_json("certs", {"key": "c2VjcmV0"}), "certs.key is a private key"),
        (set_json("certs", {"cakey": "c2VjcmV0"}), "certs.cakey is a private key"),
        (
            set_json("database", {"credential": {"password": "p"}}),
            "database.credential.password is a password",
        ),
        (
            set_json("database", {"appCredential": {"password": "p"}}),
            "database.appCredential.password is a password",
        ),
        (("--set", "temporal.address="), "temporal.address is missing: say where"),
        (("--set", "knitd.port=30803"), "knitd is a value of Knitfab's charts; knit has api"),
        (("--set", "vex.use=true"), "vex is a value of Knitfab's charts"),
        (("--set", "extraApis.endpoints[0].path=/x"), "knit has extraApi"),
        (("--set", "api.replicas=two"), "replicas"),
        (("--set", "workers.projection.replicas=1"), "projection"),
        (("--set", "settings.KNIT_engine=1"), "KNIT_engine"),
        (("--set", "accounts.publicUrl=https://knit.example/api"), "publicUrl"),
        (("--set", "accounts.publicUrl=knit.example"), "publicUrl"),
        (("--set", "accounts.trustedProxies={proxy.example}"), "trustedProxies"),
        (("--set", "accounts.trustedProxies=10.0.0.0/8"), "trustedProxies"),
        (("--set", "accounts.oidc.clientId=knit"), "accounts.oidc.issuer is missing"),
        (("--set", "accounts.oidc.roles.ml=boss"), "ml"),
        (("--set", "runs.priorityClass.create=true"), "needs runs.priorityClass.name"),
        (("--set", "certs.secret.server="), "certs.secret.server is missing"),
        (("--set", "database.service="), "database.service is missing"),
        (("--set", "temporal.address=http://temporal:7233"), "address"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_wrong_value_is_refused_in_words_that_name_it(
    helm: Helm, arguments: tuple[str, str], words: str
) -> None:
    said = helm.refusal("knit-app", *MINIMAL, *arguments)
    assert words in said
    assert "c2VjcmV0" not in said


def test_temporal_is_reached_as_its_own_variables_say(
    helm: Helm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the pod's environment says is what the SDK reads: every name is one that it knows."""
    from knit_workflows.temporal.connection import client_config

    values = CHART / "ci" / "production-values.yaml"
    spec = pods(helm.render("knit-app", "--values", values))["Deployment/knit-worker-engine"]
    [container] = spec["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for name, value in environment(container).items():
        if name.startswith("TEMPORAL_"):
            if name.endswith("_PATH"):
                assert str(Path(value).parent) in mounted
                file = tmp_path / Path(value).name
                file.write_bytes(name.encode())
                value = str(file)
            monkeypatch.setenv(name, value)
    [headers] = [one for one in container["envFrom"] if "prefix" in one]
    monkeypatch.setenv(f"{headers['prefix']}AUTHORIZATION", "Bearer x")
    found = client_config()
    assert found["target_host"] == "temporal.example:7233"
    assert found["namespace"] == "ml"
    assert found["rpc_metadata"] == {"authorization": "Bearer x"}
    tls = found["tls"]
    assert tls.domain == "temporal.example"
    assert tls.client_cert == b"TEMPORAL_TLS_CLIENT_CERT_PATH"
    assert tls.client_private_key == b"TEMPORAL_TLS_CLIENT_KEY_PATH"
    assert tls.server_root_ca_cert == b"TEMPORAL_TLS_SERVER_CA_CERT_PATH"


def test_hooks_and_extra_apis_are_the_files_that_the_processes_read(helm: Helm) -> None:
    from knit_workflows.hooks.file import parse_hooks_file
    from knit_workflows.settings.extra_apis import parse_extra_apis

    found = by_name(helm.render("knit-app", "--values", CHART / "ci" / "production-values.yaml"))
    hooks = parse_hooks_file(found["ConfigMap/knit-hooks"]["data"]["hooks.yaml"].encode(), "hooks")
    assert hooks.hooks.before == ("https://gate.example/runs",)
    assert hooks.hooks.after == ("https://chat.example/runs",)
    extra = found["ConfigMap/knit-extra-apis"]["data"]["extra-apis.yaml"]
    [one] = parse_extra_apis(extra.encode(), "extra")
    assert (one.path, one.proxy_to) == ("/importer", "http://importer:8000/v1")
    empty = rendered(helm)["ConfigMap/knit-hooks"]["data"]["hooks.yaml"]
    assert parse_hooks_file(empty.encode(), "hooks").hooks.before == ()


def test_a_changed_setting_restarts_the_pods_and_a_changed_hook_does_not(helm: Helm) -> None:
    def annotations(*arguments: str) -> set[str]:
        found = rendered(helm, *arguments)
        return {
            json.dumps(one["spec"]["template"]["metadata"]["annotations"])
            for one in found.values()
            if one["kind"] == "Deployment"
        }

    before = annotations()
    assert len(before) == 1
    assert annotations("--set", "settings.KNIT_ENGINE__PAGE_SIZE=7") != before
    hook = set_json("hooks", {"lifecycle-hooks": {"after": ["https://x.example"]}})
    assert annotations(*hook) == before


def test_a_job_gets_another_name_when_it_does_something_else(helm: Helm) -> None:
    """A Job cannot be changed, and some tools render without counting a release's revisions."""

    def jobs(*arguments: str) -> set[str]:
        return {name for name in rendered(helm, *arguments) if name.startswith("Job/")}

    assert jobs() == jobs()
    assert len(jobs()) == 2
    for change in ("image.tag=other", "podLabels.team=b", "database.service=other"):
        assert not jobs() & jobs("--set", change)
    assert all(len(name.removeprefix("Job/")) <= 52 for name in jobs())


def test_annotations_and_labels_of_pods_are_those_of_jobs_too(helm: Helm) -> None:
    """A service mesh that is told to leave pods alone would keep a Job from ending."""
    values = ("--set", "podAnnotations.mesh=no,podLabels.team=b")
    templates = [
        one if one["kind"] == "Pod" else one["spec"]["template"]
        for one in rendered(helm, *values).values()
        if one["kind"] in ("Deployment", "Job", "Pod")
    ]
    assert len(templates) > 6
    assert {one["metadata"]["annotations"]["mesh"] for one in templates} == {"no"}
    assert {one["metadata"]["labels"]["team"] for one in templates} == {"b"}


def test_what_cannot_look_into_the_cluster_renders_the_same_each_time(helm: Helm) -> None:
    """As GitOps does; the first token is then somebody's own."""
    values = ("--values", CHARTS / "knit-app" / "ci" / "plain-values.yaml")
    assert helm.render("knit-app", *values) == helm.render("knit-app", *values)


def test_the_first_token_has_the_form_of_a_token(helm: Helm) -> None:
    secret = rendered(helm)["Secret/knit-bootstrap-token"]
    content = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    token = content["token"]
    assert re.fullmatch(r"knit_[A-Za-z0-9_-]{43}[A-Za-z0-9]{6}", token)
    rest, digits = zlib.crc32(token[:-6].encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = BASE_62[digit] + digits
    assert token[-6:] == digits
    assert content["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    other = rendered(helm)["Secret/knit-bootstrap-token"]
    assert other["data"]["token"] != secret["data"]["token"]
    given = rendered(helm, "--set", "accounts.bootstrapToken.existingSecret=mine")
    assert "Secret/knit-bootstrap-token" not in given


def test_without_tls_the_api_serves_plain_http(helm: Helm) -> None:
    found = rendered(helm, "--set", "certs.enabled=false")
    [container] = found["Deployment/knit-api"]["spec"]["template"]["spec"]["containers"]
    assert not any("tls" in word for word in container["command"])
    assert container["livenessProbe"]["httpGet"]["scheme"] == "HTTP"
    assert found["Service/knit-api"]["spec"]["ports"][0]["port"] == 80
    tls = rendered(helm)["Deployment/knit-api"]["spec"]["template"]["spec"]["containers"][0]
    assert tls["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert "--tls-key=/etc/knit/certs/tls.key" in tls["command"]


def test_one_worker_may_have_all_roles(helm: Helm) -> None:
    found = rendered(helm, "--set", "workers.together=true")
    workers = [name for name in found if name.startswith("Deployment/knit-worker-")]
    assert workers == ["Deployment/knit-worker-compute"]
    spec = found[workers[0]]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    [served] = [word for word in container["command"] if word.startswith("--roles=")]
    assert set(served.removeprefix("--roles=").split(",")) == set(ROLES)
    assert "/etc/knit/hooks" in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert spec["automountServiceAccountToken"] is True
    assert rights(found["Role/knit-worker-compute"]["rules"]) == documented_rights()


def test_a_priority_class_is_made_only_when_asked_for(helm: Helm) -> None:
    found = by_name(helm.render("knit-app", "--values", CHART / "ci" / "production-values.yaml"))
    assert found["PriorityClass/knit-runs"]["value"] == -10
    assert settings_of(found)["KNIT_COMPUTE__KUBERNETES__PRIORITY_CLASS"] == "knit-runs"


def test_what_run_pods_get_is_read_by_the_workers(
    helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the form of a Plan's `pod`; without values nothing is said, so that defaults hold."""
    found = by_name(helm.render("knit-app", "--values", CHART / "ci" / "production-values.yaml"))
    for name, value in settings_of(found).items():
        if name.startswith("KNIT_COMPUTE__"):
            monkeypatch.setenv(name, value)
    kubernetes = read_settings().compute.kubernetes
    assert kubernetes.run_pods == PodOptions(
        labels={"example.com/team": "ml"},
        tolerations=(Toleration("spot", "Exists", "", "NoExecute", 30),),
        topology_spread=(Spread("topology.kubernetes.io/zone"),),
        shm_size="1Gi",
        queue="knit",
    )
    assert kubernetes.plan_pod_keys == ("labels", "annotations", "shm_size")
    assert (kubernetes.ephemeral_storage, kubernetes.access_mode) == ("20Gi", "ReadWriteOnce")
    plain = settings_of(rendered(helm))
    unset = ("RUN_PODS", "PLAN_POD_KEYS", "EPHEMERAL_STORAGE")
    assert not any(name.endswith(unset) for name in plain)
    none = settings_of(rendered(helm, "--set-json", "runs.planPodKeys=[]"))
    assert none["KNIT_COMPUTE__KUBERNETES__PLAN_POD_KEYS"] == "[]"


def test_storage_classes_are_looked_at_only_where_that_is_allowed(helm: Helm) -> None:
    """It is a right outside the namespace, to read what is secret to nobody."""
    asked = rendered(helm, "--set", "runs.checkStorageClasses=true")
    assert asked.keys() - rendered(helm).keys() == {
        "ClusterRole/default-knit-worker-compute", "ClusterRoleBinding/default-knit-worker-compute",
    }  # fmt: skip
    assert rights(asked["ClusterRole/default-knit-worker-compute"]["rules"]) == {
        ("storage.k8s.io", "storageclasses", "get"), ("storage.k8s.io", "storageclasses", "list"),
    }  # fmt: skip
    [subject] = asked["ClusterRoleBinding/default-knit-worker-compute"]["subjects"]
    assert subject["name"] == "knit-worker-compute"


def test_the_expander_has_rights_and_settings_of_its_own(helm: Helm) -> None:
    """It knows no password, and is there only when it is asked for."""
    assert "Deployment/knit-worker-expander" not in rendered(helm)
    found = by_name(helm.render("knit-app", "--values", CHART / "ci" / "production-values.yaml"))
    assert rights(found["Role/knit-worker-expander"]["rules"]) == {
        ("", "pods", "list"), ("", "persistentvolumeclaims", "get"),
        ("", "persistentvolumeclaims", "patch"),
    }  # fmt: skip
    assert rights(found["ClusterRole/default-knit-worker-expander"]["rules"]) == {
        ("", "nodes/proxy", "get"),
    }  # fmt: skip
    [container] = found["Deployment/knit-worker-expander"]["spec"]["template"]["spec"]["containers"]
    assert "env" not in container
    assert container["envFrom"] == [{"configMapRef": {"name": "knit-settings"}}]
    settings = settings_of(found)
    assert settings["KNIT_COMPUTE__KUBERNETES__EXPANDER_MARGIN"] == "2Gi"
    assert settings["KNIT_COMPUTE__KUBERNETES__EXPANDER_MOST"] == "1Ti"


def test_network_policies_admit_what_knit_needs(helm: Helm) -> None:
    found = rendered(helm)
    for role in ROLES:
        [ingress] = found[f"NetworkPolicy/knit-worker-{role}"]["spec"]["ingress"]
        assert ingress == {"from": [{"namespaceSelector": {}}], "ports": [{"port": "metrics"}]}
    transfers = found["NetworkPolicy/knit-transfers"]["spec"]
    [rule] = transfers["ingress"]
    assert rule["ports"] == [{"port": KubernetesSettings().transfer_port}]
    allowed = rule["from"][0]["podSelector"]["matchExpressions"][1]["values"]
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in found.values()
              if one["kind"] == "Deployment"]  # fmt: skip
    components = {one["app.kubernetes.io/component"] for one in labels}
    assert set(allowed) <= components
    backup = rendered(helm, "--set", "backup.enabled=true,backup.claim=backups")
    [peer] = backup["NetworkPolicy/knit-transfers"]["spec"]["ingress"][0]["from"]
    allowed = peer["podSelector"]["matchExpressions"][1]["values"]
    assert "worker-backup" in allowed and "Deployment/knit-worker-backup" in backup
    peers = set_json("networkPolicy.apiFrom", [{"ipBlock": {"cidr": "192.0.2.0/24"}}])
    rule, metrics = rendered(helm, *peers)["NetworkPolicy/knit-api"]["spec"]["ingress"]
    assert metrics == ingress
    given, test = rule["from"]
    assert given == {"ipBlock": {"cidr": "192.0.2.0/24"}}
    labels = found["Pod/knit-test-api"]["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= labels.items()
    off = rendered(helm, "--set", "networkPolicy.enabled=false")
    assert not any(name.startswith("NetworkPolicy/") for name in off)


def test_every_container_gets_a_cpu_limit_where_a_quota_demands_it(helm: Helm) -> None:
    """Those of the chart by its values, those of run and transfer pods by its settings."""
    limits = {"limits": {"cpu": "1", "memory": "512Mi"}}
    owners = ("api", "jobs", *(f"workers.{role}" for role in ROLES))
    values: dict[str, Any] = {f"{owner}.resources": limits for owner in owners}
    values |= {"runs.containers": limits, "runs.transfers.limits.cpu": 2}
    arguments = [word for key, value in values.items() for word in set_json(key, value)]
    found = rendered(helm, *arguments)
    for name, spec in pods(list(found.values())).items():
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert container["resources"]["limits"]["cpu"] == "1", name
    read = settings_of(found)
    assert json.loads(read["KNIT_COMPUTE__KUBERNETES__PROGRAM_LIMITS"]) == limits["limits"]
    assert json.loads(read["KNIT_COMPUTE__KUBERNETES__TRANSFER_LIMITS"])["cpu"] == "2"


def test_settings_of_containers_are_the_defaults_of_the_program(helm: Helm) -> None:
    read, defaults = settings_of(rendered(helm)), KubernetesSettings()
    kinds = ("requests", "limits")
    for name in (f"{of}_{kind}" for of in ("program", "log_reader", "transfer") for kind in kinds):
        written = read[f"KNIT_COMPUTE__KUBERNETES__{name.upper()}"]
        assert json.loads(written) == getattr(defaults, name)


VERSIONED = ("--set", "workers.versioning.enabled=true", "--set", "image.tag=0.2.0")
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def versions_of(found: dict[str, Any]) -> dict[str, tuple[str, str | None, bool]]:
    """Gives image, version, and whether it only drains, of each Deployment's container."""
    given = {}
    for name, spec in pods(list(found.values())).items():
        if name.startswith("Deployment/"):
            [container] = spec["containers"]
            variables = environment(container)
            given[name.removeprefix("Deployment/knit-")] = (
                container["image"],
                variables.get("KNIT_VERSIONING__BUILD_ID"),
                variables.get("KNIT_VERSIONING__DRAINING") == "true",
            )
    return given


def test_workers_have_no_version_unless_it_is_asked_for(helm: Helm) -> None:
    assert {version for _, version, _ in versions_of(rendered(helm)).values()} == {None}


@pytest.mark.parametrize(
    ("image", "version"),
    [((), "{app}"), (("tag=0.2.0",), "0.2.0"), (("tag=x", f"digest={DIGEST}"), "0123456789ab")],
)
def test_the_version_of_workers_is_that_of_their_image(
    helm: Helm, image: tuple[str, ...], version: str
) -> None:
    """Those of backups and the expander have none: Runs do not begin with them."""
    given = [("--set", f"image.{one}") for one in image]
    more = ("--set", "backup.enabled=true", "--set", "expander.enabled=true", *VERSIONED[:2])
    found = versions_of(rendered(helm, *more, *(word for pair in given for word in pair)))
    app = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    workers = {f"worker-{role}" for role in ROLES}
    assert {name for name, (_, given, _) in found.items() if given} == workers
    assert {found[name][1] for name in workers} == {version.format(app=app)}
    assert not any(drains for _, _, drains in found.values())


def test_workers_of_versions_that_drain_are_beside_the_others(helm: Helm) -> None:
    draining = ("--set-json", f'workers.versioning.draining=["0.1.0-RC_1", "{DIGEST}"]')
    found = rendered(helm, *VERSIONED, *draining, "--set", "workers.watch.replicas=3")
    given = versions_of(found)
    for role in ROLES:
        assert given[f"worker-{role}"] == ("knit:0.2.0", "0.2.0", False)
        assert given[f"worker-{role}-0-1-0-rc-1"] == ("knit:0.1.0-RC_1", "0.1.0-RC_1", True)
        by_digest = given[f"worker-{role}-0123456789ab"]
        assert by_digest == (f"knit@{DIGEST}", "0123456789ab", True)
    assert given["api"] == ("knit:0.2.0", None, False)
    late = found["Deployment/knit-worker-watch-0-1-0-rc-1"]
    assert late["spec"]["replicas"] == 3
    assert late["metadata"]["labels"]["app.kubernetes.io/version"] == "0.1.0-RC_1"
    spec = late["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "knit-worker-watch"
    assert "--roles=watch" in spec["containers"][0]["command"]


def test_no_selector_finds_pods_of_two_versions(helm: Helm) -> None:
    """Neither that of a Deployment, nor of what is there for one; each version has all of it."""
    draining = ("--set-json", 'workers.versioning.draining=["0.1.0"]')
    found = rendered(helm, *VERSIONED, *draining)
    names = [f"worker-{role}{suffix}" for suffix in ("", "-0-1-0") for role in ROLES]
    labels = {
        name: found[f"Deployment/knit-{name}"]["spec"]["template"]["metadata"]["labels"]
        for name in names
    }
    for name in names:
        deployment = found[f"Deployment/knit-{name}"]["spec"]
        [spread] = deployment["template"]["spec"]["topologySpreadConstraints"]
        budget = found[f"PodDisruptionBudget/knit-{name}"]["spec"]
        policy = found[f"NetworkPolicy/knit-{name}"]["spec"]
        for selector in (
            deployment["selector"],
            spread["labelSelector"],
            budget["selector"],
            policy["podSelector"],
        ):
            wanted = selector["matchLabels"].items()
            assert [one for one in names if wanted <= labels[one].items()] == [name]
    [rule] = found["NetworkPolicy/knit-transfers"]["spec"]["ingress"]
    [_, component] = rule["from"][0]["podSelector"]["matchExpressions"]
    openers = {f"worker-{role}" for role in ("compute", "interactive")}
    assert set(component["values"]) == {"api", *openers, *(f"{one}-0-1-0" for one in openers)}
    without = rendered(helm, *VERSIONED)
    assert (
        without["Deployment/knit-worker-watch"]["spec"]["selector"]
        == (rendered(helm)["Deployment/knit-worker-watch"]["spec"]["selector"])
    ), "which cannot be changed when versioning is switched on"


def test_the_installed_version_drains_beside_workers_without_one(helm: Helm) -> None:
    """Which is how versioning is switched off."""
    off = ("--set", "image.tag=0.2.0", "--set-json", 'workers.versioning.draining=["0.2.0"]')
    given = versions_of(rendered(helm, *off))
    for role in ROLES:
        assert given[f"worker-{role}"] == ("knit:0.2.0", None, False)
        assert given[f"worker-{role}-0-2-0"] == ("knit:0.2.0", "0.2.0", True)


def test_workers_with_all_roles_together_drain_together(helm: Helm) -> None:
    draining = ("--set-json", 'workers.versioning.draining=["0.1.0"]')
    found = versions_of(rendered(helm, *VERSIONED, *draining, "--set", "workers.together=true"))
    assert found.keys() == {"api", "worker-compute", "worker-compute-0-1-0"}


def test_names_of_what_drains_fit_into_labels(helm: Helm) -> None:
    longest = json.dumps([f"{'x' * 29}.{'y' * 32}.{'y' * 65}", "_edge_"])
    found = rendered(helm, *VERSIONED, "--set-json", f"workers.versioning.draining={longest}")
    assert f"Deployment/knit-worker-engine-{'x' * 29}" in found
    assert "Deployment/knit-worker-engine-edge" in found
    for one in found.values():
        for value in one["metadata"].get("labels", {}).values():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value), value


@pytest.mark.parametrize(
    ("draining", "given", "said"),
    [
        (["0.2.0"], VERSIONED, "has 0.2.0, which is the version that is installed: leave it out"),
        (["0.1.0", "0.1.0"], VERSIONED, "has 0.1.0, which is there already: leave it out"),
        (["0.1.0", "0-1.0"], VERSIONED, "0.1.0 and 0-1.0, whose Deployments would have one name"),
        (["___"], VERSIONED, "___, of which no name can be made"),
        (["a/b:c"], VERSIONED, "draining"),
    ],
)
def test_versions_that_cannot_drain_are_refused(
    helm: Helm, draining: list[str], given: tuple[str, ...], said: str
) -> None:
    listed = ("--set-json", f"workers.versioning.draining={json.dumps(draining)}")
    assert said in helm.refusal("knit-app", *MINIMAL, *given, *listed)


def test_a_version_for_all_processes_is_refused(helm: Helm) -> None:
    given = ("--set", "settings.KNIT_VERSIONING__BUILD_ID=7")
    assert "set workers.versioning" in helm.refusal("knit-app", *MINIMAL, *given)
