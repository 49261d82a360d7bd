"""`knit admin prepare`: what it writes, what it keeps, what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from knit_cli.admin.helm.fresh_values import Choices, fresh_values
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls.certificates import Pair
from tests.cli.admin.conftest import KUBECONFIG, Admin, Tools
from tests.cli.admin.test_certificates import made

pytestmark = pytest.mark.patient  # each starts helm's and kubectl's stand-ins many times

FILES = {
    *("README.md", "namespace", "kubeconfig"),
    *("certs/ca.crt", "certs/ca.key", "certs/server.crt", "certs/server.key"),
    *("values/knit-app.yaml", "values/knit-certs.yaml", "values/knit-db-postgres.yaml"),
    *("values/knit-image-registry.yaml", "values/knit-storage-nfs.yaml"),
    *("values/hooks.yaml", "values/extra-api.yaml", ".lock"),
}


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def names(admin: Admin) -> tuple[str, ...]:
    content = (admin.folder / "certs/server.crt").read_bytes()
    return certificates.read_certificate(content, "it").names


def test_a_fresh_folder_has_the_files_of_the_contract_for_its_owner_alone(admin: Admin):
    ended = admin.succeed("prepare", "--host", "knit.example.com")
    assert files(admin.folder).keys() == FILES
    for path in (admin.folder, *admin.folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert admin.text("namespace") == "knit\n"
    assert admin.text("kubeconfig") == KUBECONFIG
    assert names(admin) == ("knit.example.com", "10.0.0.7", "localhost", "127.0.0.1")
    assert "certs/ca.crt and .key: made, a certificate authority of knit's own" in ended.err
    assert "is ready: look through values/, then run `knit admin install`" in ended.err
    server = Pair(
        *((admin.folder / "certs" / f"server.{one}").read_bytes() for one in ("crt", "key"))
    )
    certificates.check_pair(server, "server")
    certificates.check_signed_by(server.certificate, (admin.folder / "certs/ca.crt").read_bytes())


def test_it_asks_kubectl_for_releases_a_complete_copy_and_the_nodes(admin: Admin, tools: Tools):
    admin.succeed("prepare", "--namespace", "ml")
    config = str(admin.knit.home / ".kube" / "config")
    copy = str(admin.folder / "kubeconfig")
    asked, *then = (words for _, words, _ in tools.calls())
    assert asked[:8] == [
        *("--kubeconfig", config, "--namespace", "ml"),
        *("get", "secrets", "--selector", "owner=helm"),
    ]
    assert then == [
        [
            *("--kubeconfig", config, "--namespace", "ml"),
            *("config", "view", "--raw", "--flatten", "--minify"),
        ],
        ["--kubeconfig", copy, "--namespace", "ml", "get", "nodes", "--output", "json"],
    ]


def test_a_namespace_of_another_program_is_refused_before_anything_is_written(admin: Admin):
    admin.tools.set_foreign_release("knit-app")
    admin.knit.variables["NAMESPACE"] = "knitfab"
    ended = admin("prepare")
    assert ended.code == 1
    assert "error: namespace knitfab holds another program\n" in ended.err
    assert "hint: `unset NAMESPACE`, which `knit admin` reads too, or name a" in ended.err
    assert not admin.folder.exists()


@pytest.mark.parametrize("absent", ["helm", "cluster"])
def test_it_may_do_without_a_helm_and_a_cluster(admin: Admin, absent: str):
    """Then nobody can say what the namespace holds: `install` asks again."""
    admin.tools.set_foreign_release("knit-app")
    if absent == "helm":
        admin.knit.variables["HELM"] = "helm-that-is-not-there"
    else:
        admin.tools.say("no-cluster")
    admin.succeed("prepare", "--no-tls")


def test_a_second_call_changes_nothing(admin: Admin):
    admin.succeed("prepare", "--namespace", "ml", "--host", "knit.example.com")
    before = files(admin.folder)
    ended = admin.succeed("prepare")
    assert files(admin.folder) == before
    assert len(ended.err.splitlines()) == 1, ended.err


def test_edits_stay_and_what_differs_is_told(admin: Admin):
    admin.succeed("prepare")
    values = admin.folder / "values" / "knit-app.yaml"
    text = values.read_text().replace("30803", "31000 # mine").replace("namespace:", "#namespace:")
    values.write_text(text + "extra: 1\n")
    ended = admin.succeed("prepare", "--temporal", "t.example:7233")
    assert values.read_text() == text + "extra: 1\n"
    told = "values/knit-app.yaml: kept as you have it; "
    assert f"{told}api.service.nodePort is 31000, a fresh file has 30803\n" in ended.err
    assert f"{told}temporal.address is '', a fresh file has t.example:7233\n" in ended.err
    assert f"{told}temporal.namespace is not there, a fresh file has knit\n" in ended.err
    assert "extra" not in ended.err


def test_a_long_value_is_shown_by_its_beginning(admin: Admin):
    admin.succeed("prepare")
    values = admin.folder / "values" / "hooks.yaml"
    values.write_text(f"hooks: {{lifecycle-hooks: {{before: ['http://a/{'x' * 90}'], after: []}}}}")
    assert "xxx… is" not in admin.succeed("prepare").err
    assert "hooks.lifecycle-hooks.before is ['http://a/xxx" in admin.succeed("prepare").err


def test_values_that_are_no_values_are_refused(admin: Admin):
    admin.succeed("prepare")
    values = admin.folder / "values" / "knit-app.yaml"
    for text, words in (
        ("a: [", "is not valid YAML"),
        ("- a\n", "it is not a mapping with texts as keys"),
        ("1: a\n", "it is not a mapping with texts as keys"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is there twice"),
        ("a: !!python/object/apply:os.system [id]\n", "is not valid YAML"),
        ("? [a]\n: 1\n", "a key is no text"),
    ):
        values.write_text(text)
        ended = admin("prepare")
        assert ended.code == 1
        assert words in ended.err
        assert values.read_text() == text


def test_anchors_and_merges_of_yaml_are_values_too(admin: Admin):
    admin.succeed("prepare")
    values = admin.folder / "values" / "knit-app.yaml"
    values.write_text("x: &x {nodePort: 1}\napi: {service: {<<: *x}}\n")
    assert "api.service.nodePort is 1, a fresh file has 30803" in admin.succeed("prepare").err


def test_the_folder_is_where_flag_or_variable_say(admin: Admin):
    admin.succeed("prepare", "-s", "a folder/inside")
    assert (admin.knit.cwd / "a folder" / "inside" / "namespace").is_file()
    admin.knit.variables["SETTINGS"] = "other"
    admin.succeed("prepare")
    assert (admin.knit.cwd / "other" / "namespace").is_file()
    assert not admin.folder.exists()


def test_the_variables_of_the_installer_stand_for_flags(admin: Admin):
    admin.knit.variables.update(NAMESPACE="ml", NO_TLS="true", VERBOSE="1")
    ended = admin.succeed("prepare")
    assert admin.text("namespace") == "ml\n"
    assert "certs/no-tls" in files(admin.folder)
    assert "config view --raw --flatten --minify\n" in ended.err


def test_a_flag_goes_before_its_variable(admin: Admin):
    admin.knit.variables["NAMESPACE"] = "ml"
    admin.succeed("prepare", "-n", "other")
    assert admin.text("namespace") == "other\n"
    admin.knit.variables.clear()


@pytest.mark.parametrize(
    "name", ["", "Ml", "a b", "a\nkind: Evil", "-a", "x" * 64, "a/b", "--all-namespaces"]
)
def test_what_is_no_namespace_is_refused(admin: Admin, name):
    ended = admin("prepare", f"--namespace={name}")
    if name == "":  # as if it were not given
        assert ended.code == 0
        return
    assert ended.code == 1
    assert "is not the name of a namespace" in ended.err
    assert not admin.folder.exists()


def test_an_unknown_flag_is_an_error(admin: Admin):
    ended = admin("prepare", "--prepare")
    assert ended.code == 2
    assert not admin.folder.exists()


def test_an_unknown_chart_is_an_error(admin: Admin):
    for flag, chart in (("--with", "x"), ("--without", "knit-app")):
        ended = admin("prepare", flag, chart)
        assert ended.code == 2
        assert f"{chart} is none of knit-storage-nfs" in " ".join(ended.err.split())


def test_charts_are_chosen_by_their_files(admin: Admin):
    admin.succeed("prepare", "--storage-class", "fast: rwx", "--with", "knit-temporal")
    there = {path.stem for path in (admin.folder / "values").iterdir()}
    assert "knit-storage-nfs" not in there
    assert "knit-temporal" in there
    app = yaml.safe_load(admin.text("values/knit-app.yaml"))
    assert app["storage"] == {"class": {"data": "fast: rwx", "system": "fast: rwx"}}
    assert app["temporal"]["address"].endswith(":7233")
    database = yaml.safe_load(admin.text("values/knit-db-postgres.yaml"))
    assert database["temporal"] == {"enabled": True}
    ended = admin.succeed("prepare", "--without", "knit-image-registry")
    assert "values/knit-storage-nfs.yaml: not there, so that chart is not part" in ended.err
    assert "now knit-image-registry.yaml.off; the chart is left out from now on" in ended.err
    assert (admin.folder / "values" / "knit-image-registry.yaml.off").is_file()
    admin.succeed("prepare", "--with", "knit-image-registry")
    assert (admin.folder / "values" / "knit-image-registry.yaml").is_file()


@pytest.mark.parametrize("text", ['"', "a: b", "x\n  y: z", "{{ .Values }}", "#", "é€"])
def test_no_name_breaks_out_of_its_place_in_yaml(text):
    fresh = fresh_values(Choices(storage_class=text, temporal=text, temporal_namespace=text))
    app = yaml.safe_load(fresh["knit-app"])
    assert app["temporal"] == {"address": text, "namespace": text}
    assert app["storage"]["class"] == {"data": text, "system": text}
    assert set(app) == {"api", "temporal", "storage"}


# --- the kubeconfig ---


def test_the_kubeconfig_of_a_flag_is_copied_and_stays(admin: Admin, tools: Tools):
    admin.knit.write("my config", KUBECONFIG.replace('"c"', '"mine"'))
    admin.succeed("prepare", "--kubeconfig", "my config")
    assert '"mine"' in admin.text("kubeconfig")
    admin.knit.variables["KUBECONFIG"] = "/nowhere"
    admin.succeed("prepare")
    assert '"mine"' in admin.text("kubeconfig")


def test_the_kubeconfigs_of_the_variable_go_before_that_of_home(admin: Admin):
    mine = admin.knit.write("mine", KUBECONFIG.replace('"c"', '"mine"'))
    admin.knit.variables["KUBECONFIG"] = str(mine)
    admin.succeed("prepare")
    assert '"mine"' in admin.text("kubeconfig")


def test_without_a_kubeconfig_there_is_nothing_to_prepare(admin: Admin):
    assert "there is no kubeconfig at" in admin("prepare", "--kubeconfig", "none").err
    (admin.knit.home / ".kube" / "config").unlink()
    ended = admin("prepare")
    assert ended.code == 1
    assert "reason: neither ~/.kube/config nor KUBECONFIG\n" in ended.err


def test_a_kubeconfig_without_a_cluster_is_refused(admin: Admin):
    admin.knit.write("empty", "{}")
    ended = admin("prepare", "--kubeconfig", "empty")
    assert "error: the kubeconfig names no cluster\n" in ended.err
    assert not (admin.folder / "namespace").exists()


def test_a_kubeconfig_that_chooses_no_cluster_is_refused(admin: Admin, tools: Tools):
    tools.say("no-context")
    ended = admin("prepare")
    assert "error: kubectl config failed\nreason: error: current-context must exist" in ended.err
    assert "hint: choose one: kubectl config use-context NAME" in ended.err


def test_a_missing_kubectl_is_told(admin: Admin):
    admin.knit.variables["KUBECTL"] = "/no where/kubectl"
    ended = admin("prepare")
    assert "error: /no cannot be started\n" in ended.err
    assert "hint: install it, or name it in KUBECTL\n" in ended.err


def test_a_command_of_several_words_may_stand_for_kubectl(admin: Admin, tools: Tools):
    admin.knit.variables["KUBECTL"] = f"/usr/bin/env '{tools.folder}/kubectl'"
    admin.succeed("prepare")


# --- certificates ---


def test_a_cluster_that_does_not_answer_is_told_and_the_call_can_be_repeated(admin: Admin, tools):
    tools.say("no-cluster")
    ended = admin("prepare")
    assert ended.code == 1
    assert "error: the addresses of the cluster's nodes are not known" in ended.err
    assert "no route to host" in ended.err
    assert "check that the cluster runs, and that the kubeconfig is its own" in ended.err
    tools.be_quiet("no-cluster")
    admin.succeed("prepare")
    assert files(admin.folder).keys() == FILES


def test_a_user_who_may_not_list_nodes_is_told_what_to_do(admin: Admin, tools: Tools):
    tools.say("broken-kubectl-get")
    ended = admin("prepare")
    assert "reason: Error: something odd\n" in ended.err
    assert "hint: use a kubeconfig that may list nodes, or give certificates\n" in ended.err


def test_a_new_name_makes_a_new_server_certificate_and_loses_nothing(admin: Admin):
    admin.succeed("prepare", "--host", "a.example")
    before = files(admin.folder)
    ended = admin.succeed("prepare", "--host", "b.example")
    assert names(admin) == ("b.example", "a.example", "10.0.0.7", "localhost", "127.0.0.1")
    [aside] = (admin.folder / "certs").glob("replaced-*")
    assert (aside / "server.key").read_bytes() == before["certs/server.key"]
    assert f"certs: what is replaced is now in {aside}" in ended.err
    assert files(admin.folder)["certs/ca.key"] == before["certs/ca.key"]


def test_a_new_node_is_told(admin: Admin, tools: Tools):
    admin.succeed("prepare")
    tools.add_node("10.0.0.8")
    ended = admin.succeed("prepare")
    assert "certs/server.crt: kept; it is not for 10.0.0.8 (`knit admin renew-certs`" in ended.err
    assert "10.0.0.8" not in names(admin)


def write_pair(admin: Admin, name: str, pair: Pair) -> tuple[str, str]:
    admin.knit.write(f"{name} crt", pair.certificate)
    admin.knit.write(f"{name} key", pair.key)
    return f"{name} crt", f"{name} key"


def test_given_certificates_are_copied_as_they_are(admin: Admin):
    mine = made(name="mine")
    server = certificates.new_server(mine, ["knit.example.com", "10.0.0.7"])
    ca, ca_key = write_pair(admin, "ca", mine)
    crt, key = write_pair(admin, "server", server)
    flags = ("--tls-ca-cert", ca, "--tls-ca-key", ca_key, "--tls-cert", crt, "--tls-key", key)
    ended = admin.succeed("prepare", *flags)
    found = files(admin.folder)
    assert found["certs/ca.crt"] == mine.certificate
    assert found["certs/ca.key"] == mine.key
    assert found["certs/server.crt"] == server.certificate
    assert found["certs/server.key"] == server.key
    assert "certs/server.crt and .key: copied" in ended.err


@pytest.mark.parametrize("form", ["TLS_CA_CERT TLS_CA_KEY", "TLSCACERT TLSCAKEY"])
def test_a_given_authority_signs_the_server_certificate(admin: Admin, form):
    """The guide's names work, too."""
    mine = made(name="mine")
    admin.knit.variables.update(zip(form.split(), write_pair(admin, "ca", mine), strict=True))
    ended = admin.succeed("prepare", "--host", "knit.example.com")
    assert names(admin) == ("knit.example.com", "10.0.0.7", "localhost", "127.0.0.1")
    certificates.check_signed_by(files(admin.folder)["certs/server.crt"], mine.certificate)
    assert "made for knit.example.com, 10.0.0.7, signed by the given CA" in ended.err


