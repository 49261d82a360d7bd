"""`knit admin handout`, `status`, `renew-certs`, `uninstall`."""

from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tests.cli.admin.conftest import Admin
from tests.cli.admin.test_certificates import made
from tests.cli.admin.test_prepare import names, write_pair


def deployment(admin: Admin, name: str, release: str, ready: int = 1, **pod) -> None:
    admin.tools.add(
        "Deployment",
        name,
        metadata={"annotations": {"meta.helm.sh/release-name": release}, "generation": 2},
        spec={
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"spec": {"containers": [{"image": f"{name}:0.1.0"}], **pod}},
        },
        status={"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": ready},
    )


# --- handout ---


@pytest.mark.patient
def test_the_handout_is_a_profile_the_ca_for_docker_and_a_page(admin: Admin, charts):
    admin.succeed("prepare", "--host", "knit.example.com", "--host", "fd00::7")
    ended = admin.succeed("install")
    authority = admin.text("certs/ca.crt")
    profile = yaml.safe_load(admin.text("handouts/knitprofile"))
    assert profile == {
        "apiRoot": "https://knit.example.com:30803/api",
        "cert": {"ca": base64.b64encode(authority.encode()).decode()},
    }
    trusted = admin.folder / "handouts" / "docker" / "certs.d"
    assert {path.name for path in trusted.iterdir()} == {
        "knit.example.com:30503",
        "[fd00::7]:30503",
        "10.0.0.7:30503",
    }
    for folder in trusted.iterdir():
        assert (folder / "ca.crt").read_text() == authority
    page = admin.text("handouts/README.md")
    assert "docker push knit.example.com:30503/my-image:v1" in page
    assert "localhost:30503/my-image:v1" in page
    assert f"what users need is in {admin.folder}/handouts" in ended.err


@pytest.mark.patient
def test_the_profile_is_one_that_knit_init_takes(installed: Admin):
    profile = installed.folder / "handouts" / "knitprofile"
    ended = installed.knit("init", str(profile))
    assert ended.code == 0, ended.err
    saved = yaml.safe_load(installed.knit.store.read_text())
    assert [one["apiRoot"] for one in saved.values()] == ["https://10.0.0.7:30803/api"]


@pytest.mark.patient
def test_hosts_may_be_named_the_preferred_one_first(installed: Admin):
    ended = installed("handout", "--host", "Knit.example.com")
    assert ended.code == 1
    assert "error: the server certificate is not for knit.example.com\n" in ended.err
    assert "hint: make one that is: knit admin renew-certs --host knit.example.com\n" in ended.err
    installed.succeed("renew-certs", "--host", "knit.example.com")
    ended = installed.succeed("handout", "--host", "Knit.example.com", "--host", "10.0.0.7")
    assert ended.out.decode() == f"{installed.folder}/handouts\n"
    assert "the API is at https://knit.example.com:30803/api\n" in ended.err
    trusted = installed.folder / "handouts" / "docker" / "certs.d"
    assert len(list(trusted.iterdir())) == 2
    assert installed("handout", "--host", "a b").code == 1


@pytest.mark.patient
def test_an_address_of_a_balancer_goes_before_nodes_and_is_remembered(installed: Admin):
    installed.succeed("handout", "--api-root", "https://ml.example.com/api")
    installed.succeed("handout")
    profile = yaml.safe_load(installed.text("handouts/knitprofile"))
    assert profile["apiRoot"] == "https://ml.example.com/api"
    (installed.folder / "api-root").write_text("nonsense")
    assert "is not the address of an API" in installed("handout").err


@pytest.mark.patient
def test_without_tls_the_page_says_what_docker_needs(prepared: Admin):
    prepared.succeed("prepare", "--no-tls")
    prepared.succeed("install")
    assert "speaks plain HTTP" in prepared.text("handouts/README.md")
    assert not list((prepared.folder / "handouts" / "docker" / "certs.d").iterdir())


@pytest.mark.patient
def test_with_a_registry_of_ones_own_there_is_nothing_for_docker(prepared: Admin):
    prepared.succeed("prepare", "--without", "knit-image-registry")
    prepared.succeed("install")
    assert not (prepared.folder / "handouts" / "docker").exists()
    assert "Images" not in prepared.text("handouts/README.md")


def test_before_the_installation_there_is_no_address(prepared: Admin):
    ended = prepared("handout")
    assert ended.code == 1
    assert "error: the address of the API is not known\n" in ended.err
    assert "reason: the Service knit-api has no port on the nodes\n" in ended.err


