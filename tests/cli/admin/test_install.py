"""`knit admin install` and `upgrade`: what helm and kubectl are told, and what happens when cut."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from knit_cli.admin import reach
from knit_cli.admin.charts import ChartSource
from knit_cli.admin.reach import Unreachable
from knit_cli.errors import BadInput
from knit_cli.version import version
from knit_workflows.domain.accounts.tokens import is_token
from tests.cli.admin.conftest import Admin

pytestmark = pytest.mark.patient  # each starts helm's and kubectl's stand-ins many times

ORDER = ["knit-storage-nfs", "knit-certs", "knit-db-postgres", "knit-image-registry", "knit-app"]


def upgrades(admin: Admin) -> dict[str, tuple[list[str], dict]]:
    """Of each chart: the words helm got, and the values on its stdin."""
    return {
        words[words.index("--install") + 1]: (words, json.loads(given))
        for _, words, given in admin.tools.calls("helm")
        if "upgrade" in words
    }


def test_the_charts_are_installed_in_order_with_exactly_these_words(prepared: Admin, charts: Path):
    prepared.succeed("install")
    told = upgrades(prepared)
    assert list(told) == ORDER
    for chart, (words, _) in told.items():
        values = [prepared.folder / "values" / f"{chart}.yaml"]
        if chart == "knit-app":
            values += [
                prepared.folder / "values" / f"{name}.yaml" for name in ("hooks", "extra-api")
            ]
        assert words == [
            *("--kubeconfig", str(prepared.folder / "kubeconfig")),
            *("upgrade", "--install", chart, str(charts / chart), "--values", "-"),
            *(word for path in values for word in ("--values", str(path))),
            *("--wait", "--timeout", "10m", "--namespace", "knit"),
        ]


def test_values_are_handed_over_between_charts_without_secrets(prepared: Admin):
    storage = {"class": {"data": "d", "system": "s"}}
    prepared.tools.say("values-knit-storage-nfs.json", json.dumps(storage))
    database = {"service": "db", "credential": {"secret": "x", "password": "SECRET"}}
    prepared.tools.say("values-knit-db-postgres.json", json.dumps(database))
    prepared.succeed("install")
    told = {chart: values for chart, (_, values) in upgrades(prepared).items()}
    certs = {"component": "knit-certs"}
    assert told["knit-storage-nfs"] == {}
    assert told["knit-certs"] == {
        "enabled": True,
        "external": True,
        "secret": {"server": "knit-admin-tls"},
    }
    assert told["knit-db-postgres"] == {"storage": storage}
    assert told["knit-image-registry"] == {"storage": storage, "certs": certs}
    assert told["knit-app"] == {
        "storage": storage,
        "certs": certs,
        "database": {"service": "db", "credential": {"secret": "x"}},
        "accounts": {"bootstrapToken": {"existingSecret": "knit-admin-bootstrap-token"}},
    }


def test_the_administrators_file_wins_over_what_is_handed_over_and_it_is_said(prepared: Admin):
    """For helm, later files win."""
    storage = {"class": {"data": "d", "system": "s"}, "nfs": {"share": "/"}}
    prepared.tools.say("values-knit-storage-nfs.json", json.dumps(storage))
    path = prepared.folder / "values" / "knit-app.yaml"
    mine = "storage: {class: {data: fast, system: s}, more: 1}\naccounts: {bootstrapToken: null}\n"
    path.write_text(mine)
    ended = prepared.succeed("install")
    words, given = upgrades(prepared)["knit-app"]
    assert given["storage"] == storage
    assert words.index("-") < words.index(str(path))
    said = [one for one in ended.err.splitlines() if one.endswith("; the file counts")]
    assert said == [
        "knit: values/knit-app.yaml: storage.class.data is fast, and would be d without it; "
        "the file counts",
        "knit: values/knit-app.yaml: accounts.bootstrapToken is null, and would be "
        "{existingSecret: knit-admin-bootstrap-token} without it; the file counts",
    ]


def crashed(name: str, exit_code: int, *, restarted: bool = False, **metadata) -> dict:
    """The init container of a pod of knit-db-postgres."""
    ended = {"terminated": {"exitCode": exit_code}}
    states = {"state": {"running": {}}, "lastState": ended} if restarted else {"state": ended}
    labels = {"app.kubernetes.io/instance": "knit-db-postgres"}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": name, "labels": labels, **metadata},
        "status": {"initContainerStatuses": [{"name": "roles", **states}]},
    }


def test_a_crash_is_told_at_once_with_its_last_lines(prepared: Admin):
    """While helm waits still: the small one ends when the log was read. Others are not told of."""
    pods = {
        "pod/db-1": crashed("db-1", 3),
        "pod/db-2": crashed("db-2", 3, restarted=True),
        "pod/db-3": crashed("db-3", 0),
        "pod/db-4": crashed("db-4", 3, deletionTimestamp="2026-01-01T00:00:00Z"),
    }
    prepared.tools.say("crash-knit-db-postgres", json.dumps(pods))
    prepared.tools.say("log-db-1-roles", "\n".join(f"line {one} \x1b[31m" for one in range(20)))
    prepared.tools.say("previous-log-db-2-roles", "password refused")
    said = prepared.succeed("install").err
    assert said.count("ended with exit code") == 2
    assert "knit: db-1: roles ended with exit code 3; its last lines:\n    line 12 " in said
    assert "\x1b" not in said
    assert "db-2: roles ended with exit code 3; its last lines:\n    password refused\n" in said
    assert said.index("db-1: roles") < said.index("knit-db-postgres: done")


def test_what_cannot_start_is_told_at_once_too(prepared: Admin):
    pods = {"pod/db-1": crashed("db-1", 3), "pod/db-2": crashed("db-2", 0)}
    waiting = {"reason": "ErrImagePull", "message": "no such\nimage"}
    pods["pod/db-2"]["status"]["containerStatuses"] = [
        {"name": "db", "state": {"waiting": waiting}},
        {"name": "other", "state": {"waiting": {"reason": "PodInitializing"}}},
    ]
    prepared.tools.say("crash-knit-db-postgres", json.dumps(pods))
    said = prepared.succeed("install").err
    assert said.count("knit: db-2: db: ErrImagePull: no such image\n") == 1
    assert "PodInitializing" not in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("accounts: 5", "accounts is 5, and should have `bootstrapToken`"),
        ("accounts: {bootstrapToken: [x]}", "accounts.bootstrapToken is [x], and should have"),
    ],
)
def test_values_of_another_form_are_told_before_anything_is_installed(
    prepared: Admin, text, reason
):
    path = prepared.folder / "values" / "knit-app.yaml"
    path.write_text(text)
    ended = prepared("install")
    assert ended.code == 1
    assert f"error: {path} cannot be used\nreason: {reason}" in ended.err
    assert upgrades(prepared) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Secret", "it is no manifest of a Secret"),
        ("kind: Role\nmetadata: {name: a}\ndata: {}", "it is no manifest of a Secret"),
        ("kind: Secret\nmetadata: {name: --all}\ndata: {}", "metadata.name is --all, which is no"),
    ],
)
def test_a_pull_secret_of_another_form_is_told(prepared: Admin, text, words):
    (prepared.folder / "knit-image-registry-secret.yaml").write_text(text)
    ended = prepared("install")
    assert ended.code == 1
    assert words in ended.err
    assert upgrades(prepared) == {}


def test_a_service_whose_name_would_be_a_flag_is_told(installed: Admin):
    (installed.folder / "values" / "knit-image-registry.yaml").write_text("service: --all")
    ended = installed("handout")
    assert ended.code == 1
    assert "service is --all, which is no name" in ended.err


def test_a_new_folder_does_not_take_an_installation_over_by_mistake(installed: Admin):
    """Its users would trust neither the new certificates, nor would the old token open anything."""
    flags = ("--settings", "other")
    installed.succeed("prepare", *flags, "--temporal", "temporal.example:7233")
    before = installed.tools.objects()
    ended = installed("install", *flags)
    assert ended.code == 1
    assert "error: namespace knit has an installation of another settings folder\n" in ended.err
    assert installed.tools.objects() == before
    assert not (installed.knit.cwd / "other" / "bootstrap-token").exists()
    installed.succeed("install", *flags, "--take-over")
    installed.succeed("install", *flags)


@pytest.mark.parametrize("command", ["install", "upgrade", "uninstall"])
@pytest.mark.parametrize("flags", [(), ("--take-over", "--repair")])
def test_another_programs_releases_of_the_same_names_are_left_alone(
    prepared: Admin, command: str, flags: tuple[str, ...]
):
    """Knitfab's, whose scripts read the variable NAMESPACE as well; the folder stays as it is."""
    prepared.tools.set_foreign_release("knit-app")
    prepared.tools.set_foreign_release("knit-db-postgres")
    prepared.tools.set_release("knit-certs", "deployed", 1)  # with nothing in it
    prepared.tools.say("manifest-knit-certs", "\n")
    prepared.knit.variables["NAMESPACE"] = "knitfab"
    objects, releases = prepared.tools.objects(), prepared.tools.releases()
    if command == "uninstall":
        flags = ("--hard", "--yes")
    ended = prepared(command, *flags)
    assert ended.code == 1
    assert "error: namespace knitfab holds another program\n" in ended.err
    assert "(they are part of knitfab): knit-db-postgres, knit-app; knit's have the" in ended.err
    assert "hint: `unset NAMESPACE`, which `knit admin` reads too, or name a" in ended.err
    assert "--namespace knit; nothing was changed\n" in ended.err
    assert (prepared.tools.objects(), prepared.tools.releases()) == (objects, releases)
    assert upgrades(prepared) == {}
    assert prepared.text("namespace") == "knit\n"