def test_a_public_certificate_needs_no_authority(admin: Admin):
    server = certificates.new_server(made(), ["knit.example.com", "10.0.0.7"])
    crt, key = write_pair(admin, "server", server)
    admin.succeed("prepare", "--tls-cert", crt, "--tls-key", key)
    assert "certs/ca.crt" not in files(admin.folder)
    admin.succeed("prepare")


def test_a_given_server_certificate_keeps_the_authority_that_signed_it(admin: Admin):
    admin.succeed("prepare")
    found = files(admin.folder)
    server = certificates.new_server(
        Pair(found["certs/ca.crt"], found["certs/ca.key"]), ["other.example"]
    )
    crt, key = write_pair(admin, "server", server)
    ended = admin.succeed("prepare", "--tls-cert", crt, "--tls-key", key)
    assert files(admin.folder)["certs/ca.key"] == found["certs/ca.key"]
    assert "it is not for 10.0.0.7" in ended.err


def test_certificates_that_do_not_fit_are_refused_before_anything_is_written(admin: Admin):
    mine, other = made(name="mine"), made(name="other")
    server = certificates.new_server(mine, ["a.example"])
    ca, ca_key = write_pair(admin, "ca", mine)
    other_ca, other_key = write_pair(admin, "other", other)
    crt, key = write_pair(admin, "server", server)
    cases = [
        (["--tls-cert", crt], "a server certificate and its key belong together"),
        (["--tls-ca-key", ca_key], "the key of a CA and its certificate belong together"),
        (["--tls-ca-cert", ca], "the CA certificate alone is of no use"),
        (
            ["--tls-cert", crt, "--tls-key", other_key],
            "the server key is not the key of the server",
        ),
        (["--tls-ca-cert", ca, "--tls-ca-key", other_key], "the CA key is not the key of the CA"),
        (
            ["--tls-ca-cert", other_ca, "--tls-cert", crt, "--tls-key", key],
            "the CA CN=other did not sign the server certificate",
        ),
        (["--tls-cert", "none", "--tls-key", key], "cannot read"),
        (["--no-tls", "--tls-cert", crt, "--tls-key", key], "--no-tls and certificates exclude"),
    ]
    for flags, words in cases:
        ended = admin("prepare", *flags)
        assert ended.code == 1, flags
        assert words in ended.err
        assert not (admin.folder / "certs" / "server.crt").exists()