@pytest.mark.patient
def test_a_cluster_without_nodes_has_no_address(prepared: Admin):
    prepared.succeed("prepare", "--no-tls")
    prepared.succeed("install")
    objects = prepared.tools.objects()
    del objects["node/node-10.0.0.7"]
    prepared.tools.say("objects.json", json.dumps(objects))
    assert "error: the cluster has no node\nhint: name a host" in prepared("handout").err


# --- status ---


@pytest.mark.patient
def test_status_shows_releases_what_is_ready_and_ends(installed: Admin):
    deployment(installed, "knit-api", "knit-app")
    ended = installed.succeed("status")
    found = json.loads(ended.out)
    assert found["ready"] is True
    assert found["releases"][-1] == {
        "name": "knit-app",
        "status": "deployed",
        "revision": 1,
        "chart": "knit-app-0.1.0",
        "appVersion": "0.1.0",
    }
    assert found["workloads"] == [
        {
            "kind": "Deployment",
            "name": "knit-api",
            "release": "knit-app",
            "ready": 1,
            "wanted": 1,
            "images": ["knit-api:0.1.0"],
            "trouble": None,
        }
    ]
    left = datetime.fromisoformat(found["certificates"]["server.crt"]) - datetime.now(UTC)
    assert timedelta(days=823) < left < timedelta(days=826)


@pytest.mark.patient
def test_status_on_a_terminal_is_for_people(installed: Admin, monkeypatch):
    deployment(installed, "knit-api", "knit-app", ready=0)
    state = {"lastState": {"terminated": {"exitCode": 3}}, "state": {}, "name": "api"}
    installed.tools.add(
        "Pod",
        "knit-api-x",
        metadata={"labels": {"app": "knit-api"}},
        status={"containerStatuses": [state]},
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    ended = installed("status")
    assert ended.code == 1
    text = ended.out.decode()
    assert "knit-api-x: api ended with exit code 3" in text.splitlines()[0]
    assert "certs/server.crt is valid until" in text
    assert "0/1" in text


@pytest.mark.patient
def test_status_tells_what_runs_inside_and_what_needs_attention(installed: Admin):
    deployment(installed, "knit-api", "knit-app")
    inside = json.loads(installed.succeed("status").out)["inside"]
    assert inside["ended"]["done"] == 3
    installed.tools.say("inside.json", json.dumps(inside | {"problems": ["no worker"]}))
    ended = installed("status")
    assert ended.code == 1
    assert json.loads(ended.out)["problems"] == ["no worker"]


@pytest.mark.patient
def test_on_a_terminal_what_needs_attention_comes_first_and_once(installed: Admin, monkeypatch):
    """With --watch the end may be left out."""
    deployment(installed, "knit-api", "knit-app")
    inside = json.loads(installed.succeed("status").out)["inside"]
    installed.tools.say("inside.json", json.dumps(inside | {"problems": ["no worker"]}))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    lines = installed("status").out.decode().splitlines()
    assert [number for number, line in enumerate(lines) if "no worker" in line] == [0]
    assert any(line.startswith("ended within 24 hours: 3 done") for line in lines)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"problem": "the database does not answer"}', "the database does not answer"),
        ('{"older": 1}', "the API answers in another form: is it of this version?"),
    ],
)
@pytest.mark.patient
def test_status_of_an_inside_that_cannot_be_shown(installed: Admin, answer, problem):
    deployment(installed, "knit-api", "knit-app")
    installed.tools.say("inside.json", answer)
    ended = installed("status")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert (found["inside"], found["problems"]) == (None, [problem])


@pytest.mark.patient
def test_status_before_an_installation_is_not_ready(prepared: Admin):
    ended = prepared("status")
    assert ended.code == 1
    found = json.loads(ended.out)
    assert {one["status"] for one in found["releases"]} == {"not installed"}