def test_a_foreign_release_in_the_namespace_of_the_folder_is_told_too(prepared: Admin):
    prepared.tools.set_foreign_release("knit-storage-nfs")
    ended = prepared("install")
    assert "hint: name a namespace of knit's own: --namespace NAME; nothing was" in ended.err


@pytest.mark.parametrize(
    "status", ["failed", "pending-install", "pending-upgrade", "uninstalling", "superseded"]
)
def test_releases_of_knits_are_known_in_every_state(prepared: Admin, status: str):
    """Their manifest is recorded before the first object is made."""
    prepared.tools.set_release("knit-app", status, 1)
    prepared.succeed("install")


def test_a_token_that_was_withdrawn_is_made_anew(installed: Admin):
    before = installed.text("bootstrap-token")
    (installed.folder / "bootstrap-token").unlink()
    installed.succeed("renew-certs")
    installed.succeed("install")
    assert installed.text("bootstrap-token") != before


def test_a_crash_without_a_log_is_told_too(prepared: Admin):
    prepared.tools.say("crash-knit-db-postgres", json.dumps({"pod/db-1": crashed("db-1", 3)}))
    assert "db-1: roles ended with exit code 3\n" in prepared.succeed("install").err


def test_what_an_upgrade_replaces_may_end_as_it_likes(installed: Admin):
    """A worker that is older than its database ends with 1, for example."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    before = crashed("db-1", 0)
    installed.tools.add("Pod", "db-1", metadata=before["metadata"], status=ready)
    pods = {"pod/db-1": crashed("db-1", 1), "pod/db-2": crashed("db-2", 3)}
    installed.tools.say("crash-knit-db-postgres", json.dumps(pods))
    said = installed.succeed("install").err
    assert "db-2: roles ended" in said
    assert "db-1: roles ended" not in said


def test_a_job_that_has_failed_is_not_waited_for(prepared: Admin, monkeypatch):
    """helm is told to end; the next command goes on. Jobs from before do not count."""
    labels = {"app.kubernetes.io/instance": "knit-db-postgres"}
    failed = [{"type": "Failed", "status": "True", "message": "reached its backoff limit"}]
    job = {"kind": "Job", "metadata": {"name": "j", "uid": "j", "labels": labels}}
    job["status"] = {"conditions": failed}
    prepared.tools.say("crash-knit-db-postgres", json.dumps({"job/j": job}))
    ended = prepared("install")
    assert ended.code == 1
    assert "error: knit-db-postgres could not be installed\n" in ended.err
    assert "job j has failed: reached its backoff limit\n" in ended.err
    assert prepared.tools.releases()["knit-db-postgres"]["status"] == "pending-install"
    prepared.tools.be_quiet("crash-knit-db-postgres")
    assert "repaired" in prepared.succeed("install").err


def test_it_is_ready_when_the_api_answers(prepared: Admin, monkeypatch):
    """After a wait, since the nodes learn of a port a moment later."""
    answers = iter([Unreachable("refused"), 502, 401])

    def ask(_folder, _variables, url: str) -> int:
        assert url == "https://10.0.0.7:30803/api/plans"
        one = next(answers)
        if isinstance(one, Unreachable):
            raise one
        return one

    monkeypatch.setattr(reach, "ask", ask)
    monkeypatch.setattr(reach, "WITHIN", 20)
    monkeypatch.setattr(reach, "_PAUSE", 0)
    ended = prepared.succeed("install", "--json")
    assert json.loads(ended.out)["answers"] is True
    assert "knit: waits for the API at https://10.0.0.7:30803/api: refused\n" in ended.err
    assert "knit: knit is ready: the API answers at https://10.0.0.7:30803/api\n" in ended.err
    assert "502" not in ended.err


@pytest.mark.parametrize("answer", [Unreachable("no route to host"), 404])
def test_an_api_that_this_machine_cannot_reach_is_told(prepared: Admin, monkeypatch, answer):
    def ask(*_) -> int:
        if isinstance(answer, Unreachable):
            raise answer
        return answer

    monkeypatch.setattr(reach, "ask", ask)
    ended = prepared.succeed("install", "--json")
    assert json.loads(ended.out)["answers"] is False
    assert "is ready" not in ended.err
    reason = "answers with 404" if answer == 404 else "no route to host"
    assert "the API does not answer from this machine at https://10.0.0.7:30803/api" in ended.err
    assert reason in ended.err


@pytest.mark.parametrize(
    ("api_root", "origin"),
    [
        ("https://knit.example.com:8443/api", "https://knit.example.com:8443"),
        ("https://knit.example.com/knit/api", None),
    ],
)
def test_the_api_knows_its_address_behind_a_balancer(prepared: Admin, api_root, origin):
    """As far as it has a setting for that: one without a path."""
    prepared.succeed("prepare", "--api-root", api_root)
    prepared.succeed("install")
    assert upgrades(prepared)["knit-app"][1]["accounts"].get("publicUrl") == origin


def test_a_broken_address_is_told_before_anything_is_installed(prepared: Admin):
    (prepared.folder / "api-root").write_text("http://[/api")
    ended = prepared("install")
    assert ended.code == 1
    assert "is not the address of an API" in ended.err
    assert upgrades(prepared) == {}


def test_charts_that_are_left_out_are_not_handed_over(prepared: Admin):
    for name in ("knit-storage-nfs", "knit-certs"):
        (prepared.folder / "values" / f"{name}.yaml").unlink()
    prepared.succeed("install")
    told = {chart: values for chart, (_, values) in upgrades(prepared).items()}
    assert list(told) == ["knit-db-postgres", "knit-image-registry", "knit-app"]
    assert told["knit-image-registry"] == {}


def test_a_temporal_for_trials_is_installed_before_knit(admin: Admin, charts: Path):
    admin.succeed("prepare", "--with", "knit-temporal")
    admin.succeed("install")
    assert list(upgrades(admin)) == [*ORDER[:-1], "knit-temporal", "knit-app"]


def test_secrets_are_neither_words_nor_values_nor_in_an_environment(prepared: Admin):
    logins = json.dumps({"auths": {"r": {"auth": "c2VjcmV0"}}})
    prepared.knit.variables["PULL_SECRET"] = str(prepared.knit.write("docker.json", logins))
    prepared.succeed("prepare")
    prepared.succeed("install")
    token = prepared.text("bootstrap-token").strip()
    assert is_token(token)
    secrets = [token]
    for name in ("ca.key", "server.key"):
        key = prepared.text(f"certs/{name}")
        secrets += [key.splitlines()[1], base64.b64encode(key.encode()).decode()]
    lines = (prepared.tools.state / "calls.jsonl").read_text().splitlines()
    for tool, words, given, environment in map(json.loads, lines):
        for secret in secrets:
            assert secret not in json.dumps([words, environment])
            assert tool == "kubectl" or secret not in given
    # The key of the authority goes nowhere at all, nor does the token.
    assert not any(one in "".join(lines) for one in (secrets[0], *secrets[1:3]))


def test_the_secrets_of_the_folder_are_in_the_cluster(prepared: Admin):
    prepared.succeed("install")
    objects = prepared.tools.objects()
    tls = objects["secret/knit-admin-tls"]
    assert tls["type"] == "kubernetes.io/tls"
    for key, file in (("tls.crt", "server.crt"), ("tls.key", "server.key"), ("ca.crt", "ca.crt")):
        assert base64.b64decode(tls["data"][key]).decode() == prepared.text(f"certs/{file}")
    token = prepared.text("bootstrap-token").strip()
    digest = objects["secret/knit-admin-bootstrap-token"]["data"]["sha256"]
    assert base64.b64decode(digest).decode() == hashlib.sha256(token.encode()).hexdigest()
    assert objects["namespace/knit"]
    assert stat.S_IMODE((prepared.folder / "bootstrap-token").stat().st_mode) == 0o600


def test_a_second_install_keeps_the_token_and_sends_no_secret_again(installed: Admin):
    token = installed.text("bootstrap-token")
    installed.succeed("install")
    assert installed.text("bootstrap-token") == token
    verbs = [words[4] for _, words, _ in installed.tools.calls("kubectl")]
    assert not {"apply", "create", "rollout"} & set(verbs)


def test_a_new_token_restarts_what_has_it_in_its_environment(installed: Admin):
    source = {"secretKeyRef": {"name": "knit-admin-bootstrap-token", "key": "sha256"}}
    pod = {"containers": [{"image": "knit", "env": [{"name": "X", "valueFrom": source}]}]}
    installed.tools.add("Deployment", "knit-api", spec={"template": {"spec": pod}})
    other = {"containers": [{"image": "x", "envFrom": [{"secretRef": {"name": "else"}}]}]}
    installed.tools.add("Deployment", "other", spec={"template": {"spec": other}})
    (installed.folder / "bootstrap-token").unlink()
    installed.succeed("install")
    rollouts = [w[4:] for _, w, _ in installed.tools.calls("kubectl") if w[4] == "rollout"]
    assert rollouts == [
        ["rollout", "restart", "deployment/knit-api"],
        ["rollout", "status", "deployment/knit-api", "--timeout", "10m"],
    ]


def test_a_file_that_holds_no_token_is_told(prepared: Admin):
    (prepared.folder / "bootstrap-token").write_text("secret")
    ended = prepared("install")
    assert ended.code == 1
    assert "bootstrap-token holds no token of knit's\nreason: its form or its checksum" in ended.err


def test_a_secret_to_pull_images_with_is_made_and_named(prepared: Admin):
    logins = json.dumps({"auths": {"r": {"auth": "c2VjcmV0"}}})
    prepared.knit.variables["PULL_SECRET"] = str(prepared.knit.write("docker.json", logins))
    prepared.succeed("prepare")
    prepared.succeed("install")
    assert prepared.tools.objects()["secret/knit-regcred"]["type"].endswith("dockerconfigjson")
    for chart, (_, values) in upgrades(prepared).items():
        pulls = chart != "knit-certs"
        assert values.get("imagePullSecrets") == ([{"name": "knit-regcred"}] if pulls else None)


def test_the_place_of_images_may_be_named(prepared: Admin):
    prepared.knit.variables.update(IMAGE_REPOSITORY_HOST="registry.example", REPOSITORY="ml/knit")
    prepared.succeed("install")
    words, _ = upgrades(prepared)["knit-app"]
    flag = words.index("--set-json")
    assert words[flag + 1] == 'imageRepository="registry.example/ml/knit"'
    # It is said now, and so wins over what the file said once.
    assert flag > max(at for at, word in enumerate(words) if word == "--values")


def test_without_tls_nothing_of_it_is_installed(prepared: Admin):
    prepared.succeed("prepare", "--no-tls")
    prepared.succeed("install")
    assert upgrades(prepared)["knit-certs"][1] == {"enabled": False}
    assert "secret/knit-admin-tls" not in prepared.tools.objects()
    assert yaml.safe_load(prepared.text("handouts/knitprofile")) == {
        "apiRoot": "http://10.0.0.7:30803/api",
        "cert": {},
    }


def test_certificates_of_another_origin_are_left_to_their_values(prepared: Admin):
    (prepared.folder / "values" / "knit-certs.yaml").write_text(
        "external: true\nsecret: {server: mine}\n"
    )
    prepared.succeed("install")
    assert upgrades(prepared)["knit-certs"][1] == {}


def test_a_token_of_another_origin_is_left_to_its_values(prepared: Admin):
    path = prepared.folder / "values" / "knit-app.yaml"
    path.write_text(path.read_text() + "accounts: {bootstrapToken: {existingSecret: mine}}\n")
    prepared.succeed("install")
    assert "accounts" not in upgrades(prepared)["knit-app"][1]


def test_it_says_how_long_each_chart_took(prepared: Admin):
    ended = prepared.succeed("install", "--json")
    found = json.loads(ended.out)
    assert list(found["seconds"]) == ORDER
    assert found["apiRoot"] == "https://10.0.0.7:30803/api"
    for chart in ORDER:
        assert f"knit: {chart}: done, " in ended.err
    assert "knit: installed in " in ended.err
    assert f"the first administrator's token is in {prepared.folder}/bootstrap-token" in ended.err


def test_without_an_address_it_is_installed_all_the_same(prepared: Admin):
    """Such as with a Service of the type ClusterIP, behind something that comes later."""
    prepared.tools.say("no-services")
    ended = prepared.succeed("install", "--json")
    assert json.loads(ended.out)["apiRoot"] is None
    assert "there are no handouts: the Service knit-api has no port on the nodes" in ended.err


def test_with_quiet_it_says_only_the_result(prepared: Admin):
    ended = prepared.knit("--quiet", "admin", "install")
    assert ended.code == 0
    assert "done" not in ended.err
    assert "the API does not answer from this machine at https://10.0.0.7:30803/api" in ended.err


def test_a_terminal_shows_a_table(prepared: Admin, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    ended = prepared.succeed("install")
    assert "chart" in ended.err
    assert "knit-app: done" not in ended.err


def test_a_chart_that_fails_says_why_and_the_next_call_goes_on(prepared: Admin):
    prepared.tools.say("fail-knit-db-postgres", "Error: context deadline exceeded")
    prepared.tools.add(
        "Deployment",
        "database-postgres",
        metadata={"annotations": {"meta.helm.sh/release-name": "knit-db-postgres"}},
        spec={
            "replicas": 1,
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"spec": {"containers": [{"image": "postgres"}]}},
        },
    )
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    prepared.tools.add(
        "Pod",
        "database-postgres-1",
        metadata={"labels": {"app": "db"}},
        status={"containerStatuses": [{"name": "main", "state": waiting}]},
    )
    ended = prepared("install")
    assert ended.code == 1
    assert "error: knit-db-postgres could not be installed\n" in ended.err
    assert "reason: Error: context deadline exceeded\n" in ended.err
    assert "    database-postgres: 0 of 1 ready\n" in ended.err
    assert "    database-postgres-1: ImagePullBackOff no such image\n" in ended.err
    assert "hint: mend that, then repeat the command: it goes on from here\n" in ended.err
    assert list(upgrades(prepared)) == ORDER[:3]
    prepared.tools.be_quiet("fail-knit-db-postgres")
    prepared.tools.forget()
    prepared.succeed("install")
    assert list(upgrades(prepared)) == ORDER


def test_values_that_a_chart_refuses_are_told_as_helm_says_them(prepared: Admin):
    words = "Error: values don't meet the specifications of the schema(s) in the following chart(s)"
    prepared.tools.say("fail-knit-certs", words)
    ended = prepared("install")
    assert f"reason: {words}" in ended.err
    assert "hint: correct the values in the settings folder, then repeat the command\n" in ended.err


def test_rights_that_are_missing_are_told(prepared: Admin):
    prepared.tools.say("fail-knit-certs", "Error: secrets is forbidden: User cannot list")
    ended = prepared("install")
    assert "hint: use a kubeconfig with the rights; `knit admin doctor` lists those" in ended.err


def test_credentials_that_have_ended_are_told(prepared: Admin):
    prepared.tools.say("fail-knit-certs", "error: You must be logged in to the server")
    assert "hint: use a kubeconfig whose credentials are valid" in prepared("install").err


def test_a_cluster_that_does_not_answer_is_told(prepared: Admin):
    prepared.tools.say("no-cluster")
    ended = prepared("install")
    assert ended.code == 1
    assert "error: kubectl get failed\n" in ended.err
    assert "check that the cluster runs, and that the kubeconfig is its own" in ended.err


@pytest.mark.parametrize("text", ["v2.17.0", "", "v10.0.0"])
def test_a_helm_of_another_age_is_refused(prepared: Admin, text):
    prepared.tools.say("helm-version", text)
    ended = prepared("install")
    assert "cannot be used\nhint: install helm 3 or 4, or name another one in HELM" in ended.err
    assert not upgrades(prepared)


def test_helm_4_is_as_good(prepared: Admin):
    """It is told to take back what others have set, such as a number of pods."""
    prepared.tools.say("helm-version", "v4.3.2")
    prepared.succeed("install")
    for words, _ in upgrades(prepared).values():
        assert {"--server-side=true", "--force-conflicts"} < set(words)


def test_a_missing_helm_is_told(prepared: Admin):
    prepared.knit.variables["HELM"] = "helm-that-is-not-there"
    ended = prepared("install")
    assert "helm-that-is-not-there cannot be started" in ended.err
    assert "hint: install it, or name it in HELM" in ended.err


# --- cut, and repeated ---


def start(admin: Admin) -> subprocess.Popen[bytes]:
    """Starts `knit admin install` as a process of its own, and waits until helm hangs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "knit_cli", "admin", "install"],
        cwd=admin.knit.cwd,
        env={**admin.knit.variables, "HOME": str(admin.knit.home), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ends = time.monotonic() + 60
    while not (admin.tools.state / "hangs").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.02)
    return process