def test_without_tls_certificates_go_aside_and_that_is_remembered(admin: Admin):
    admin.succeed("prepare")
    before = files(admin.folder)
    ended = admin.succeed("prepare", "--no-tls")
    [aside] = (admin.folder / "certs").glob("replaced-*")
    assert (aside / "ca.key").read_bytes() == before["certs/ca.key"]
    assert f"without TLS; the certificates are now in {aside}" in ended.err
    assert "API and registry will speak plain HTTP" in ended.err
    admin.succeed("prepare")
    assert not (admin.folder / "certs" / "server.crt").exists()


def test_a_folder_with_half_a_pair_is_told(admin: Admin):
    admin.succeed("prepare")
    (admin.folder / "certs" / "server.key").unlink()
    ended = admin("prepare")
    assert "error: the server certificate cannot be used\n" in ended.err
    (admin.folder / "certs" / "server.crt").unlink()
    (admin.folder / "certs" / "ca.key").unlink()
    ended = admin("prepare")
    assert "error: no server certificate can be made\n" in ended.err
    assert "ca.key is missing\n" in ended.err


def test_a_folder_whose_certificate_has_another_key_is_told(admin: Admin):
    admin.succeed("prepare")
    key = certificates.new_server(made(), ["a.example"]).key
    (admin.folder / "certs" / "server.key").write_bytes(key)
    ended = admin("prepare")
    assert "error: the certificates cannot be used\n" in ended.err
    assert "let `knit admin renew-certs` make new ones" in ended.err