@pytest.mark.patient
def test_status_of_an_unreadable_certificate_is_not_ready(installed: Admin):
    (installed.folder / "certs" / "server.crt").write_text("")
    ended = installed("status", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["certificates"]["server.crt"].startswith("1970")


# --- renew-certs ---


@pytest.mark.patient
def test_a_renewed_certificate_has_the_same_names_and_todays_nodes(admin: Admin, charts):
    admin.succeed("prepare", "--host", "knit.example.com")
    admin.succeed("install")
    mount = {"volumes": [{"name": "tls", "secret": {"secretName": "knit-admin-tls"}}]}
    projected = [{"projected": {"sources": [{"secret": {"name": "knit-admin-tls"}}]}}]
    admin.tools.add("Pod", "knit-api-1", spec=mount)
    admin.tools.add("Pod", "registry-1", spec={"volumes": projected})
    admin.tools.add("Pod", "other", spec={"volumes": [{"emptyDir": {}}]})
    admin.tools.add_node("10.0.0.8")
    admin.tools.forget()
    before, authority = admin.text("certs/server.crt"), admin.text("certs/ca.crt")
    ended = admin.succeed("renew-certs")
    assert names(admin) == ("knit.example.com", "10.0.0.7", "10.0.0.8", "localhost", "127.0.0.1")
    assert admin.text("certs/server.crt") != before
    assert admin.text("certs/ca.crt") == authority
    served = admin.tools.objects()["secret/knit-admin-tls"]["data"]["tls.crt"]
    assert base64.b64decode(served).decode() == admin.text("certs/server.crt")
    assert "secret/knit-admin-tls: updated; 2 pods serve it within seconds" in ended.err
    [annotate] = [w[4:] for _, w, _ in admin.tools.calls("kubectl") if w[4] == "annotate"]
    assert annotate[:4] == ["annotate", "--overwrite", "pod/knit-api-1", "pod/registry-1"]
    assert annotate[4].startswith("knit/certificates=20")
    assert "users need the new CA" not in ended.err


@pytest.mark.patient
def test_a_renewed_authority_needs_new_handouts(installed: Admin):
    before = installed.text("certs/ca.crt")
    handed = installed.text("handouts/knitprofile")
    ended = installed.succeed("renew-certs", "--renew-ca")
    assert installed.text("certs/ca.crt") != before
    assert f"users need the new CA: give them {installed.folder}/handouts once more" in ended.err
    assert installed.text("handouts/knitprofile") != handed
    [aside] = (installed.folder / "certs").glob("replaced-*")
    assert (aside / "ca.crt").read_text() == before
    installed.knit.variables["RENEW_CA"] = "1"
    installed.succeed("renew-certs")
    assert len(list((installed.folder / "certs").glob("replaced-*"))) == 2


@pytest.mark.patient
def test_a_given_certificate_is_brought_to_the_cluster(installed: Admin):
    mine = made(name="mine")
    ca, ca_key = write_pair(installed, "ca", mine)
    installed.succeed("renew-certs", "--tls-ca-cert", ca, "--tls-ca-key", ca_key)
    data = installed.tools.objects()["secret/knit-admin-tls"]["data"]
    assert base64.b64decode(data["ca.crt"]) == mine.certificate
    both = installed("renew-certs", "--renew-ca", "--tls-ca-cert", ca, "--tls-ca-key", ca_key)
    assert "error: --renew-ca and certificates exclude each other\n" in both.err


@pytest.mark.patient
def test_before_the_installation_only_the_folder_is_renewed(prepared: Admin):
    ended = prepared.succeed("renew-certs")
    assert "the handouts are as they were: the Service knit-api has no port" in ended.err
    assert "secret/knit-admin-tls" not in prepared.tools.objects()


@pytest.mark.patient
def test_a_damaged_certificate_is_renewed(installed: Admin):
    (installed.folder / "certs" / "server.crt").write_text("damaged")
    installed.succeed("renew-certs")
    assert names(installed) == ("10.0.0.7", "localhost", "127.0.0.1")


@pytest.mark.patient
def test_renewal_ends_plain_http(prepared: Admin):
    prepared.succeed("prepare", "--no-tls")
    prepared.succeed("renew-certs")
    assert not (prepared.folder / "certs" / "no-tls").exists()


@pytest.mark.patient
def test_an_expired_authority_cannot_sign(prepared: Admin):
    old = made(ends=datetime.now(UTC) - timedelta(hours=1))
    (prepared.folder / "certs" / "ca.crt").write_bytes(old.certificate)
    (prepared.folder / "certs" / "ca.key").write_bytes(old.key)
    ended = prepared("renew-certs")
    assert ended.code == 1
    assert "the CA certificate has expired" in ended.err
    prepared.succeed("renew-certs", "--renew-ca")


# --- uninstall ---


def fill(admin: Admin) -> None:
    """What knit has made, what its charts keep, and what is somebody else's."""
    own = {"app.kubernetes.io/part-of": "knit", "app.kubernetes.io/managed-by": "knit"}
    spec = {"resources": {"requests": {"storage": "1Gi"}}}
    kept = {"meta.helm.sh/release-name": "knit-db-postgres"}
    admin.tools.add("PersistentVolumeClaim", "data-1", metadata={"labels": own}, spec=spec)
    admin.tools.add("PersistentVolumeClaim", "pgdata", metadata={"annotations": kept}, spec=spec)
    admin.tools.add("PersistentVolumeClaim", "adopted", spec=spec)
    admin.tools.add("Secret", "database-credential", metadata={"annotations": kept})
    admin.tools.add("Secret", "of-others")
    admin.tools.add("Job", "worker-run-1", metadata={"labels": own})
    admin.tools.add("Pod", "worker-run-1-x", metadata={"labels": own})


@pytest.mark.patient
def test_uninstall_removes_api_and_workers_and_keeps_the_rest(installed: Admin):
    fill(installed)
    before = installed.tools.objects()
    ended = installed.succeed("uninstall", "--yes")
    assert set(installed.tools.releases()) == {
        *("knit-storage-nfs", "knit-certs", "knit-db-postgres", "knit-image-registry")
    }
    assert installed.tools.objects() == before
    assert "knit: this goes from namespace knit:\nknit:   release knit-app\n" in ended.err
    assert "all claims stay: Data, database and images" in ended.err
    assert "API and workers are gone; all Data stay" in ended.err
    installed.succeed("install")


@pytest.mark.patient
def test_uninstall_hard_removes_everything_of_knit_and_nothing_else(installed: Admin):
    fill(installed)
    ended = installed.succeed("uninstall", "--hard", "--yes")
    assert installed.tools.releases() == {}
    left = {
        key for key in installed.tools.objects() if key.split("/")[0] not in ("service", "node")
    }
    assert left == {"persistentvolumeclaim/adopted", "secret/of-others", "namespace/knit"}
    for line in ("claim data-1 (1Gi), with its content", "claim pgdata", "job/worker-run-1"):
        assert f"knit:   {line}" in ended.err
    assert "knit is gone, with all Data" in ended.err
    removed = [w[3] for _, w, _ in installed.tools.calls("helm") if w[2] == "uninstall"]
    assert removed[0] == "knit-app"
    assert removed[-1] == "knit-storage-nfs"
    assert "there is nothing of knit to remove" in installed.succeed("uninstall", "--hard").err


@pytest.mark.patient
def test_uninstall_asks_first(installed: Admin):
    for flags in ((), ("--hard",)):
        ended = installed("uninstall", *flags)
        assert ended.code == 1
        assert "error: nothing was removed\nhint: look at the list, then confirm it" in ended.err
    assert len(installed.tools.releases()) == 5


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        (False, ()),
        pytest.param(True, (), marks=pytest.mark.patient),
        pytest.param(True, ("--hard",), marks=pytest.mark.patient),
    ],
)
def test_uninstall_on_a_terminal_takes_an_answer(installed: Admin, monkeypatch, answer, flags):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or answer)
    ended = installed("uninstall", *flags)
    assert ended.code == (0 if answer else 1)
    assert asked == ["Remove it, and all Data for good?" if flags else "Remove it?"]