def wait_until_gone(pid: int) -> None:
    ends = time.monotonic() + 60
    with suppress(OSError):  # it may go while it is looked at
        while "Z" not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < ends
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_install_that_was_cut_goes_on(prepared: Admin, number):
    """Killed outright it leaves helm at work: nobody else may begin before that has ended."""
    prepared.tools.say("hang-knit-db-postgres")
    process = start(prepared)
    helm = int((prepared.tools.state / "hangs").read_text())
    process.send_signal(number)
    process.communicate(timeout=60)
    if number == signal.SIGKILL:
        ended = prepared("install")
        assert ended.code == 1
        assert "it, or a helm that it has started, holds" in ended.err
        assert prepared.tools.releases()["knit-db-postgres"]["status"] == "pending-install"
        os.kill(helm, signal.SIGKILL)
    wait_until_gone(helm)
    (prepared.tools.state / "hang-knit-db-postgres").unlink()
    prepared.tools.forget()
    ended = prepared.succeed("install")
    assert "knit-db-postgres: it was left pending-install by a helm that was killed" in ended.err
    deleted = [w[5:] for _, w, _ in prepared.tools.calls("kubectl") if w[4] == "delete"]
    assert deleted == [["--ignore-not-found", "secret", "sh.helm.release.v1.knit-db-postgres.v1"]]
    assert {one["status"] for one in prepared.tools.releases().values()} == {"deployed"}