# --- the rest ---


@pytest.mark.parametrize("form", [".dockerconfigjson={}", "{}"])
def test_a_secret_to_pull_images_is_kept_as_a_manifest(admin: Admin, form):
    logins = json.dumps({"auths": {"r.example": {"auth": "c2VjcmV0"}}})
    path = admin.knit.write("my docker.json", logins)
    admin.knit.variables["PULL_SECRET"] = form.format(path)
    ended = admin.succeed("prepare")
    manifest = yaml.safe_load(admin.text("knit-image-registry-secret.yaml"))
    assert manifest["type"] == "kubernetes.io/dockerconfigjson"
    assert manifest["metadata"]["name"] == "knit-regcred"
    assert "knit-image-registry-secret.yaml: written" in ended.err
    assert "knit-image-registry-secret.yaml" not in admin.succeed("prepare").err


def test_what_has_no_logins_is_no_such_secret(admin: Admin):
    for content in ("{", "[]", '{"auths": {}}'):
        path = admin.knit.write("docker.json", content)
        admin.knit.variables["PULL_SECRET"] = str(path)
        ended = admin("prepare")
        assert "is no configuration file of docker with logins (PULL_SECRET)" in ended.err
    admin.knit.variables["PULL_SECRET"] = "none"
    assert "none (PULL_SECRET)" in admin("prepare").err


