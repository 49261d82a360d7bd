from __future__ import annotations

import certifi
import pytest

from knit_workflows.compute.kubernetes.api.credentials import of_kubeconfig, of_service_account
from knit_workflows.domain.errors import BackendRejected

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def account(tmp_path):
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").symlink_to(certifi.where())
    return tmp_path


async def test_a_pod_is_who_its_service_account_is(account):
    found = of_service_account(POD, account)
    assert found.server == "https://10.0.0.1:443"
    assert found.tls.check_hostname
    assert len(found.tls.get_ca_certs()) > 1
    assert await found.authorization() == "Bearer first"


async def test_a_token_that_was_rotated_is_used_at_once(account):
    found = of_service_account(POD, account)
    (account / "token").write_text("second")
    assert await found.authorization() == "Bearer second"


async def test_a_server_on_ipv6_is_in_brackets(account):
    found = of_service_account(POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
    assert found.server == "https://[fd00::1]:443"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
def test_a_pod_without_an_account_is_told_what_to_do(account, missing):
    (account / missing).unlink()
    with pytest.raises(BackendRejected) as refused:
        of_service_account(POD, account)
    assert "no credentials for the cluster" in refused.value.reason
    assert "KNIT_COMPUTE__KUBERNETES__KUBECONFIG" in refused.value.advice


@pytest.mark.parametrize("variable", POD)
def test_outside_of_pods_there_is_no_account(account, variable):
    with pytest.raises(BackendRejected, match="runs in no pod"):
        of_service_account({**POD, variable: ""}, account)


async def test_a_kubeconfig_that_is_missing_or_damaged_is_said(tmp_path):
    path = tmp_path / "kubeconfig"
    with pytest.raises(BackendRejected, match="no credentials for the cluster"):
        await of_kubeconfig(path)
    for text in ("", "kind: [", "- 1", "kind: Config\nusers: 7"):
        path.write_text(text)
        with pytest.raises(BackendRejected, match="no credentials for the cluster"):
            await of_kubeconfig(path)
    path.write_text("kind: Config")
    with pytest.raises(BackendRejected, match="no credentials for the cluster"):
        await of_kubeconfig(path)


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: "https://server/", tls-server-name: other, CHECK}}]
users: [{name: it, user: {token: secret}}]
"""


async def test_a_kubeconfig_says_whom_to_trust(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.replace("CHECK", f"certificate-authority: {certifi.where()}"))
    found = await of_kubeconfig(path)
    assert (found.server, found.server_name) == ("https://server", "other")
    assert found.tls.check_hostname
    assert await found.authorization() == "Bearer secret"
    path.write_text(KUBECONFIG.replace("CHECK", "insecure-skip-tls-verify: true"))
    assert not (await of_kubeconfig(path)).tls.check_hostname