def test_what_somebody_elses_helm_does_is_not_disturbed(installed: Admin):
    installed.tools.set_release("knit-app", "pending-upgrade", int(time.time()) - 60, 2)
    ended = installed("install")
    assert ended.code == 1
    assert "error: another helm is at work on knit-app\n" in ended.err
    assert "it is pending-upgrade since " in ended.err
    assert "if it was killed, repeat with --repair" in ended.err
    assert not upgrades(installed)
    installed.succeed("install", "--repair")


def test_what_was_left_long_ago_is_repaired(installed: Admin):
    installed.tools.set_release("knit-app", "pending-upgrade", int(time.time()) - 3600, 2)
    ended = installed.succeed("install")
    assert "knit-app: it was left pending-upgrade by a helm that was killed; repaired" in ended.err


def test_an_uninstall_that_was_cut_is_completed_first(installed: Admin):
    installed.tools.set_release("knit-app", "uninstalling", int(time.time()))
    ended = installed.succeed("install")
    assert "knit-app: an uninstall that was cut is now complete" in ended.err


def test_a_release_without_a_change_is_as_old_as_its_record(installed: Admin):
    installed.tools.set_release("knit-app", "pending-install", "<none>")
    assert "pending-install by a helm that was killed" in installed.succeed("install").err