@pytest.mark.parametrize(
    "url",
    [
        "knit.example.com",
        "https://knit.example.com",
        "ftp://a/api",
        "https://[/api",
        "http://a b/api",
        "https://me:secret@a/api",
        "https://a/api?x=/api",
    ],
)
def test_what_is_no_address_of_an_api_is_refused(admin: Admin, url):
    ended = admin("prepare", "--api-root", url)
    assert ended.code == 1
    assert "is not the address of an API" in ended.err


def test_an_address_for_users_is_kept(admin: Admin):
    ended = admin.succeed("prepare", "--no-tls", "--api-root", "https://knit.example.com/api")
    assert admin.text("api-root") == "https://knit.example.com/api\n"
    assert "the address in the handouts" in ended.err


def test_a_host_that_is_none_is_refused(admin: Admin):
    ended = admin("prepare", "--host", "https://a.example")
    assert "neither a host name nor an IP address" in ended.err
    assert "hint: correct it (--host)\n" in ended.err


def test_a_place_that_cannot_be_written_is_told(admin: Admin):
    admin.knit.write("file", "")
    ended = admin("prepare", "-s", "file/inside")
    assert ended.code == 1
    assert f"error: cannot read {admin.knit.cwd}/file/inside/namespace\n" in ended.err


def test_a_settings_file_that_is_no_text_is_told(admin: Admin):
    admin.succeed("prepare")
    (admin.folder / "api-root").write_bytes(b"\xff")
    assert "api-root is not text in UTF-8" in admin("handout").err


def test_two_at_once_are_one_too_many(admin: Admin):
    from knit_cli.admin.folder import SettingsFolder

    admin.succeed("prepare")
    with SettingsFolder(admin.folder).sole_user():
        ended = admin("prepare")
    assert ended.code == 1
    assert "another `knit admin` is at work with this settings folder" in ended.err


def test_every_other_command_needs_a_folder(admin: Admin):
    for command in (
        "install",
        "upgrade",
        "status",
        "doctor",
        "handout",
        "renew-certs",
        "uninstall",
    ):
        ended = admin(command)
        assert ended.code == 1, command
        assert f"there is no settings folder at {admin.folder}" in ended.err
        assert not admin.folder.exists()
