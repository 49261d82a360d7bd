"""The token with which the log of a Plan's own account is read ends with the Job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knit_workflows import names
from knit_workflows.compute.base import Mount, RunPod
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.compute.kubernetes.specs.manifests import LABEL_INSTANCE
from knit_workflows.domain.errors import BackendUnavailable, QuotaExceeded
from knit_workflows.domain.volumes import Volume
from tests.unit.compute.kubernetes.conftest import FakeApiServer

OUT = Volume("data-knitid-bb", "bb")
READ = RunPod(
    name="knit-run-1",
    run_id="r1",
    generation=1,
    plan_id="p1",
    image="demo:1",
    inputs=(),
    outputs=(Mount("/out", OUT),),
    log=Volume("data-knitid-cc", "cc"),
    service_account="trainer",
)


async def test_a_token_is_asked_for_that_ends_with_the_job(
    api: FakeApiServer, backend: KubernetesBackend
) -> None:
    """Also by who finds the Job that a killed worker has made; what is there is not changed."""
    for _ in range(2):
        await backend.launch(READ)
    job = api.objects["jobs", READ.name]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": READ.name}
    secrets = {name: one for (kind, name), one in api.objects.items() if kind == "secrets"}
    assert set(secrets) == {f"{READ.name}-log", f"{READ.name}-log-token"}
    for one in secrets.values():
        assert one["metadata"]["ownerReferences"] == [owner | {"uid": job["metadata"]["uid"]}]
    assert "stringData" not in secrets[f"{READ.name}-log"]
    assert secrets[f"{READ.name}-log-token"]["stringData"] == {"token": "token of knit-nurse"}
    bound = {"apiVersion": "v1", "kind": "Secret", "name": f"{READ.name}-log"}
    assert [one["spec"]["boundObjectRef"] for one in api.tokens] == [bound, bound]
    assert all(one["spec"]["expirationSeconds"] <= 30 * 24 * 3600 for one in api.tokens)


@pytest.mark.parametrize(
    "pod",
    [
        replace(READ, log=None),
        replace(READ, service_account=None),
        replace(READ, entrypoint=("true",)),
    ],
)
async def test_no_other_pod_has_a_secret(
    api: FakeApiServer, backend: KubernetesBackend, pod: RunPod
) -> None:
    await backend.launch(pod)
    assert not api.tokens
    assert {kind for kind, _ in api.objects} == {"jobs"}


async def test_a_quota_that_is_full_of_the_secrets_themselves_keeps_no_pod_that_has_begun(
    api: FakeApiServer, backend: KubernetesBackend
) -> None:
    """Nobody here may look whether they are there; a pod that has begun has them."""
    await backend.launch(READ)
    full = (403, 'secrets "x" is forbidden: exceeded quota: q, requested: secrets=1')
    api.answers_to = {
        "POST secrets": full,
        **{f"GET secrets/{READ.name}-{end}": (403, "no") for end in ("log", "log-token")},
    }
    labels = {LABEL_INSTANCE: READ.name, names.LABEL_RUN: READ.run_id}
    pod = {"metadata": {"name": "p", "labels": labels}, "status": {"phase": "Pending"}}
    api.put("pods", pod)
    with pytest.raises(QuotaExceeded):
        await backend.launch(READ)
    pod["status"]["phase"] = "Running"
    api.put("pods", pod)
    await backend.launch(READ)


@pytest.mark.parametrize(("status", "said"), [(403, "forbidden"), (404, "not found")])
async def test_a_token_that_is_refused_is_waited_for(
    api: FakeApiServer, backend: KubernetesBackend, status: int, said: str
) -> None:
    """Roles may be of an earlier chart; the pod waits, and the Run says for what."""
    api.answers_to = {"POST serviceaccounts/knit-nurse/token": (status, f"it is {said}")}
    with pytest.raises(BackendUnavailable, match=f"knit-nurse: .*{said}") as refused:
        await backend.launch(READ)
    assert "python -m knit_workflows.compute.kubernetes" in refused.value.advice
    api.answers_to.clear()
    await backend.launch(READ)
    assert ("secrets", f"{READ.name}-log-token") in api.objects