# --- what is checked first ---


def test_a_broken_folder_is_told_before_anything_is_changed(prepared: Admin):
    (prepared.folder / "values" / "hooks.yaml").write_text("a: [")
    assert "hooks.yaml is not valid YAML" in prepared("install").err
    (prepared.folder / "values" / "hooks.yaml").unlink()
    for name in ("crt", "key"):
        (prepared.folder / "certs" / f"server.{name}").unlink()
    ended = prepared("install")
    assert "error: the settings folder has no certificates\n" in ended.err
    assert "with --no-tls behind a balancer" in ended.err
    (prepared.folder / "values" / "knit-app.yaml").unlink()
    ended = prepared("install")
    assert "the settings folder has no" in ended.err
    assert "knit-app.yaml\nhint: run `knit admin prepare`" in ended.err
    assert not prepared.tools.calls("helm")


def test_a_timeout_is_one(prepared: Admin):
    ended = prepared("install", "--timeout", "10")
    assert ended.code == 2
    assert "write it like 10m or 1h30m" in ended.err
    prepared.succeed("install", "--timeout", "1h30m")
    assert "1h30m" in upgrades(prepared)["knit-app"][0]


def test_upgrade_needs_an_installation(prepared: Admin):
    ended = prepared("upgrade")
    assert ended.code == 1
    assert "error: knit is not installed in namespace knit\n" in ended.err
    prepared.succeed("install")
    prepared.succeed("upgrade")
    assert prepared.tools.releases()["knit-app"]["revision"] == 2


