"""What each service account of knit-app may do, asked of the real API server."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.charts.helm import CHARTS, Helm
from tests.charts.node import Node, start_node
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
VALUES: Final = CHARTS / "knit-app" / "ci" / "production-values.yaml"
ACCESS: Final = (
    "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding",
)  # fmt: skip

_SEES: Final = {"pods": "get list watch", "events": "list watch"}
_FILLS: Final = {"persistentvolumeclaims": "get create patch", "secrets": "create"}
_ENDS: Final = {"pods": "get list watch create delete deletecollection", "jobs.batch": "get delete"}
_TRANSFERS: Final = {**_SEES, **_ENDS, **_FILLS}
ALLOWED: Final[dict[str, dict[str, str]]] = {
    "knit-api": {},
    "knit-jobs": {},
    "knit-worker-engine": {},
    "knit-worker-hooks": {},
    "knit-worker-watch": {
        "pods": "get list watch deletecollection",
        "events": "list watch",
        "jobs.batch": "get delete",
        "persistentvolumeclaims": "get patch",
    },
    "knit-worker-interactive": _TRANSFERS,
    "knit-worker-backup": _TRANSFERS,
    "knit-worker-compute": {
        **_TRANSFERS,
        "jobs.batch": "get list create delete",
        "persistentvolumeclaims": "get list create patch delete",
        "serviceaccounts/token[knit-nurse]": "create",
        "storageclasses.storage.k8s.io": "get list",
    },
    "knit-nurse": {"pods": "get list watch", "pods/log": "get"},
    "knit-worker-expander": {
        "pods": "list",
        "persistentvolumeclaims": "get patch",
        "nodes/proxy": "get",
    },
}
"""The allow-list: verbs by resource. A right more, or less, is a decision to be made here."""

BEYOND: Final = {
    "knit-worker-expander": {"nodes/proxy"},
    "knit-worker-compute": {"storageclasses.storage.k8s.io"},
}
"""Of these, what is not of the namespace."""


@pytest.fixture(scope="module")
def node() -> Node:
    return start_node()


@pytest.fixture(scope="module")
def installed(
    node: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, set[str]]]:
    """A namespace with all that the chart says about rights; gives the accounts too."""
    namespace = f"knit-rights-{uuid.uuid4().hex[:8]}"
    node.make_namespace(namespace)
    folder: Path = tmp_path_factory.mktemp("helm")
    helm = Helm("helm-3", folder, kubeconfig=node.kubeconfig, namespace=namespace)
    found = [one for one in helm.render("knit-app", "--values", VALUES) if one["kind"] in ACCESS]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    node.kubectl("create", "-f", "-", input=text)
    accounts = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    yield namespace, accounts
    node.kubectl("delete", "-f", "-", "--wait=false", input=text)
    node.kubectl("delete", "namespace", namespace, "--wait=false")


def rights(node: Node, namespace: str, account: str) -> set[tuple[str, str]]:
    """What `kubectl auth can-i --list` says, as (resource, verb)."""
    caller = f"--as=system:serviceaccount:{namespace}:{account}"
    listed = node.kubectl("auth", "can-i", "--list", "--no-headers", "-n", namespace, caller).stdout
    found = set()
    for line in listed.splitlines():
        resource, _, rest = line.partition(" ")
        *named, verbs = re.findall(r"\[([^\]]*)\]", rest)
        if named[1:] and named[1]:  # only of objects with these names
            resource += f"[{named[1]}]"
        if resource:  # else it is about URLs
            found |= {(resource, verb) for verb in verbs.split()}
    return found


def test_every_account_may_do_what_is_on_the_list_and_nothing_else(
    node: Node, installed: tuple[str, set[str]]
) -> None:
    """Beyond what an account without any role may do, which is to ask about itself."""
    namespace, accounts = installed
    assert accounts == ALLOWED.keys()
    anybody = rights(node, namespace, "default")
    assert all("self" in resource for resource, _ in anybody), anybody
    for account in sorted(accounts):
        wanted = {
            (resource, verb)
            for resource, verbs in ALLOWED[account].items()
            for verb in verbs.split()
        }
        # The authorizer hears of roles a moment after they have been made.
        ends = time.monotonic() + PATIENCE
        while (found := rights(node, namespace, account) - anybody) != wanted:
            assert time.monotonic() < ends, f"{account}: {found ^ wanted}"
            time.sleep(0.5)


def test_no_right_reaches_another_namespace(node: Node, installed: tuple[str, set[str]]) -> None:
    """But that of the expander, which asks kubelets, and a look at StorageClasses, if it is set."""
    namespace, accounts = installed
    for account in sorted(accounts):
        caller = f"system:serviceaccount:{namespace}:{account}"
        elsewhere = node.kubectl(
            "auth", "can-i", "--list", "--no-headers", "-n", "default", f"--as={caller}"
        ).stdout
        named = {line.split()[0] for line in elsewhere.splitlines() if not line.startswith(" ")}
        beyond = {one for one in named if "self" not in one}
        assert beyond == BEYOND.get(account, set()), account
