"""`knit admin doctor`: each finding with its cure."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from knit_cli.admin import reach
from knit_cli.admin.doctor import endpoint_checks
from knit_cli.admin.tls.certificates import Pair, new_server
from tests.cli.admin.conftest import Admin
from tests.cli.admin.test_after_install import deployment
from tests.cli.admin.test_certificates import made

pytestmark = pytest.mark.patient  # each starts helm's and kubectl's stand-ins many times

WELL = {
    "temporal": {
        "address": "temporal.example:7233",
        "namespace": "knit",
        "version": "1.29.1",
        "retentionDays": 3,
        "updates": True,
        "missingAttributes": [],
        "trial": {
            "updateWithStart": True,
            "eager": True,
            "priorities": True,
            "firstRound": 0.02,
            "laterRound": 0.021,
            "unlimited": True,
        },
    },
    "database": {},
}


@pytest.fixture
def healthy(installed: Admin, monkeypatch) -> Admin:
    """An installation where all is well; API and registry are not asked, but by tests of that."""
    installed.tools.say("values-knit-storage-nfs.json", '{"class": {"data": "shared"}}')
    installed.tools.add("storageclass", "shared")
    examined(installed)
    deployment(installed, "knit-api", "knit-app")
    monkeypatch.setattr(reach, "PATIENCE", 0.05)
    return installed


def examined(admin: Admin, temporal: dict | None = None, **more: Any) -> None:
    found = {**WELL, **more}
    found["temporal"] = {**WELL["temporal"], **(temporal or {})}
    admin.tools.say("examination.json", json.dumps(found))


def found(admin: Admin, *flags: str) -> dict[tuple[str, str], dict]:
    ended = admin("doctor", "--json", "--within", "0.1", *flags)
    listed = json.loads(ended.out)
    assert ended.code == int(any(one["state"] == "problem" for one in listed)), ended.err
    for one in listed:
        assert ("cure" in one) == (one["state"] != "ok")
    return {(one["check"], one["state"]): one for one in listed}


def test_where_all_is_well_nothing_needs_a_cure(healthy: Admin):
    listed = found(healthy)
    # Nobody listens on the node's address of a test.
    assert {check for check, state in listed if state != "ok"} == {"api", "registry"}
    assert {check for check, state in listed if state == "ok"} == {
        *("folder", "helm", "cluster", "certificates", "rights", "storage"),
        *("knit-storage-nfs", "knit-certs", "knit-db-postgres", "knit-image-registry", "knit-app"),
        *("database", "temporal", "clock"),
    }
    printed = healthy("doctor").out.decode()
    assert "✔ temporal: 1.29.1 at temporal.example:7233, namespace knit\n" in printed
    assert "as knit wants it, by trial (an activity and a workflow task take 21 ms); " in printed
    assert "matching.enableFairness" in printed


def test_for_people_it_is_a_line_each_and_the_cure_below(healthy: Admin):
    healthy.tools.say("helm-version", "v2.1")
    ended = healthy("doctor")
    assert ended.code == 1
    text = ended.out.decode()
    assert "✔ cluster: Kubernetes v1.34.4\n" in text
    assert "✘ helm: helm v2.1 cannot be used\n    problem; cure: install helm 3 or 4" in text


def test_before_an_installation_the_cluster_is_checked(prepared: Admin, monkeypatch):
    monkeypatch.setattr(reach, "PATIENCE", 0.05)
    prepared.tools.say("no-such", "")
    (prepared.folder / "values" / "knit-storage-nfs.yaml").write_text("class: {data: shared}")
    prepared.tools.add("storageclass", "shared")
    listed = found(prepared)
    assert listed[("storage", "ok")]["message"].startswith("StorageClass shared gave a ReadWrite")
    assert listed[("knit-app", "problem")]["cure"] == "knit admin install"
    assert listed[("api", "unknown")]["message"] == "it has no port on the nodes"
    assert ("temporal", "ok") not in listed
    # It was tried in a namespace of the doctor's own: an installation may make this one meanwhile.
    made = [given for _, words, given in prepared.tools.calls("kubectl") if "create" in words]
    assert any('"name": "knit-knit-doctor"' in one for one in made)
    assert not any(key.startswith("namespace/") for key in prepared.tools.objects())
    assert not any("knit-doctor" in key for key in prepared.tools.objects())


def test_who_may_not_ask_for_namespaces_tries_in_the_one_given(healthy: Admin):
    healthy.tools.say("no-namespaces")
    healthy.tools.forget()
    assert ("storage", "ok") in found(healthy)
    assert not any("namespaces" in words for _, words, _ in healthy.tools.calls("kubectl"))
    healthy.succeed("install")


def test_a_folder_that_others_may_read(healthy: Admin):
    (healthy.folder / "certs" / "ca.key").chmod(0o644)
    (healthy.folder / "certs").chmod(0o755)
    one = found(healthy)[("folder", "problem")]
    assert f"others may read {healthy.folder}/certs and 1 more" in one["message"]
    assert one["cure"] == f"chmod -R go= '{healthy.folder}'"


def test_a_cluster_that_does_not_answer_is_told_once(healthy: Admin):
    healthy.tools.say("no-cluster")
    listed = found(healthy)
    assert "no route to host" in listed[("cluster", "problem")]["message"]
    assert {check for check, state in listed if state != "ok"} == {"cluster"}


def test_an_old_cluster(healthy: Admin):
    version = {"gitVersion": "v1.20.0", "major": "1", "minor": "20"}
    healthy.tools.say("version.json", json.dumps(version))
    assert "v1.20.0 is old" in found(healthy)[("cluster", "warning")]["message"]
    healthy.tools.say("version.json", "{}")
    assert "cannot be read" in found(healthy)[("cluster", "unknown")]["message"]


def test_rights_that_are_missing_are_listed(healthy: Admin):
    healthy.tools.say("denied", "roles poddisruptionbudgets")
    one = found(healthy)[("rights", "problem")]
    assert one["message"] == (
        "not allowed in namespace knit: create roles, patch roles, create poddisruptionbudgets, "
        "patch poddisruptionbudgets"
    )
    assert "Role" in one["cure"]


def test_rights_outside_the_namespace_are_told_apart(healthy: Admin):
    healthy.tools.say("denied", "nodes storageclasses priorityclasses")
    one = found(healthy)[("rights", "problem")]
    assert one["message"] == (
        "not allowed outside the namespace: list nodes, create storageclasses, get storageclasses, "
        "patch storageclasses, delete storageclasses"
    )
    assert "ClusterRole" in one["cure"]
    (healthy.folder / "values" / "knit-storage-nfs.yaml").unlink()
    (healthy.folder / "values" / "knit-app.yaml").write_text(
        "runs: {priorityClass: {create: true}}"
    )
    one = found(healthy)[("rights", "problem")]
    assert "list nodes, create priorityclasses" in one["message"]
    healthy.tools.say("denied", "storageclasses")
    assert ("rights", "ok") in found(healthy)


def test_a_class_that_does_not_exist(healthy: Admin):
    healthy.tools.say("values-knit-storage-nfs.json", '{"class": {"data": "none"}}')
    one = found(healthy)[("storage", "problem")]
    assert one["message"] == "StorageClass none does not exist"


def test_a_class_that_gives_no_shared_volume(healthy: Admin):
    healthy.tools.say("unbound")
    message = "ReadWriteMany is\nnot supported"
    healthy.tools.add("Event", "e1", message=message)
    one = found(healthy)[("storage", "problem")]
    assert (
        "StorageClass shared gave no ReadWriteMany volume within 0 s: ReadWriteMany is not"
        in (one["message"])
    )
    assert not any("knit-doctor" in key for key in healthy.tools.objects())
    objects = healthy.tools.objects()
    del objects["event/e1"]
    healthy.tools.say("objects.json", json.dumps(objects))
    assert "its provisioner says nothing" in found(healthy)[("storage", "problem")]["message"]


def test_what_a_killed_doctor_left_is_removed(healthy: Admin):
    labels = {"app.kubernetes.io/managed-by": "knit-doctor"}
    healthy.tools.add("PersistentVolumeClaim", "old", metadata={"labels": labels})
    found(healthy)
    assert not any("old" in key for key in healthy.tools.objects())


def test_the_class_of_the_administrators_file_is_tried(healthy: Admin):
    """It wins over that of the chart for storage, as it does when knit is installed."""
    healthy.tools.add("storageclass", "fast")
    (healthy.folder / "values" / "knit-app.yaml").write_text("storage: {class: {data: fast}}")
    assert found(healthy)[("storage", "ok")]["message"].startswith("StorageClass fast gave")


@pytest.mark.parametrize("text", ["storage: x", "storage: {class: x}"])
def test_values_of_another_form_are_told(healthy: Admin, text):
    (healthy.folder / "values" / "knit-app.yaml").write_text(text)
    one = found(healthy)[("storage", "unknown")]
    assert "knit-app.yaml cannot be used: storage" in one["message"]


def test_without_a_name_the_default_class_is_tried(healthy: Admin):
    (healthy.folder / "values" / "knit-storage-nfs.yaml").unlink()
    one = found(healthy)[("storage", "ok")]
    assert one["message"].startswith("the cluster's default StorageClass gave")


@pytest.mark.parametrize(
    ("left", "state", "words"),
    [
        (5, "warning", "the CA certificate is valid until"),
        (-5, "problem", "the CA certificate has exp"),
    ],
)
def test_an_authority_that_ends_soon_or_has_ended(healthy: Admin, left, state, words):
    key = ec.generate_private_key(ec.SECP256R1())
    ends = datetime.now(UTC) + timedelta(days=left)
    mine = made(key=key, ends=ends, begins=datetime(2020, 1, 1, tzinfo=UTC))
    server = new_server(made(key=key), ["10.0.0.7"])
    for name, content in (("ca.crt", mine.certificate), ("ca.key", mine.key)):
        (healthy.folder / "certs" / name).write_bytes(content)
    for name, content in (("server.crt", server.certificate), ("server.key", server.key)):
        (healthy.folder / "certs" / name).write_bytes(content)
    one = found(healthy)[("certificates", state)]
    assert one["message"].startswith(words)
    assert one["cure"] == "knit admin renew-certs --renew-ca"


def test_an_authority_that_did_not_sign(healthy: Admin):
    (healthy.folder / "certs" / "ca.crt").write_bytes(made().certificate)
    one = found(healthy)[("certificates", "problem")]
    assert "did not sign the server certificate" in one["message"]


@pytest.mark.parametrize(
    ("broken", "check", "state", "cure"),
    [
        ("kubectl-version", "cluster", "problem", "check the kubeconfig"),
        ("kubectl-create", "rights", "unknown", "check the kubeconfig"),
        ("kubectl-get", "releases", "unknown", "check the kubeconfig"),
        ("kubectl-get", "api", "unknown", "check the kubeconfig"),
        ("kubectl-delete", "storage", "unknown", "check the rights on claims"),
        ("helm-version", "helm", "problem", "install helm 3 or 4"),
    ],
)
def test_what_cannot_be_asked_is_told(healthy: Admin, broken, check, state, cure):
    healthy.tools.say(f"broken-{broken}")
    one = found(healthy)[(check, state)]
    assert one["message"].endswith(": Error: something odd")
    assert one["cure"] == cure


def test_a_node_that_the_certificate_is_not_for(healthy: Admin):
    healthy.tools.add_node("10.0.0.8")
    one = found(healthy)[("certificates", "warning")]
    assert one["message"] == "the server's is not for 10.0.0.8"


def test_no_certificates(healthy: Admin):
    for name in ("crt", "key"):
        (healthy.folder / "certs" / f"server.{name}").unlink()
    one = found(healthy)[("certificates", "problem")]
    assert one["message"] == "there is no server certificate"
    (healthy.folder / "certs" / "no-tls").touch(mode=0o600)
    assert "plain HTTP" in found(healthy)[("certificates", "warning")]["message"]


def test_what_is_not_ready_says_why(healthy: Admin):
    deployment(healthy, "knit-api", "knit-app", ready=0)
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    healthy.tools.add(
        "Pod",
        "knit-api-x",
        metadata={"labels": {"app": "knit-api"}},
        status={"conditions": [condition]},
    )
    one = found(healthy)[("knit-app", "problem")]
    assert one["message"] == "knit-api: 0 of 1 ready; knit-api-x: 0/1 nodes are available"
    assert one["cure"] == "kubectl -n knit describe deployment knit-api"


def test_a_release_that_is_not_deployed(healthy: Admin):
    healthy.tools.set_release("knit-app", "failed", 0)
    assert found(healthy)[("knit-app", "problem")]["message"] == "its release is failed"


@pytest.mark.parametrize(
    ("temporal", "state", "words"),
    [
        ({"problem": "connection refused"}, "problem", "namespace knit: connection refused"),
        ({"version": "1.20.0"}, "warning", "1.20.0 is old (temporal.example:7233"),
        ({"updates": False}, "problem", "updates of workflows are off"),
        ({"retentionDays": 0.5}, "warning", "kept for 12.0 hours only"),
        ({"missingAttributes": ["KnitRunId"]}, "warning", "cannot be searched by KnitRunId"),
    ],
)
def test_what_temporal_lacks(healthy: Admin, temporal, state, words):
    examined(healthy, temporal)
    assert words in found(healthy)[("temporal", state)]["message"]


LIMITED = {"laterRound": 0.1, "unlimited": False}


@pytest.mark.parametrize(
    ("trial", "state", "words", "cure"),
    [
        ({"updateWithStart": False}, "problem", "uploads", "enableExecuteMultiOperation=true"),
        ({"eager": False}, "warning", "each short step waits", "enableActivityEagerExecution=true"),
        (LIMITED, "warning", "take 100 ms, 20 ms at first", "MaxPollRPS=10000"),
        ({"priorities": False}, "warning", "priorities of tasks", "matching.useNewMatcher=true"),
        ({"problem": "denied"}, "unknown", "could not be tried: denied", "docs/operations.md"),
    ],
)
def test_what_its_dynamic_configuration_lacks(healthy: Admin, trial, state, words, cure):
    examined(healthy, {"trial": {**WELL["temporal"]["trial"], **trial}})
    one = found(healthy)[("temporal", state)]
    assert words in one["message"]
    assert cure in one["cure"]
    assert "as knit wants it" not in healthy("doctor").out.decode()


CURRENT = {"buildId": "0.2.0", "state": "current", "workers": 1, "workflows": None}
EARLIER = {**CURRENT, "buildId": "0.1.0", "state": "draining", "workflows": 3}


def test_versions_of_workers_that_are_as_they_should_be(healthy: Admin):
    """One that drains has Runs, and workers for them; one that is over has neither."""
    over = {**EARLIER, "buildId": "0.0.9", "state": "drained", "workers": 0, "workflows": None}
    examined(healthy, {"workerVersions": [CURRENT, EARLIER, over]})
    listed = found(healthy)
    assert listed[("versions", "ok")]["message"] == "Runs begin with workers of 0.2.0"
    assert ("versions", "warning") not in listed


@pytest.mark.parametrize(
    ("versions", "words", "cure"),
    [
        (
            [CURRENT, {**EARLIER, "state": "drained", "workflows": None}],
            "no Run needs the workers of 0.1.0 any more",
            "remove 0.1.0 from workers.versioning.draining",
        ),
        (
            [CURRENT, {**EARLIER, "workers": 0}],
            "3 workflows began with 0.1.0, which has no workers",
            "add 0.1.0 to workers.versioning.draining",
        ),
        ([{**CURRENT, "state": "inactive"}], "none of them is current", "rollout restart"),
    ],
)
def test_versions_of_workers_that_need_somebody(healthy: Admin, versions, words, cure):
    examined(healthy, {"workerVersions": versions})
    one = found(healthy)[("versions", "warning")]
    assert words in one["message"]
    assert cure in one["cure"]


def test_what_is_slow_from_the_start_is_not_taken_for_the_limit(healthy: Admin):
    """A busy server or a slow database; that the limit cannot be seen below that is said."""
    slow = {"firstRound": 0.09, "laterRound": 0.17, "unlimited": False}
    examined(healthy, {"trial": {**WELL["temporal"]["trial"], **slow}})
    message = found(healthy)[("temporal", "ok")]["message"]
    assert message.endswith("history.transferProcessorMaxPollRPS below such a pace")
    assert "warning" not in {state for check, state in found(healthy) if check == "temporal"}


def test_a_pod_that_tries_nothing_is_told(healthy: Admin):
    """It is of an older version."""
    examined(healthy, {"trial": None})
    message = found(healthy)[("temporal", "unknown")]["message"]
    assert message.endswith("the pod is of a version that does not try it")


def test_what_the_database_lacks(healthy: Admin):
    advice = {"advice": "look there"}
    examined(healthy, database={"problem": "its tables are in revision 0007", **advice})
    assert found(healthy)[("database", "problem")]["cure"] == "knit admin upgrade"
    examined(healthy, database={"problem": "it does not answer", **advice})
    assert found(healthy)[("database", "problem")]["cure"] == "look there"
    examined(healthy, database={"problem": "it does not answer", "advice": None})
    assert found(healthy)[("database", "problem")]["cure"] == "look at the database's log"


def test_clocks_that_differ(healthy: Admin):
    examined(healthy, clock=(datetime.now(UTC) - timedelta(minutes=3)).isoformat())
    message = found(healthy)[("clock", "warning")]["message"]
    assert message.startswith("this machine's clock and the cluster's differ by 1")


def test_settings_that_a_pod_refuses(healthy: Admin):
    examined(healthy, problem="KNIT_X is not a setting of knit")
    assert "is not a setting" in found(healthy)[("settings", "problem")]["message"]


def test_a_pod_that_cannot_be_asked(healthy: Admin):
    healthy.tools.say("examination.json", '{"clock": 1}')
    one = found(healthy)[("inside", "unknown")]
    assert one["message"] == "the pod answers in another form: is it of this version?"
    healthy.tools.say("broken-kubectl-exec")
    assert ("inside", "unknown") in found(healthy)


# --- API and registry, over real sockets ---


@contextmanager
def serving(admin: Admin, status: int, pair: Pair | None) -> Iterator[None]:
    """An API and a registry on a port of this machine, which the cluster's Services name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that refuses the certificate
    if pair is not None:
        folder = admin.knit.cwd
        (folder / "crt").write_bytes(pair.certificate)
        (folder / "key").write_bytes(pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "crt", folder / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    for name in ("knit-api", "image-registry"):
        admin.tools.add("Service", name, spec={"ports": [{"nodePort": server.server_port}]})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def local(admin: Admin) -> Pair:
    """Makes this machine a node, and the certificate one for it."""
    authority = Pair(
        *((admin.folder / "certs" / f"ca.{one}").read_bytes() for one in ("crt", "key"))
    )
    pair = new_server(authority, ["127.0.0.2", "10.0.0.7"])
    (admin.folder / "certs" / "server.crt").write_bytes(pair.certificate)
    (admin.folder / "certs" / "server.key").write_bytes(pair.key)
    return pair


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [(200, "ok", "answers"), (401, "ok", "answers"), (502, "problem", "answers with 502")],
)
def test_api_and_registry_are_asked_with_tls(healthy: Admin, monkeypatch, status, state, words):
    monkeypatch.setattr(reach, "PATIENCE", 20)
    pair = new_server(
        Pair(
            *((healthy.folder / "certs" / f"ca.{one}").read_bytes() for one in ("crt", "key")),
        ),
        ["127.0.0.1"],
    )
    local(healthy)
    monkeypatch.setattr(endpoint_checks, "hosts_of", lambda *_: ["127.0.0.1"])
    with serving(healthy, status, pair):
        listed = found(healthy)
    assert words in listed[("api", state)]["message"]
    assert words in listed[("registry", state)]["message"]


def test_a_served_certificate_of_another_authority(healthy: Admin, monkeypatch):
    monkeypatch.setattr(reach, "PATIENCE", 20)
    monkeypatch.setattr(endpoint_checks, "hosts_of", lambda *_: ["127.0.0.1"])
    with serving(healthy, 200, new_server(made(), ["127.0.0.1"])):
        one = found(healthy)[("api", "problem")]
    assert one["cure"] == "knit admin renew-certs, or wait a minute after it"


def test_without_tls_they_are_asked_without(prepared: Admin, monkeypatch):
    prepared.succeed("prepare", "--no-tls")
    prepared.succeed("install")
    monkeypatch.setattr(endpoint_checks, "hosts_of", lambda *_: ["127.0.0.1"])
    monkeypatch.setattr(reach, "PATIENCE", 20)
    with serving(prepared, 200, None):
        assert ("api", "ok") in found(prepared)


def test_no_host_is_known(healthy: Admin, monkeypatch):
    monkeypatch.setattr(endpoint_checks, "hosts_of", lambda *_: [])
    assert found(healthy)[("api", "unknown")]["message"] == "no host of it is known"