def test_another_namespace_is_remembered(prepared: Admin):
    prepared.succeed("install", "--namespace", "ml")
    assert prepared.text("namespace") == "ml\n"
    assert upgrades(prepared)["knit-app"][0][-2:] == ["--namespace", "ml"]


def test_another_kubeconfig_is_copied(prepared: Admin):
    other = prepared.text("kubeconfig").replace('"c"', '"other"')
    prepared.knit.write("other", other)
    prepared.succeed("install", "--kubeconfig", "other")
    assert prepared.text("kubeconfig") == other


@pytest.mark.parametrize(
    ("root", "chart_version", "words"),
    [
        ("oci://r.example/charts/", "1.2", ["oci://r.example/charts/knit-app", "--version", "1.2"]),
        ("https://c.example", None, ["knit-app", "--repo", "https://c.example"]),
        ("/a b", None, ["/a b/knit-app"]),
        ("/a b", "1.2", ["/a b/knit-app-1.2.tgz"]),
    ],
)
def test_charts_may_come_from_elsewhere(root, chart_version, words):
    assert ChartSource.of(root, chart_version).arguments("knit-app") == words


def test_charts_of_another_version_are_not_there():
    with pytest.raises(BadInput) as caught:
        ChartSource.of(None, "v9.9.9")
    assert f"the charts of this knit have version {version()}, not v9.9.9" in str(caught.value)


def test_a_knit_without_charts_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("knit_cli.admin.charts._PACKED", tmp_path / "none")
    with pytest.raises(BadInput, match="this knit has no charts"):
        ChartSource.of(None, None)