@pytest.mark.patient
def test_a_long_list_is_cut(installed: Admin):
    own = {"app.kubernetes.io/part-of": "knit", "app.kubernetes.io/managed-by": "knit"}
    objects = installed.tools.objects()
    for number in range(30):
        for kind in ("PersistentVolumeClaim", "Job"):
            one = {"kind": kind, "metadata": {"name": f"x-{number}", "labels": own}, "spec": {}}
            objects[f"{kind.lower()}/x-{number}"] = one
    installed.tools.say("objects.json", json.dumps(objects))
    ended = installed("uninstall", "--hard")
    assert "and 10 more claims, with their content" in ended.err
    assert "more objects" in ended.err


@pytest.mark.patient
def test_claims_in_use_are_told(installed: Admin, monkeypatch):
    fill(installed)
    monkeypatch.setattr("knit_cli.admin.installing.removal._GONE_WITHIN", 0)
    monkeypatch.setattr("knit_cli.admin.cluster.Cluster.delete", lambda *_, **__: None)
    ended = installed("uninstall", "--hard", "--yes")
    assert ended.code == 1
    assert (
        "error: 2 claims are still there\nreason: something uses them: data-1, pgdata" in ended.err
    )


@pytest.mark.patient
def test_everything_stays_for_its_owner_alone(installed: Admin):
    installed.succeed("renew-certs", "--renew-ca")
    for path in installed.folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
