"""Checks of the cluster: rights, releases, what runs, and what knit finds from within."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from knit_cli.admin import charts, workloads
from knit_cli.admin.cluster import Cluster, documents
from knit_cli.admin.doctor.findings import Finding, ok, problem, unknown, warning, words
from knit_cli.admin.doctor.temporal_checks import findings_of
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm import releases
from knit_cli.admin.helm.values import value_at
from knit_cli.errors import CliError

_API: Final = "deployment/knit-api"
_SKEW: Final = timedelta(seconds=5)
_RIGHTS: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("", "secrets", ("create", "get", "list", "patch", "delete")),
    ("", "configmaps", ("create", "patch")),
    ("", "services", ("create", "patch")),
    ("", "serviceaccounts", ("create",)),
    ("", "persistentvolumeclaims", ("create", "get", "delete")),
    ("", "pods", ("list", "create", "delete")),
    ("apps", "deployments", ("create", "get", "list", "patch", "delete")),
    ("batch", "jobs", ("create", "get", "delete")),
    ("rbac.authorization.k8s.io", "roles", ("create", "patch")),
    ("rbac.authorization.k8s.io", "rolebindings", ("create", "patch")),
    ("networking.k8s.io", "networkpolicies", ("create", "patch")),
    ("policy", "poddisruptionbudgets", ("create", "patch")),
)
"""What an installation needs in its namespace: group, resource, verbs."""


def check_rights(folder: SettingsFolder, cluster: Cluster) -> Iterator[Finding]:
    """Whether the kubeconfig's user may do what an installation needs, here and cluster-wide.

    Outside are nodes, whose addresses are in the certificate, and what charts make there, if any.
    """
    inside = [(cluster.namespace, *one) for one in _RIGHTS]
    outside = [("", *one) for one in _outside(folder)]
    asked = [(*one[:3], verb) for one in (*inside, *outside) for verb in one[3]]
    reviews = [_review(*one) for one in asked]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    try:
        printed = cluster.kubectl("create", "--filename", "-", "--output", "json", given=given)
    except CliError as error:
        yield unknown("rights", words(error), error.advice or "check the kubeconfig")
        return
    answers = [item for one in documents(printed) for item in one.get("items", [one])]
    missing = [
        (namespace, f"{verb} {resource}")
        for (namespace, _, resource, verb), answer in zip(asked, answers, strict=True)
        if not answer.get("status", {}).get("allowed")
    ]
    if within := [text for namespace, text in missing if namespace]:
        yield problem(
            "rights",
            f"not allowed in namespace {cluster.namespace}: {', '.join(within)}",
            "use a kubeconfig with these rights, or have them granted by a Role",
        )
    if beyond := [text for namespace, text in missing if not namespace]:
        yield problem(
            "rights",
            f"not allowed outside the namespace: {', '.join(beyond)}",
            "have them granted by a ClusterRole; docs/how-to/install-on-a-cluster.md says how to "
            "do without them",
        )
    if not missing:
        yield ok("rights", f"all that an installation needs in namespace {cluster.namespace}")


def _outside(folder: SettingsFolder) -> Iterator[tuple[str, str, Sequence[str]]]:
    yield ("", "nodes", ("list",))
    if charts.STORAGE in charts.chosen(folder):
        yield ("storage.k8s.io", "storageclasses", ("create", "get", "patch", "delete"))
    try:
        makes_class = value_at(folder, charts.APP, "runs", "priorityClass", "create")
    except CliError:  # the installation says what is wrong with the file
        return
    if makes_class:
        yield ("scheduling.k8s.io", "priorityclasses", ("create", "get", "patch", "delete"))


def check_releases(folder: SettingsFolder, cluster: Cluster) -> Iterator[Finding]:
    """Whether each chart of the folder is installed, and what it runs is ready."""
    try:
        found = releases.find_releases(cluster)
        running = workloads.find_workloads(cluster, charts.chosen(folder))
    except CliError as error:
        yield unknown("releases", words(error), error.advice or "check the kubeconfig")
        return
    for chart in charts.chosen(folder):
        release = found.get(chart)
        if release is None:
            yield problem(chart, "it is not installed", "knit admin install")
        elif release.status != "deployed":
            yield problem(chart, f"its release is {release.status}", "repeat knit admin install")
        else:
            late = [one for one in running if one.release == chart and not one.is_ready]
            for one in late:
                text = f"{one.name}: {one.ready} of {one.wanted} ready"
                trouble = f"; {one.trouble}" if one.trouble else ""
                cure = f"kubectl -n {cluster.namespace} describe {one.kind.lower()} {one.name}"
                yield problem(chart, text + trouble, cure)
            if not late:
                yield ok(chart, f"deployed, revision {release.revision}, all ready")


def check_inside(cluster: Cluster) -> Iterator[Finding]:
    """What a pod of the API finds of database, Temporal and its clock."""
    began = datetime.now(UTC)
    command = ("python3", "-m", "knit_workflows.examination")
    try:
        printed = cluster.kubectl("exec", _API, "--container", "api", "--", *command)
        findings = list(_from_inside(json.loads(printed), began))
    except (CliError, ValueError, KeyError, TypeError) as error:
        odd = "the pod answers in another form: is it of this version?"
        text = words(error) if isinstance(error, CliError) else odd
        cure = f"see why: kubectl -n {cluster.namespace} logs {_API}; then knit admin upgrade"
        yield unknown("inside", text, cure)
        return
    yield from findings


def _from_inside(found: dict[str, Any], began: datetime) -> Iterator[Finding]:
    clock = datetime.fromisoformat(found["clock"])
    yield _clock(clock, began, datetime.now(UTC))
    if "problem" in found:
        yield problem("settings", found["problem"], "correct `settings` in values/knit-app.yaml")
        return
    yield from _database(found["database"])
    yield from findings_of(found["temporal"])


def _database(found: dict[str, Any]) -> Iterator[Finding]:
    if "problem" not in found:
        yield ok("database", "it answers, and has the tables of this version")
        return
    revision = "revision" in found["problem"]
    cure = "knit admin upgrade" if revision else found.get("advice") or "look at the database's log"
    yield problem("database", found["problem"], cure)


def _clock(inside: datetime, began: datetime, ended: datetime) -> Finding:
    skew = max(began - inside, inside - ended, timedelta())
    if skew > _SKEW:
        return warning(
            "clock",
            f"this machine's clock and the cluster's differ by {skew.total_seconds():.0f} s",
            "have both set by NTP: tokens and certificates depend on the time",
        )
    return ok("clock", "this machine's clock and the cluster's agree")


def _review(namespace: str, group: str, resource: str, verb: str) -> dict[str, Any]:
    attributes = {"group": group, "resource": resource, "verb": verb}
    if namespace:
        attributes["namespace"] = namespace
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
